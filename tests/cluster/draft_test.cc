// Drafts that run ahead of a target: the tokens, logprob bits and digests of a run without one,
// whoever guesses, and whatever happens to him.
#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "shared/testing/model_writer.h"
#include "shared/weights/model_files.h"
#include "tests/cluster/answers.h"
#include "tests/cluster/late_relay.h"
#include "tests/cluster/processes.h"

namespace tutti::cluster {
namespace {

using generation::v1::GenerateRequest;
using generation::v1::GenerateResponse;
using generation::v1::GenerationService;

constexpr int kChoices = 3, kTokens = 48;

// A batch of nine sequences: three choices of each, one at temperature 0.
std::vector<GenerateRequest> Batch() {
  std::vector<GenerateRequest> requests;
  const auto add = [&](const char* text, float temperature) {
    GenerateRequest r;
    r.set_text(text);
    r.set_n(temperature == 0 ? 1 : kChoices);
    r.mutable_sampling()->set_seed(1234567890123456789u);
    r.mutable_sampling()->set_temperature(temperature);
    r.mutable_sampling()->set_max_tokens(kTokens);
    r.mutable_sampling()->set_ignore_eos(true);
    r.mutable_sampling()->set_logprobs(0);
    requests.push_back(std::move(r));
  };
  add("Once upon a time, in a small village by the sea,", 0.0f);
  add("Once upon a time, in a small village by the sea,", 0.8f);
  add("The three most important inventions of the last century are", 0.8f);
  add("def fibonacci(n):\n", 0.0f);
  return requests;
}

// The same tensors, but the quantised weights of those whose name begins with `prefix` are turned
// upside down: a model that runs, and that says something else.
std::string WriteOtherWeights(const std::string& model, const std::string& prefix,
                              const std::string& path) {
  std::filesystem::copy_file(model, path);
  const auto files = weights::ModelFiles::Open(model);
  EXPECT_TRUE(files.ok()) << files.status();
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  for (const weights::TensorInfo& t : (*files)->tensors()) {
    // Q4_0: a scale and 16 bytes; Q4_1: a scale, a minimum and 16 bytes.
    if (t.dtype != DType::kQ4_0 && t.dtype != DType::kQ4_1) continue;
    if (!t.name.starts_with(prefix)) continue;
    const size_t header = t.dtype == DType::kQ4_0 ? 2 : 4, block = header + 16;
    std::vector<char> bytes(t.data.size());
    std::memcpy(bytes.data(), t.data.data(), bytes.size());
    for (size_t i = 0; i < bytes.size(); ++i) {
      if (i % block >= header) bytes[i] = static_cast<char>(~bytes[i]);
    }
    file.seekp(static_cast<std::streamoff>(t.file_offset));
    file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  }
  return path;
}

// The same model, but most tokens have changed ids: pairs of plain tokens, written in as many
// bytes, trade places in the vocabulary and in the embedding.
std::string WriteOtherIds(const std::string& model, const std::string& path) {
  std::filesystem::copy_file(model, path);
  const auto files = weights::ModelFiles::Open(model);
  EXPECT_TRUE(files.ok()) << files.status();
  const weights::TensorInfo* embedding = (*files)->Find("token_embd.weight");
  const auto* tokens = (*files)->FindArray("tokenizer.ggml.tokens");
  const auto* types = (*files)->FindArray("tokenizer.ggml.token_type");
  EXPECT_TRUE(embedding != nullptr && tokens != nullptr && types != nullptr);
  const std::vector<std::string_view> texts = tokens->Strings();
  const std::vector<int64_t> kinds = types->Ints();
  const auto* image = reinterpret_cast<const char*>((*files)->files()[0]->bytes().data());
  const size_t row_bytes = embedding->data.size() / texts.size();
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  const auto put = [&](const char* to, const char* from, size_t size) {
    file.seekp(to - image);
    file.write(from, static_cast<std::streamsize>(size));
  };
  std::map<size_t, size_t> waiting;  // by length: a token without a partner
  int swapped = 0;
  for (size_t id = 0; id < texts.size(); ++id) {
    constexpr int64_t kPlain = 1;
    if (kinds[id] != kPlain) continue;
    const auto [it, first] = waiting.emplace(texts[id].size(), id);
    if (first) continue;
    const size_t other = it->second;
    waiting.erase(it);
    put(texts[id].data(), texts[other].data(), texts[id].size());
    put(texts[other].data(), texts[id].data(), texts[id].size());
    const auto* rows = reinterpret_cast<const char*>(embedding->data.data());
    put(rows + id * row_bytes, rows + other * row_bytes, row_bytes);
    put(rows + other * row_bytes, rows + id * row_bytes, row_bytes);
    ++swapped;
  }
  EXPECT_GT(swapped, static_cast<int>(texts.size() / 3));
  return path;
}

class DraftClusterTest : public ::testing::Test {
 protected:
  // What the target says alone, asked once.
  static void SetUpTestSuite() {
    if (ModelPath().empty()) return;
    auto local = LocalCluster::Start(Options(0));
    ASSERT_TRUE(local.ok()) << local.status();
    expected_ = AskAll(local->get());
    for (const Answer& a : expected_)
      ASSERT_TRUE(a.status.ok()) << a.status.error_message() << (*local)->Logs();
  }
  void SetUp() override {
    if (ModelPath().empty()) GTEST_SKIP() << "the real model is not on this machine";
  }
  static LocalClusterOptions Options(int num_drafts) {
    LocalClusterOptions o;
    o.num_targets = 1;
    o.num_drafts = num_drafts;
    // A target as slow as a larger one, so that the draft can be ahead of it; every guess is
    // verified, whether or not that pays on this machine.
    o.target_flags = {"--messages-per-s", "0", "--draft-always", "--forward-us-min", "60000"};
    // A draft that is slow here, beside other programs, is asked all the same.
    o.router_flags = {"--draft-trial", "0", "--draft-share-min", "0"};
    return o;
  }
  void Start(LocalClusterOptions options) {
    auto started = LocalCluster::Start(std::move(options));
    ASSERT_TRUE(started.ok()) << started.status();
    cluster_ = std::move(*started);
  }
  // All requests at once. `act` is called once, when `at` tokens of the first request have come (in
  // how many messages is up to the draft).
  static std::vector<Answer> AskAll(LocalCluster* cluster, int at = 0,
                                    const std::function<void()>& act = nullptr) {
    const std::vector<GenerateRequest> requests = Batch();
    std::vector<Answer> answers(requests.size());
    std::vector<std::thread> threads;
    for (size_t i = 0; i < requests.size(); ++i) {
      threads.emplace_back([&, i] {
        auto stub = GenerationService::NewStub(cluster->Connect());
        int left = at;
        answers[i] = Generate(stub.get(), requests[i], [&](const GenerateResponse& r) {
          if (i > 0 || left <= 0) return true;
          left -= r.delta().tokens_size();
          if (left <= 0) act();
          return true;
        });
      });
    }
    for (std::thread& t : threads) t.join();
    return answers;
  }
  // Also counts the guesses that were verified, and those that were right.
  void ExpectTheSame(const std::vector<Answer>& answers) {
    proposed_ = accepted_ = 0;
    ASSERT_EQ(answers.size(), expected_.size());
    for (size_t i = 0; i < answers.size(); ++i) {
      ASSERT_TRUE(answers[i].status.ok()) << answers[i].status.error_message() << cluster_->Logs();
      ASSERT_EQ(answers[i].choices.size(), expected_[i].choices.size());
      EXPECT_TRUE(answers[i].in_order);
      for (const auto& [index, want] : expected_[i].choices) {
        SCOPED_TRACE(::testing::Message() << "request " << i << ", choice " << index);
        const Choice& got = answers[i].choices.at(index);
        EXPECT_EQ(got.ids, want.ids);
        EXPECT_EQ(got.logprob_bits, want.logprob_bits);
        EXPECT_EQ(got.digests, want.digests);
        EXPECT_EQ(got.text, want.text);
        ASSERT_TRUE(got.finished.has_value());
        EXPECT_EQ(got.finished->digest(), want.finished->digest());
        EXPECT_EQ(got.finished->reason(), want.finished->reason());
        proposed_ += got.finished->usage().proposed_tokens();
        accepted_ += got.finished->usage().accepted_tokens();
      }
    }
  }

  // Asks until `enough` of the guesses: how soon a draft is ahead of its target is up to the
  // machine. Every answer on the way is the expected one.
  void AskUntil(const std::function<bool()>& enough) {
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(180);
    do {
      ExpectTheSame(AskAll(cluster_.get()));
    } while (!enough() && !HasFailure() && std::chrono::steady_clock::now() < until);
    EXPECT_TRUE(enough()) << proposed_ << " guesses verified, " << accepted_ << " right\n"
                          << cluster_->Logs();
  }
  void AskUntilADraftHelps() {
    AskUntil([&] { return accepted_ > 0; });
  }

  static std::vector<Answer> expected_;
  std::unique_ptr<LocalCluster> cluster_;
  int proposed_ = 0, accepted_ = 0;
};
std::vector<Answer> DraftClusterTest::expected_;

TEST_F(DraftClusterTest, ADraftChangesNothingButTheTime) {
  Start(Options(1));
  AskUntilADraftHelps();
  EXPECT_GT(accepted_, proposed_ / 4) << proposed_ << " guesses by nearly the same model";
}

TEST_F(DraftClusterTest, ADraftKilledInTheMiddleChangesNothing) {
  Start(Options(1));
  ExpectTheSame(AskAll(cluster_.get(), 12, [&] { cluster_->draft(0).Signal(SIGKILL); }));
  ASSERT_FALSE(cluster_->draft(0).running());
  // A draft that comes later is used.
  ASSERT_TRUE(cluster_->AddDraft().ok());
  ASSERT_TRUE(cluster_->WaitForDrafts(1, 120'000).ok()) << cluster_->Logs();
  AskUntilADraftHelps();
}

TEST_F(DraftClusterTest, AFrozenDraftChangesNothing) {
  Start(Options(1));
  ExpectTheSame(AskAll(cluster_.get(), 12, [&] { cluster_->draft(0).Signal(SIGSTOP); }));
  cluster_->draft(0).Signal(SIGCONT);
  ExpectTheSame(AskAll(cluster_.get()));
}

TEST_F(DraftClusterTest, TheOtherDraftTakesOverWhenOneDiesOrFreezes) {
  Start(Options(2));
  ExpectTheSame(AskAll(cluster_.get(), 8, [&] { cluster_->draft(0).Signal(SIGSTOP); }));
  // Once it has been silent for too long it is out of the view, and all go to the other draft.
  ASSERT_TRUE(cluster_->WaitForDrafts(1, 120'000).ok()) << cluster_->Logs();
  AskUntilADraftHelps();
  cluster_->draft(0).Signal(SIGCONT);
  ASSERT_TRUE(cluster_->WaitForDrafts(2, 120'000).ok()) << cluster_->Logs();
  ExpectTheSame(AskAll(cluster_.get(), 8, [&] { cluster_->draft(1).Signal(SIGKILL); }));
  ASSERT_TRUE(cluster_->WaitForDrafts(1, 120'000).ok()) << cluster_->Logs();
  AskUntilADraftHelps();
}

// Late by up to 200 ms each way, at random.
TEST_F(DraftClusterTest, LateHintsAndConfirmsChangeNothing) {
  testing::TempDir dir;
  const std::string slow = dir.path() + "/slow";
  LocalClusterOptions options = Options(0);
  options.target_flags.back() = "150000";  // a step
  options.draft_flags = {"--advertise", "unix:" + slow};
  options.draft_model = WriteOtherWeights(ModelPath(), "blk.12.ffn", dir.path() + "/near.gguf");
  Start(std::move(options));
  const LateRelay relay(slow, cluster_->folder() + "/draft0", 200, 7);
  ASSERT_TRUE(cluster_->AddDraft().ok());
  ASSERT_TRUE(cluster_->WaitForDrafts(1, 120'000).ok()) << cluster_->Logs();
  AskUntilADraftHelps();
  EXPECT_GT(relay.num_pieces(), 20);
}

TEST_F(DraftClusterTest, ADraftOfOtherWeightsChangesNothing) {
  testing::TempDir dir;
  const std::string model = ModelPath();
  LocalClusterOptions options = Options(1);
  options.draft_model = WriteOtherWeights(model, "blk.12.ffn", dir.path() + "/near.gguf");
  Start(std::move(options));
  AskUntil([&] { return accepted_ < proposed_; });
  // A draft that is never right is hardly ever asked: its guess for the step after the one that it
  // was corrected by comes when that step has begun.
  options = Options(1);
  options.draft_model = WriteOtherWeights(model, "", dir.path() + "/far.gguf");
  Start(std::move(options));
  ExpectTheSame(AskAll(cluster_.get()));
  EXPECT_LT(accepted_, 20);
  // Beside a good one, too.
  ASSERT_TRUE(cluster_->AddDraft().ok());
  ASSERT_TRUE(cluster_->AddDraft(DraftModelPath()).ok());
  ASSERT_TRUE(cluster_->WaitForDrafts(3, 120'000).ok()) << cluster_->Logs();
  ExpectTheSame(AskAll(cluster_.get()));
}

TEST_F(DraftClusterTest, TheModelWithoutSomeLayersDraftsForItself) {
  LocalClusterOptions options = Options(1);
  options.draft_model = ModelPath();
  options.draft_flags = {"--for", ModelPath(), "--skip-layers", "auto"};
  Start(std::move(options));
  AskUntil([&] { return proposed_ > 0; });
}

// The ids are other ones, the model is the same: so its guesses are as good as the model's own.
TEST_F(DraftClusterTest, ADraftOfOtherIdsGuessesByWhatTokensStandFor) {
  testing::TempDir dir;
  const std::string other = WriteOtherIds(ModelPath(), dir.path() + "/other.gguf");
  LocalClusterOptions options = Options(1);
  options.draft_model = other;
  options.draft_flags = {"--for", ModelPath()};
  Start(std::move(options));
  AskUntil([&] { return proposed_ >= 30; });
  EXPECT_GT(accepted_, proposed_ * 9 / 10);
  // Without --for it has another vocabulary, and is not asked.
  options = Options(1);
  options.draft_model = other;
  Start(std::move(options));
  ExpectTheSame(AskAll(cluster_.get()));
  EXPECT_EQ(proposed_, 0);
}

}  // namespace
}  // namespace tutti::cluster
