// Mixtures that leave experts out (GShard's random second expert, a limit per expert: decision
// 0111) with their experts on shards: the recorded continuations of one process, bit for bit.
#include <gtest/gtest.h>

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "shared/rpc/clients/decoder_client.h"
#include "shared/testing/model_writer.h"
#include "tests/cluster/processes.h"
#include "tests/golden/exactness_cases.h"

namespace tutti::cluster {
namespace {

using golden::Recorded;

// What one sequence gave.
class Listener final : public rpc::DecodeListener {
 public:
  void OnTokens(wire::DecodedTokens tokens) override {
    std::lock_guard lock(mutex_);
    for (auto& t : tokens.tokens) outcome_.tokens.push_back(std::move(t));
  }
  void OnFinished(wire::DecodeFinished) override {}
  void OnClosed(absl::Status status) override {
    std::lock_guard lock(mutex_);
    closed_ = std::move(status);
    changed_.notify_all();
  }
  // Errors: the stream's; DEADLINE_EXCEEDED
  absl::StatusOr<Recorded> Wait() {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, std::chrono::seconds(300), [this] { return closed_.has_value(); }))
      return absl::DeadlineExceededError("the stream does not end");
    TUTTI_RETURN_IF_ERROR(*closed_);
    if (!outcome_.tokens.empty()) outcome_.digest = outcome_.tokens.back().digest;
    return golden::RecordOf(outcome_);
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  engine::Outcome outcome_;
  std::optional<absl::Status> closed_;
};

struct Topology {
  int shards = 0;
  std::vector<std::string> target_flags, expert_flags;
};

class MixturesTest : public ::testing::TestWithParam<std::string> {
 protected:
  // All requests at once from a target of its own, with so many shards.
  std::vector<absl::StatusOr<Recorded>> Ask(const Topology& topology) {
    const golden::ExactModel model = golden::FindModel(GetParam());
    const testing::TempDir dir;
    std::vector<std::unique_ptr<Child>> children;
    std::string addresses;
    const auto start = [&](const std::string& kind, const std::string& name,
                           std::vector<std::string> flags) {
      std::vector<std::string> argv = {TUTTI_BIN_DIR "/tutti-" + kind, "--model", model.path,
                                       "--listen", "unix:" + dir.path() + "/" + name};
      argv.insert(argv.end(), flags.begin(), flags.end());
      auto child = Child::Start(name, dir.path(), argv);
      EXPECT_TRUE(child.ok()) << child.status();
      if (child.ok()) children.push_back(*std::move(child));
    };
    for (int i = 0; i < topology.shards; ++i) {
      const std::string name = "e" + std::to_string(i);
      start("expert", name, topology.expert_flags);
      addresses += (i == 0 ? "" : ",") + ("unix:" + dir.path() + "/" + name);
    }
    std::vector<std::string> flags = {"--threads", "1", "--pages", "512"};
    if (topology.shards > 0) flags.insert(flags.end(), {"--experts", addresses});
    flags.insert(flags.end(), topology.target_flags.begin(), topology.target_flags.end());
    start("target", "t", flags);
    std::vector<absl::StatusOr<Recorded>> out;
    const auto client = rpc::DecoderClient::Create("unix:" + dir.path() + "/t", "target");
    EXPECT_TRUE(client.ok()) << client.status();
    const std::optional<wire::DecoderInfo> info = WaitForModel(client->get());
    EXPECT_TRUE(info.has_value()) << "the target does not come";
    if (!info) return out;
    model::ModelInfo shape;
    shape.vocab_size = info->vocab_size;
    std::vector<std::shared_ptr<Listener>> listeners;
    std::vector<std::shared_ptr<rpc::DecodeStream>> streams;
    for (const engine::SequenceRequest& r : golden::ExactRequests(shape, false)) {
      listeners.push_back(std::make_shared<Listener>());
      streams.push_back((*client)->Open({.request_id = "r" + std::to_string(r.id), .sequence = r},
                                        info->vocab_size, 300'000'000, listeners.back()));
    }
    for (const auto& listener : listeners) out.push_back(listener->Wait());
    return out;
  }

 private:
  static std::optional<wire::DecoderInfo> WaitForModel(rpc::DecoderClient* client) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(300);
    while (std::chrono::steady_clock::now() < end) {
      struct Answer {
        std::mutex mutex;
        std::condition_variable changed;
        std::optional<absl::StatusOr<wire::DecoderInfo>> info;
      };
      const auto answer = std::make_shared<Answer>();
      client->GetModel(20'000'000, [answer](absl::StatusOr<wire::DecoderInfo> info) {
        std::lock_guard lock(answer->mutex);
        answer->info = std::move(info);
        answer->changed.notify_all();
      });
      std::unique_lock lock(answer->mutex);
      answer->changed.wait(lock, [&] { return answer->info.has_value(); });
      if (answer->info->ok()) return **answer->info;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    return std::nullopt;
  }
};

TEST_P(MixturesTest, TheRecordedContinuationsComeOutOfEveryNumberOfShards) {
  const std::vector<Recorded> recorded = golden::LoadRecorded(GetParam());
  ASSERT_EQ(recorded.size(), 16u);
  const Topology topologies[] = {
      {.shards = 0},
      {.shards = 1},
      {.shards = 2},
      {.shards = 3},
      {.shards = 2, .target_flags = {"--local-experts", "3", "--expert-overlap-rows-shm", "2"}},
      {.shards = 2,
       .target_flags = {"--expert-overlap-rows", "2", "--prefill-chunk", "7"},
       .expert_flags = {"--no-shared-memory"}},
  };
  for (const Topology& t : topologies) {
    SCOPED_TRACE(std::to_string(t.shards) + " shards" +
                 (t.target_flags.empty() ? "" : ", " + t.target_flags[0]));
    const auto got = Ask(t);
    ASSERT_EQ(got.size(), recorded.size());
    for (size_t i = 0; i < got.size(); ++i) {
      ASSERT_TRUE(got[i].ok()) << got[i].status();
      EXPECT_EQ(got[i]->tokens, recorded[i].tokens) << "request " << i + 1;
      EXPECT_EQ(got[i]->logprob_bits, recorded[i].logprob_bits) << "request " << i + 1;
      EXPECT_EQ(got[i]->digest, recorded[i].digest) << "request " << i + 1;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Options, MixturesTest,
                         ::testing::Values("mixtral_second", "mixtral_capacity", "mixtral_both"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace tutti::cluster
