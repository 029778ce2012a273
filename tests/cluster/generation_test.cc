// The promise over processes: the same ids, logprob bits and digests as one process, whatever dies.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <optional>
#include <thread>

#include "tests/cluster/answers.h"
#include "tests/cluster/processes.h"

namespace tutti::cluster {
namespace {

using generation::v1::GenerateRequest;
using generation::v1::GenerateResponse;
using generation::v1::GenerationService;
using ::testing::HasSubstr;
using ::testing::StartsWith;

// One cluster for all tests of the file: two targets, so that one can die.
class GenerationClusterTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (ModelPath().empty()) return;
    auto started = LocalCluster::Start({});
    ASSERT_TRUE(started.ok()) << started.status();
    cluster_ = std::move(*started);
  }
  static void TearDownTestSuite() { cluster_.reset(); }
  void SetUp() override {
    if (ModelPath().empty()) GTEST_SKIP() << "the real model is not on this machine";
    ASSERT_NE(cluster_, nullptr);
    for (size_t i = 0; i < cluster_->num_targets(); ++i) {
      if (cluster_->target(i).running()) continue;
      ASSERT_TRUE(cluster_->RestartTarget(i).ok());
    }
    const absl::Status ready =
        cluster_->WaitForTargets(static_cast<int>(cluster_->num_targets()), 120'000);
    ASSERT_TRUE(ready.ok()) << ready;
    stub_ = GenerationService::NewStub(cluster_->Connect());
  }

  static GenerateRequest Story(int max_tokens) {
    GenerateRequest r;
    r.set_text("Once upon a time, in a small village by the sea,");
    r.mutable_sampling()->set_seed(1234567890123456789u);
    r.mutable_sampling()->set_temperature(0.8f);
    r.mutable_sampling()->set_max_tokens(max_tokens);
    r.mutable_sampling()->set_ignore_eos(true);
    r.mutable_sampling()->set_logprobs(0);
    return r;
  }
  static void ExpectSame(const Choice& a, const Choice& b) {
    EXPECT_EQ(a.ids, b.ids);
    EXPECT_EQ(a.logprob_bits, b.logprob_bits);
    EXPECT_EQ(a.digests, b.digests);
    EXPECT_EQ(a.text, b.text);
    ASSERT_TRUE(a.finished.has_value());
    ASSERT_TRUE(b.finished.has_value());
    EXPECT_EQ(a.finished->digest(), b.finished->digest());
    EXPECT_EQ(a.finished->reason(), b.finished->reason());
  }

  static std::unique_ptr<LocalCluster> cluster_;
  std::unique_ptr<GenerationService::Stub> stub_;
  uint32_t failovers_ = 0;
};
std::unique_ptr<LocalCluster> GenerationClusterTest::cluster_;

TEST_F(GenerationClusterTest, AnswersTheSameTwiceAndReportsItsSeed) {
  GenerateRequest r = Story(24);
  const Answer a = Generate(stub_.get(), r), b = Generate(stub_.get(), r);
  ASSERT_TRUE(a.status.ok()) << a.status.error_message() << cluster_->Logs();
  ASSERT_EQ(a.choices.size(), 1u);
  EXPECT_EQ(a.seed, 1234567890123456789u);
  EXPECT_EQ(a.choices.at(0).ids.size(), 24u);
  EXPECT_TRUE(a.in_order);
  EXPECT_NE(a.choices.at(0).finished->digest(), 0u);
  ExpectSame(a.choices.at(0), b.choices.at(0));

  // Without a seed one is drawn; asking again with what was reported gives the same.
  r.mutable_sampling()->clear_seed();
  const Answer drawn = Generate(stub_.get(), r);
  ASSERT_TRUE(drawn.status.ok());
  r.mutable_sampling()->set_seed(drawn.seed);
  ExpectSame(drawn.choices.at(0), Generate(stub_.get(), r).choices.at(0));
  EXPECT_NE(drawn.choices.at(0).ids, a.choices.at(0).ids);
}

TEST_F(GenerationClusterTest, AKilledTargetChangesNothingButTheTime) {
  const GenerateRequest r = Story(120);
  const Answer undisturbed = Generate(stub_.get(), r);
  ASSERT_TRUE(undisturbed.status.ok()) << undisturbed.status.error_message();

  // Whichever target the stream is on, one of two kills hits it; unless the answer was done before
  // the kill, on a machine that is faster with it than with us.
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(120);
  for (size_t turn = 0; turn < 2 || (failovers_ == 0 && std::chrono::steady_clock::now() < until);
       ++turn) {
    SCOPED_TRACE(turn);
    const size_t victim = turn % 2;
    int tokens = 0;
    bool killed = false;
    const Answer a = Generate(stub_.get(), r, [&](const GenerateResponse& m) {
      tokens += m.delta().tokens_size();
      if (tokens >= 40 && !killed) {
        killed = true;
        cluster_->target(victim).Signal(SIGKILL);
      }
      return true;
    });
    ASSERT_TRUE(killed);
    ASSERT_TRUE(a.status.ok()) << a.status.error_message() << cluster_->Logs();
    EXPECT_TRUE(a.in_order);
    ExpectSame(a.choices.at(0), undisturbed.choices.at(0));
    failovers_ += a.choices.at(0).finished->failovers();
    ASSERT_TRUE(cluster_->RestartTarget(victim).ok());
    ASSERT_TRUE(cluster_->WaitForTargets(2, 120'000).ok()) << cluster_->Logs();
  }
  EXPECT_GE(failovers_, 1u) << "neither kill hit the request";
}

TEST_F(GenerationClusterTest, AFrozenTargetIsLeftBehind) {
  const GenerateRequest r = Story(150);
  const Answer undisturbed = Generate(stub_.get(), r);
  ASSERT_TRUE(undisturbed.status.ok()) << undisturbed.status.error_message();
  uint32_t failovers = 0;
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(120);
  for (size_t turn = 0; turn < 2 || (failovers == 0 && std::chrono::steady_clock::now() < until);
       ++turn) {
    SCOPED_TRACE(turn);
    const size_t victim = turn % 2;
    int tokens = 0;
    bool frozen = false;
    const Answer a = Generate(stub_.get(), r, [&](const GenerateResponse& m) {
      tokens += m.delta().tokens_size();
      if (tokens >= 40 && !frozen) {
        frozen = true;
        cluster_->target(victim).Signal(SIGSTOP);
      }
      return true;
    });
    cluster_->target(victim).Signal(SIGCONT);
    ASSERT_TRUE(a.status.ok()) << a.status.error_message() << cluster_->Logs();
    ExpectSame(a.choices.at(0), undisturbed.choices.at(0));
    failovers += a.choices.at(0).finished->failovers();
    ASSERT_TRUE(cluster_->WaitForTargets(2, 120'000).ok()) << cluster_->Logs();
  }
  EXPECT_GE(failovers, 1u) << "neither freeze hit the request";
}

// One thread of a process stands still, as a deadlock or a stuck device makes it; the others go on.
class StoppedThread {
 public:
  // The thread of that name. From the thread that also destroys it.
  StoppedThread(pid_t process, const std::string& name) {
    for (const auto& task :
         std::filesystem::directory_iterator("/proc/" + std::to_string(process) + "/task")) {
      std::string comm;
      std::ifstream(task.path() / "comm") >> comm;
      if (comm == name) thread_ = std::stoi(task.path().filename().string());
    }
    if (thread_ == 0 || ptrace(PTRACE_SEIZE, thread_, nullptr, nullptr) != 0) {
      thread_ = 0;
      return;
    }
    ptrace(PTRACE_INTERRUPT, thread_, nullptr, nullptr);
    waitpid(thread_, nullptr, __WALL);
  }
  ~StoppedThread() {
    if (thread_ != 0) ptrace(PTRACE_DETACH, thread_, nullptr, nullptr);
  }
  StoppedThread(const StoppedThread&) = delete;
  bool stopped() const { return thread_ != 0; }

 private:
  pid_t thread_ = 0;
};

TEST_F(GenerationClusterTest, ATargetWhoseEngineHangsIsLeftThoughItsProcessReports) {
  const GenerateRequest r = Story(120);
  const Answer undisturbed = Generate(stub_.get(), r);
  ASSERT_TRUE(undisturbed.status.ok()) << undisturbed.status.error_message();
  // Whichever target the stream is on, one of two turns hits it; unless the answer was done before.
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(120);
  uint32_t failovers = 0;
  for (size_t turn = 0; turn < 2 || (failovers == 0 && std::chrono::steady_clock::now() < until);
       ++turn) {
    SCOPED_TRACE(turn);
    const size_t victim = turn % 2;
    std::optional<StoppedThread> hung;
    int tokens = 0;
    const Answer a = Generate(stub_.get(), r, [&](const GenerateResponse& m) {
      tokens += m.delta().tokens_size();
      if (tokens >= 40 && !hung) hung.emplace(cluster_->target(victim).pid(), "engine");
      return true;
    });
    ASSERT_TRUE(hung.has_value());
    if (!hung->stopped()) GTEST_SKIP() << "this machine lets nobody stop a thread";
    ASSERT_TRUE(a.status.ok()) << a.status.error_message() << cluster_->Logs();
    ExpectSame(a.choices.at(0), undisturbed.choices.at(0));
    failovers += a.choices.at(0).finished->failovers();
    hung.reset();
    if (cluster_->target(victim).Wait(0) >= 0)  // its watchdog was faster
      ASSERT_TRUE(cluster_->RestartTarget(victim).ok());
    ASSERT_TRUE(cluster_->WaitForTargets(2, 120'000).ok()) << cluster_->Logs();
  }
  EXPECT_GT(failovers, 0u);
}

TEST_F(GenerationClusterTest, ChoicesHaveTheirOwnNoiseAndSurviveAKill) {
  GenerateRequest r = Story(60);
  r.set_n(3);
  const Answer undisturbed = Generate(stub_.get(), r);
  ASSERT_TRUE(undisturbed.status.ok()) << undisturbed.status.error_message();
  ASSERT_EQ(undisturbed.choices.size(), 3u);
  EXPECT_NE(undisturbed.choices.at(0).ids, undisturbed.choices.at(1).ids);
  EXPECT_NE(undisturbed.choices.at(1).ids, undisturbed.choices.at(2).ids);
  int tokens = 0;
  bool killed = false;
  const Answer a = Generate(stub_.get(), r, [&](const GenerateResponse& m) {
    tokens += m.delta().tokens_size();
    if (tokens >= 45 && !killed) {
      killed = true;
      cluster_->target(0).Signal(SIGKILL);
    }
    return true;
  });
  ASSERT_TRUE(a.status.ok()) << a.status.error_message() << cluster_->Logs();
  for (uint32_t i = 0; i < 3; ++i) ExpectSame(a.choices.at(i), undisturbed.choices.at(i));
  // Choice 0 of three is choice 0 of one.
  r.set_n(1);
  ExpectSame(Generate(stub_.get(), r).choices.at(0), undisturbed.choices.at(0));
}

TEST_F(GenerationClusterTest, AnotherConnectionResumesWhereTheFirstBroke) {
  GenerateRequest r = Story(240);
  const Answer whole = Generate(stub_.get(), r);
  r.set_request_id("resume-me");
  int tokens = 0;
  const Answer first = Generate(stub_.get(), r, [&](const GenerateResponse& m) {
    tokens += m.delta().tokens_size();
    return tokens < 20;  // then the client goes away
  });
  EXPECT_EQ(first.status.error_code(), grpc::StatusCode::CANCELLED);
  const auto& got = first.choices.at(0);
  ASSERT_GE(got.ids.size(), 20u);
  ASSERT_LT(got.ids.size(), 240u);

  auto other = GenerationService::NewStub(cluster_->Connect());
  const Answer rest = Resume(other.get(), "resume-me", first.resume_token, 0,
                             static_cast<uint32_t>(got.ids.size() - 1));
  ASSERT_TRUE(rest.status.ok()) << rest.status.error_message() << cluster_->Logs();
  EXPECT_TRUE(rest.in_order);
  std::vector<int32_t> ids = got.ids;
  ids.insert(ids.end(), rest.choices.at(0).ids.begin(), rest.choices.at(0).ids.end());
  EXPECT_EQ(ids, whole.choices.at(0).ids);
  EXPECT_EQ(got.text + rest.choices.at(0).text, whole.choices.at(0).text);
  EXPECT_EQ(rest.choices.at(0).finished->digest(), whole.choices.at(0).finished->digest());

  // Finished requests are served from the journal, from the start or from anywhere, over any
  // connection that shows the token.
  const std::string& token = first.resume_token;
  ASSERT_EQ(token.size(), 16u);
  const Answer again = Resume(stub_.get(), "resume-me", token, 0, std::nullopt);
  ExpectSame(again.choices.at(0), whole.choices.at(0));
  EXPECT_EQ(Generate(stub_.get(), r).status.error_code(), grpc::StatusCode::ALREADY_EXISTS);
  EXPECT_EQ(Resume(stub_.get(), "never-seen", token, 0, std::nullopt).status.error_code(),
            grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(Resume(stub_.get(), "resume-me", token, 1, std::nullopt).status.error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(Resume(stub_.get(), "resume-me", token, 0, 240).status.error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(GenerationClusterTest, ASecondSubscriberJoinsWhileItRuns) {
  GenerateRequest r = Story(80);
  r.set_request_id("two-listeners");
  std::thread second;
  Answer joined;
  bool started = false;
  std::string token;
  const Answer first = Generate(stub_.get(), r, [&](const GenerateResponse& m) {
    if (m.has_started()) token = m.started().resume_token();
    if (m.has_delta() && !started) {
      started = true;
      second = std::thread([&] {
        auto other = GenerationService::NewStub(cluster_->Connect());
        joined = Resume(other.get(), "two-listeners", token, 0, std::nullopt);
      });
    }
    return true;
  });
  ASSERT_TRUE(started);
  second.join();
  ASSERT_TRUE(first.status.ok()) << first.status.error_message();
  ASSERT_TRUE(joined.status.ok()) << joined.status.error_message();
  ExpectSame(joined.choices.at(0), first.choices.at(0));
}

TEST_F(GenerationClusterTest, AStopStringCutsAtTheTokenThatCompletesIt) {
  GenerateRequest r = Story(60);
  const Answer whole = Generate(stub_.get(), r);
  const Choice& w = whole.choices.at(0);
  // A stop that begins inside the text and spans several tokens.
  const size_t at = w.text.size() / 2;
  const std::string stop = w.text.substr(at, 12);
  r.add_stop("this will not come up");
  r.add_stop(stop);
  const Answer a = Generate(stub_.get(), r);
  ASSERT_TRUE(a.status.ok()) << a.status.error_message();
  const Choice& c = a.choices.at(0);
  EXPECT_EQ(c.text, w.text.substr(0, w.text.find(stop)));
  EXPECT_EQ(c.finished->reason(), common::v1::FINISH_REASON_STOP);
  EXPECT_EQ(c.finished->matched_stop(), stop);
  EXPECT_LT(c.ids.size(), w.ids.size());
  EXPECT_EQ(c.ids, std::vector<int32_t>(w.ids.begin(),
                                        w.ids.begin() + static_cast<ptrdiff_t>(c.ids.size())));
  EXPECT_EQ(c.finished->digest(), w.digests[c.ids.size() - 1]);
  EXPECT_EQ(c.finished->output_tokens(), c.ids.size());
  r.set_include_stop(true);
  EXPECT_EQ(Generate(stub_.get(), r).choices.at(0).text, c.text + stop);
}

TEST_F(GenerationClusterTest, AnAbortEndsTheStreamAndFreesTheDecoder) {
  GenerateRequest r = Story(2000);
  r.set_request_id("abort-me");
  bool aborted = false;
  std::string token;
  const Answer a = Generate(stub_.get(), r, [&](const GenerateResponse& m) {
    if (m.has_started()) token = m.started().resume_token();
    if (m.has_delta() && !aborted) {
      aborted = true;
      grpc::ClientContext context;
      generation::v1::AbortRequest abort;
      abort.set_request_id("abort-me");
      abort.set_resume_token(token);
      generation::v1::AbortResponse response;
      auto other = GenerationService::NewStub(cluster_->Connect());
      EXPECT_TRUE(other->Abort(&context, abort, &response).ok());
    }
    return true;
  });
  ASSERT_TRUE(a.status.ok()) << a.status.error_message();
  EXPECT_EQ(a.choices.at(0).finished->reason(), common::v1::FINISH_REASON_CANCELLED);
  EXPECT_LT(a.choices.at(0).ids.size(), 2000u);
  grpc::ClientContext context;
  generation::v1::AbortRequest unknown;
  unknown.set_request_id("nobody");
  generation::v1::AbortResponse response;
  EXPECT_EQ(stub_->Abort(&context, unknown, &response).error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(GenerationClusterTest, OthersCanNeitherReadNorEndARequestAndLearnNothingOfIt) {
  GenerateRequest r = Story(40);
  r.set_request_id("mine");
  const Answer undisturbed = Generate(stub_.get(), Story(40));
  auto other = GenerationService::NewStub(cluster_->Connect());
  const auto attack = [&](const std::string& token) {
    const grpc::Status resumed = Resume(other.get(), "mine", token, 0, std::nullopt).status;
    const grpc::Status absent = Resume(other.get(), "mind", token, 0, std::nullopt).status;
    EXPECT_EQ(resumed.error_code(), grpc::StatusCode::NOT_FOUND);
    // The same words, but for the name that the asker gave.
    std::string words = absent.error_message();
    words.replace(words.find("mind"), 4, "mine");
    EXPECT_EQ(resumed.error_message(), words);
    generation::v1::AbortRequest abort;
    abort.set_request_id("mine");
    abort.set_resume_token(token);
    generation::v1::AbortResponse response;
    grpc::ClientContext context;
    const grpc::Status aborted = other->Abort(&context, abort, &response);
    EXPECT_EQ(aborted.error_code(), grpc::StatusCode::NOT_FOUND);
    EXPECT_EQ(aborted.error_message(), words);
  };
  bool attacked = false;
  const Answer a = Generate(stub_.get(), r, [&](const GenerateResponse& m) {
    if (m.has_delta() && !attacked) {  // running
      attacked = true;
      attack("");
      attack(std::string(16, 'x'));
    }
    return true;
  });
  EXPECT_TRUE(attacked);
  ASSERT_TRUE(a.status.ok()) << a.status.error_message();
  ExpectSame(a.choices.at(0), undisturbed.choices.at(0));
  attack("");  // in the journal
  attack(std::string(16, 'x'));
  EXPECT_TRUE(Resume(other.get(), "mine", a.resume_token, 0, std::nullopt).status.ok());
}

TEST_F(GenerationClusterTest, ALabelMayBeAnythingAndTheSameAgain) {
  const Answer plain = Generate(stub_.get(), Story(8));
  for (const std::string& label : {std::string("again"), std::string("again"),
                                   std::string(100'000, 'l'), std::string("\xff\0\n\x1b[31m", 8)}) {
    GenerateRequest r = Story(8);
    r.set_label(label);
    const Answer a = Generate(stub_.get(), r);
    ASSERT_TRUE(a.status.ok()) << a.status.error_message();
    ExpectSame(a.choices.at(0), plain.choices.at(0));
  }
}

TEST_F(GenerationClusterTest, AChatIsRenderedAndAnswered) {
  GenerateRequest r;
  r.mutable_chat()->set_messages_json(
      R"([{"role":"user","content":"What is the capital of Japan?"}])");
  r.mutable_sampling()->set_temperature(0);
  r.mutable_sampling()->set_max_tokens(24);
  r.set_echo(true);
  const Answer a = Generate(stub_.get(), r);
  ASSERT_TRUE(a.status.ok()) << a.status.error_message();
  EXPECT_THAT(a.prompt_text, HasSubstr("What is the capital of Japan?"));
  EXPECT_THAT(a.choices.at(0).text, HasSubstr("Tokyo"));
  EXPECT_THAT(a.choices.at(0).text, ::testing::Not(HasSubstr("<|im_end|>")));
  r.mutable_chat()->set_messages_json("[{]");
  EXPECT_EQ(Generate(stub_.get(), r).status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(GenerationClusterTest, WhatIsWrongWithARequestIsNamed) {
  const auto error = [&](const std::function<void(GenerateRequest*)>& change) {
    GenerateRequest r = Story(4);
    change(&r);
    const Answer a = Generate(stub_.get(), r);
    EXPECT_FALSE(a.status.ok());
    return std::to_string(a.status.error_code()) + " " + a.status.error_message();
  };
  EXPECT_THAT(error([](auto* r) { r->set_n(1'000'000); }), StartsWith("3 n: 1000000"));
  EXPECT_THAT(error([](auto* r) { r->mutable_sampling()->set_temperature(-1); }),
              HasSubstr("temperature"));
  EXPECT_THAT(error([](auto* r) { r->mutable_sampling()->set_top_p(2); }), HasSubstr("top_p"));
  EXPECT_THAT(error([](auto* r) { r->clear_prompt(); }), StartsWith("3 prompt"));
  EXPECT_THAT(error([](auto* r) { r->mutable_token_ids()->add_ids(9'999'999); }),
              HasSubstr("token_ids[0]"));
  EXPECT_THAT(error([](auto* r) { r->add_stop(""); }), HasSubstr("stop[0]"));
  EXPECT_THAT(error([](auto* r) { r->set_request_id("a\nb"); }), HasSubstr("request_id"));
  EXPECT_THAT(error([](auto* r) { r->set_model("gpt-5"); }), StartsWith("5 "));
  EXPECT_THAT(error([](auto* r) {
                for (int i = 0; i < 9000; ++i) r->mutable_token_ids()->add_ids(5);
              }),
              HasSubstr("context"));
  // And the cluster goes on.
  EXPECT_TRUE(Generate(stub_.get(), Story(2)).status.ok());
}

TEST_F(GenerationClusterTest, TextGoesToTokensAndBack) {
  grpc::ClientContext c1, c2;
  generation::v1::TokenizeRequest t;
  t.set_text("Grüße, 世界!");
  generation::v1::TokenizeResponse tokens;
  ASSERT_TRUE(stub_->Tokenize(&c1, t, &tokens).ok());
  ASSERT_GT(tokens.ids_size(), 2);
  EXPECT_EQ(tokens.offsets_size(), 2 * tokens.ids_size());
  std::string joined;
  for (const std::string& b : tokens.token_bytes()) joined += b;
  EXPECT_EQ(joined, t.text());
  generation::v1::DetokenizeRequest d;
  *d.mutable_ids() = tokens.ids();
  generation::v1::DetokenizeResponse text;
  ASSERT_TRUE(stub_->Detokenize(&c2, d, &text).ok());
  EXPECT_EQ(text.text(), t.text());
}

}  // namespace
}  // namespace tutti::cluster
