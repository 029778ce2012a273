// The recorded continuations of tests/golden, which one process gave, asked of a cluster.
#include <gtest/gtest.h>

#include "absl/strings/str_format.h"
#include "shared/base/hash.h"
#include "shared/model/load.h"
#include "tests/cluster/answers.h"
#include "tests/cluster/processes.h"
#include "tests/golden/exactness_cases.h"

namespace tutti::cluster {
namespace {

TEST(ClusterExactnessTest, EveryRecordedContinuationComesOutOfTheServicesBitForBit) {
  if (ModelPath().empty()) GTEST_SKIP() << "the real model is not on this machine";
  const std::vector<golden::Recorded> recorded = golden::LoadRecorded("smollm2");
  ASSERT_EQ(recorded.size(), 16u);
  model::ModelInfo info;
  info.vocab_size = 49152;
  const auto requests = golden::ExactRequests(info, true);
  // Small batches and a chunk of 7 on one target, so that the two differ in all that must not
  // matter.
  auto cluster =
      LocalCluster::Start({.target_flags = {"--prefill-chunk", "7", "--max-running", "5"}});
  ASSERT_TRUE(cluster.ok()) << cluster.status();
  auto stub = generation::v1::GenerationService::NewStub((*cluster)->Connect());
  for (size_t i = 0; i < requests.size(); ++i) {
    SCOPED_TRACE(i);
    const sampling::SamplingParams& p = requests[i].params;
    generation::v1::GenerateRequest r;
    r.mutable_token_ids()->mutable_ids()->Assign(requests[i].prompt.begin(),
                                                 requests[i].prompt.end());
    r.set_n(static_cast<int32_t>(p.sample_index) + 1);  // the recorded one is the last choice
    auto* s = r.mutable_sampling();
    s->set_seed(p.seed);
    s->set_temperature(p.temperature);
    s->set_top_k(p.top_k);
    s->set_top_p(p.top_p);
    s->set_min_p(p.min_p);
    s->set_typical_p(p.typical_p);
    s->set_repetition_penalty(p.repetition_penalty);
    s->set_presence_penalty(p.presence_penalty);
    s->set_frequency_penalty(p.frequency_penalty);
    s->set_no_repeat_ngram_size(p.no_repeat_ngram_size);
    s->set_max_tokens(p.max_tokens);
    s->set_min_tokens(p.min_tokens);
    s->set_ignore_eos(p.ignore_eos);
    s->set_logprobs(p.logprobs);
    for (const auto& [id, bias] : p.logit_bias) {
      auto* b = s->add_logit_bias();
      b->set_token_id(id);
      b->set_bias(bias);
    }
    const Answer a = Generate(stub.get(), r);
    ASSERT_TRUE(a.status.ok()) << a.status.error_message() << (*cluster)->Logs();
    const Choice& c = a.choices.at(p.sample_index);
    std::string bits;
    for (const uint32_t b : c.logprob_bits) bits += absl::StrFormat("%08x", b);
    EXPECT_EQ(c.ids, recorded[i].tokens);
    EXPECT_EQ(bits, recorded[i].logprob_bits);
    EXPECT_EQ(Hex64(c.finished->digest()), recorded[i].digest);
  }
}

}  // namespace
}  // namespace tutti::cluster
