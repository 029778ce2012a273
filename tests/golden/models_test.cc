// Tiny models of every family against transformers, and against themselves cut up in every
// way.
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "shared/testing/npy.h"
#include "tests/golden/model_fixture.h"

namespace tutti::golden {
namespace {

// Tolerances are those of the golden data (tests/golden/README.md): transformers itself moves by
// 2e-5 between its attention implementations, and by 3.1e-5 between prefill and decode.
constexpr double kLogits = 2e-4, kHidden = 2e-4, kHiddenRelative = 1e-4, kLoss = 1e-4;
constexpr int kGreedyTokens = 32;

class GoldenModelTest : public ::testing::TestWithParam<std::string> {
 protected:
  GoldenModel golden_ = LoadGolden(GetParam());

  std::optional<testing::NpyArray<float>> Array(size_t prompt, const std::string& what) const {
    const std::string path =
        golden_.golden_dir + "/prompt" + std::to_string(prompt) + "." + what + ".npy";
    auto array = testing::ReadNpyF32(path);
    if (absl::IsNotFound(array.status())) return std::nullopt;
    EXPECT_TRUE(array.ok()) << array.status();
    if (!array.ok()) return std::nullopt;
    return *std::move(array);
  }
};

TEST_P(GoldenModelTest, LogitsAndHiddenStatesAgreeWithTransformers) {
  const auto model = LoadOrDie(golden_.model_dir, DType::kF32);
  const int64_t hidden = model->info().hidden_size;
  int arrays = 0;
  for (size_t i = 0; i < golden_.prompts.size(); ++i) {
    const std::vector<int32_t>& ids = golden_.prompts[i].ids;
    std::vector<std::vector<float>> states;
    model->set_observer(
        [&](int, std::span<const float> x) { states.emplace_back(x.begin(), x.end()); });
    const auto sequence =
        model::SingleSequence::Create(model.get(), static_cast<int64_t>(ids.size()));
    ASSERT_TRUE(sequence.ok()) << sequence.status();
    (*sequence)->set_want_hidden(true);
    const auto logits = (*sequence)->Append(ids, static_cast<int32_t>(ids.size()));
    ASSERT_TRUE(logits.ok()) << logits.status();
    states.back().assign((*sequence)->hidden().begin(), (*sequence)->hidden().end());

    if (const auto want = Array(i, "logits")) {
      EXPECT_LE(MaxAbsDiff(*logits, want->values), kLogits) << "prompt " << i;
      ++arrays;
    }
    if (const auto want = Array(i, "last_hidden")) {
      EXPECT_LE(MaxAbsDiff((*sequence)->hidden(), want->values), kHidden) << "prompt " << i;
      ++arrays;
    }
    if (const auto want = Array(i, "hidden_states")) {
      const size_t layer_size = ids.size() * static_cast<size_t>(hidden);
      ASSERT_EQ(want->values.size(), states.size() * layer_size);
      for (size_t layer = 0; layer < states.size(); ++layer) {
        for (size_t e = 0; e < layer_size; ++e) {
          const double expected = want->values[layer * layer_size + e];
          ASSERT_NEAR(states[layer][e], expected, kHidden + kHiddenRelative * std::fabs(expected))
              << "prompt " << i << " layer " << layer << " element " << e;
        }
      }
      ++arrays;
    }
  }
  EXPECT_GE(arrays, 6) << "the golden arrays are missing";
}

TEST_P(GoldenModelTest, LossAndGreedyTokensAreThoseOfTransformers) {
  const auto model = LoadOrDie(golden_.model_dir, DType::kF32);
  const size_t vocab = static_cast<size_t>(model->info().vocab_size);
  for (size_t i = 0; i < golden_.prompts.size(); ++i) {
    const GoldenPrompt& prompt = golden_.prompts[i];
    EXPECT_EQ(Greedy(*model, prompt.ids, kGreedyTokens), prompt.greedy) << "prompt " << i;
    if (!prompt.has_loss) continue;
    const std::vector<float> logits = ChunkedLogits(*model, prompt.ids, 64);
    double sum = 0;
    for (size_t t = 0; t + 1 < prompt.ids.size(); ++t) {
      const float* row = logits.data() + t * vocab;
      sum +=
          kernels::Kernels().log_sum_exp(row, static_cast<int64_t>(vocab)) - row[prompt.ids[t + 1]];
    }
    EXPECT_NEAR(sum / static_cast<double>(prompt.ids.size() - 1), prompt.loss, kLoss)
        << "prompt " << i;
  }
}

TEST_P(GoldenModelTest, HowAPromptIsCutIntoSlicesChangesNoBit) {
  for (const DType kv : {DType::kF16, DType::kF32}) {
    const auto model = LoadOrDie(golden_.model_dir, kv);
    const std::vector<int32_t>& ids = golden_.prompts.back().ids;
    const std::vector<float> whole = ChunkedLogits(*model, ids, static_cast<int32_t>(ids.size()));
    EXPECT_TRUE(SameBits(whole, ChunkedLogits(*model, ids, 1))) << "one by one";
    EXPECT_TRUE(SameBits(whole, ChunkedLogits(*model, ids, 7))) << "chunks of 7";
    EXPECT_TRUE(SameBits(whole, ChunkedLogits(*model, ids, 64))) << "chunks of 64";
  }
}

TEST_P(GoldenModelTest, TheRestOfTheBatchChangesNoBit) {
  // Given each prompt's logits alone,
  const auto model = LoadOrDie(golden_.model_dir, DType::kF16);
  const size_t vocab = static_cast<size_t>(model->info().vocab_size);
  kv_cache::PagePool pool(model->info().kv, 64);
  std::vector<std::vector<kv_cache::PageId>> pages;
  std::vector<model::SequenceSlice> slices;
  for (const GoldenPrompt& prompt : golden_.prompts) {
    std::vector<kv_cache::PageId>& own = pages.emplace_back();
    for (size_t t = 0; t < prompt.ids.size(); t += kv_cache::kPageTokens)
      own.push_back(*pool.Allocate());
  }
  for (size_t i = 0; i < pages.size(); ++i) {
    slices.push_back({.tokens = golden_.prompts[i].ids,
                      .first_pos = 0,
                      .pages = pages[i],
                      .num_logits = static_cast<int32_t>(golden_.prompts[i].ids.size())});
  }
  // when all are one step,
  model::StepOutput out;
  ASSERT_TRUE(model->Forward(slices, pool, &out).ok());
  // then each part of the output is what it was alone.
  size_t row = 0;
  for (const GoldenPrompt& prompt : golden_.prompts) {
    const std::vector<float> part(
        out.logits.begin() + static_cast<int64_t>(row * vocab),
        out.logits.begin() + static_cast<int64_t>((row + prompt.ids.size()) * vocab));
    EXPECT_TRUE(SameBits(part, ChunkedLogits(*model, prompt.ids, 130)));
    row += prompt.ids.size();
  }
}

TEST_P(GoldenModelTest, TheNumberOfThreadsChangesNoBit) {
  const auto alone = LoadOrDie(golden_.model_dir, DType::kF16);
  const std::vector<int32_t>& ids = golden_.prompts.back().ids;
  const std::vector<float> want = ChunkedLogits(*alone, ids, 130);
  for (const int threads : {2, 3}) {
    ThreadPool pool({.num_threads = threads});
    const auto model = LoadOrDie(golden_.model_dir, DType::kF16, &pool);
    EXPECT_TRUE(SameBits(want, ChunkedLogits(*model, ids, 130))) << threads << " threads";
    EXPECT_TRUE(SameBits(want, ChunkedLogits(*model, ids, 1))) << threads << " threads";
  }
}

TEST_P(GoldenModelTest, EveryInstructionSetGivesTheBitsOfTheReference) {
  const std::vector<int32_t>& ids = golden_.prompts[2].ids;
  ASSERT_TRUE(kernels::SelectIsa("reference").ok());
  const std::vector<float> want =
      ChunkedLogits(*LoadOrDie(golden_.model_dir, DType::kF16), ids, 33);
  for (const std::string_view isa : {"avx2", "avx512", "amx", "neon", "auto"}) {
    if (!kernels::SelectIsa(isa).ok()) continue;  // not on this machine
    EXPECT_TRUE(SameBits(want, ChunkedLogits(*LoadOrDie(golden_.model_dir, DType::kF16), ids, 33)))
        << isa;
  }
  ASSERT_TRUE(kernels::SelectIsa("auto").ok());
}

// Mixtures: what the routers decided.
TEST_P(GoldenModelTest, RoutersDecideAsThoseOfTransformers) {
  const auto model = LoadOrDie(golden_.model_dir, DType::kF32);
  if (model->config().num_moe_layers() == 0) GTEST_SKIP() << "no mixture";
  const moe::GatingOptions& gating = model->config().gating;
  const size_t k = static_cast<size_t>(gating.top_k);
  int arrays = 0;
  for (size_t i = 0; i < golden_.prompts.size(); ++i) {
    const std::vector<int32_t>& ids = golden_.prompts[i].ids;
    std::vector<float> logits, weights;
    std::vector<int32_t> chosen;
    model->set_routing_observer([&](const model::RoutingView& v) {
      logits.insert(logits.end(), v.logits.begin(), v.logits.end());
      weights.insert(weights.end(), v.weights.begin(), v.weights.end());
      chosen.insert(chosen.end(), v.ids.begin(), v.ids.end());
    });
    ChunkedLogits(*model, ids, static_cast<int32_t>(ids.size()));
    const auto rows = static_cast<int64_t>(chosen.size() / k);
    if (golden_.prompts[i].has_aux_loss) {
      EXPECT_NEAR(moe::LoadBalancingLoss(gating, rows, logits, chosen), golden_.prompts[i].aux_loss,
                  1e-4)
          << "prompt " << i;
    }
    const auto want_logits = Array(i, "router_logits"), want_weights = Array(i, "routing_weights");
    const auto want_chosen = testing::ReadNpyI32(golden_.golden_dir + "/prompt" +
                                                 std::to_string(i) + ".selected_experts.npy");
    if (!want_logits || !want_weights || !want_chosen.ok()) continue;
    ++arrays;
    EXPECT_LE(MaxAbsDiff(logits, want_logits->values), 2e-4) << "prompt " << i;
    // As sets of pairs: ours ascend by expert, theirs descend by weight.
    ASSERT_EQ(chosen.size(), want_chosen->values.size());
    for (size_t row = 0; row < chosen.size(); row += k) {
      std::map<int32_t, float> want;
      for (size_t j = row; j < row + k; ++j) want[want_chosen->values[j]] = want_weights->values[j];
      for (size_t j = row; j < row + k; ++j) {
        ASSERT_TRUE(want.contains(chosen[j])) << "prompt " << i << " row " << row / k;
        EXPECT_NEAR(weights[j], want[chosen[j]], 5e-5) << "prompt " << i << " row " << row / k;
      }
    }
  }
  EXPECT_GE(arrays, 2) << "the golden arrays are missing";
}

INSTANTIATE_TEST_SUITE_P(Families, GoldenModelTest, ::testing::ValuesIn(GoldenNames()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace tutti::golden
