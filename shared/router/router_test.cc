#include "shared/router/router.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "shared/router/testing_router.h"

namespace tutti::router {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST_F(RouterTest, TokensBecomeTextAndTheEndIsTold) {
  AddTokenizer(1);
  AddTarget(2);
  const auto open = StartOne(Spec());
  EXPECT_EQ(open.worker, 2u);
  EXPECT_THAT(*open.open.prompt_ids, ElementsAre(2, 3, 4));
  EXPECT_TRUE(open.open.generated_ids.empty());
  router_->OnTokens(open.call, Letters(0, "he"), now_, &actions_);
  EXPECT_EQ(Drain(1), "^he");
  router_->OnTokens(open.call, Letters(2, "y$"), now_, &actions_);
  router_->OnDecodeEnd(open.call, End(FinishReason::kEos, 4), now_, &actions_);
  EXPECT_EQ(Drain(1), "y<0:1 4>.");
  EXPECT_EQ(router_->calls().size(), 0u);
  router_->OnSubscriberGone(1, now_, &actions_);
  EXPECT_EQ(router_->Stats().live_requests, 0);
}

TEST_F(RouterTest, ALostDecoderIsReplacedByOneThatGoesOnFromWhatWasSaid) {
  AddTokenizer(1);
  AddTarget(2);
  AddTarget(3);
  const auto open = StartOne(Spec());
  router_->OnTokens(open.call, Letters(0, "abc"), now_, &actions_);
  router_->OnCallClosed(open.call, absl::UnavailableError("gone"), now_, &actions_);
  const auto again = Take<action::OpenDecode>();
  ASSERT_EQ(again.size(), 1u);
  EXPECT_NE(again[0].worker, open.worker);
  EXPECT_THAT(again[0].open.generated_ids, ElementsAre(2, 3, 4));
  EXPECT_EQ(again[0].open.digest, 102u);
  EXPECT_EQ(again[0].open.sampling.seed, 42u);
  // A late message of the first is ignored, whatever it says.
  router_->OnTokens(open.call, Letters(3, "zzz"), now_, &actions_);
  router_->OnTokens(again[0].call, Letters(3, "de"), now_, &actions_);
  EXPECT_EQ(Drain(1), "^abcde");
  EXPECT_EQ(watcher_.failovers, 1);
}

TEST_F(RouterTest, ToldTwiceIsTakenOnceAndAGapIsAskedAgain) {
  AddTokenizer(1);
  AddTarget(2);
  const auto open = StartOne(Spec());
  router_->OnTokens(open.call, Letters(0, "abc"), now_, &actions_);
  router_->OnTokens(open.call, Letters(1, "bcd"), now_, &actions_);
  EXPECT_EQ(Drain(1), "^abcd");
  router_->OnTokens(open.call, Letters(6, "g"), now_, &actions_);  // e and f are missing
  const auto again = Take<action::OpenDecode>();
  ASSERT_EQ(again.size(), 1u);
  EXPECT_EQ(again[0].open.generated_ids.size(), 4u);
  EXPECT_EQ(Take<action::CancelCall>().size(), 1u);
}

TEST_F(RouterTest, ATokenThatContradictsWhatWasSaidEndsTheRequest) {
  AddTokenizer(1);
  AddTarget(2);
  const auto open = StartOne(Spec());
  router_->OnTokens(open.call, Letters(0, "abc"), now_, &actions_);
  EXPECT_EQ(Drain(1), "^abc");
  DecodedTokens other = Letters(2, "c");
  other.tokens[0].digest ^= 1;  // the same token from other logits
  router_->OnTokens(open.call, std::move(other), now_, &actions_);
  EXPECT_EQ(Drain(1), "!INTERNAL");
  EXPECT_EQ(ReasonOf(last_), "DIGEST_MISMATCH");
  EXPECT_EQ(watcher_.contradictions, 1);
  EXPECT_EQ(Take<action::CancelCall>().size(), 1u);
}

TEST_F(RouterTest, ADecoderThatDiedAfterItsLastTokenIsNotReplaced) {
  AddTokenizer(1);
  AddTarget(2);
  const auto open = StartOne(Spec(3));
  router_->OnTokens(open.call, Letters(0, "abc"), now_, &actions_);
  router_->OnCallClosed(open.call, absl::UnavailableError("gone"), now_, &actions_);
  EXPECT_TRUE(Take<action::OpenDecode>().empty());
  EXPECT_EQ(Drain(1), "^abc<0:3 3>.");
}

TEST_F(RouterTest, WithNobodyLeftItWaitsForAWhileAndNoLonger) {
  AddTokenizer(1);
  AddTarget(2);
  const auto open = StartOne(Spec());
  router_->OnTokens(open.call, Letters(0, "a"), now_, &actions_);
  router_->OnWorkerClosed(2, now_, &actions_);
  router_->OnCallClosed(open.call, absl::UnavailableError("gone"), now_, &actions_);
  EXPECT_TRUE(Take<action::OpenDecode>().empty());
  Tick(5'000'000);
  AddTarget(7);  // it came back in time
  const auto again = Take<action::OpenDecode>();
  ASSERT_EQ(again.size(), 1u);
  router_->OnWorkerClosed(7, now_, &actions_);
  router_->OnCallClosed(again[0].call, absl::UnavailableError("gone"), now_, &actions_);
  Tick(9'900'000);
  EXPECT_EQ(Drain(1), "^a");
  Tick(200'000);
  EXPECT_EQ(Drain(1), "!UNAVAILABLE");
}

TEST_F(RouterTest, ADrainingRouterFinishesWhatRunsAndWaitsForNobody) {
  AddTokenizer(10);
  AddTarget(1);
  AddTarget(2);
  const auto first = StartOne(Spec());
  (void)Take<action::Directive>();
  router_->Drain(now_, &actions_);
  const auto told = Take<action::Directive>();
  ASSERT_EQ(told.size(), 3u);
  for (const auto& d : told) EXPECT_TRUE(d.draining) << d.worker;
  // New requests go elsewhere.
  RequestSpec other = Spec();
  other.request_id = "other";
  router_->Generate(2, other, now_, &actions_);
  EXPECT_EQ(Drain(2), "!UNAVAILABLE");
  EXPECT_EQ(ReasonOf(last_), "DRAINING");
  // The running one moves to the other target, which stayed.
  router_->OnTokens(first.call, Letters(0, "ab"), now_, &actions_);
  router_->OnWorkerClosed(first.worker, now_, &actions_);
  router_->OnCallClosed(first.call, absl::UnavailableError("gone"), now_, &actions_);
  const auto second = Take<action::OpenDecode>();
  ASSERT_EQ(second.size(), 1u);
  EXPECT_NE(second[0].worker, first.worker);
  EXPECT_EQ(Drain(1), "^ab");
  // The last target goes too: whoever comes joins the next router.
  router_->OnWorkerClosed(second[0].worker, now_, &actions_);
  router_->OnCallClosed(second[0].call, absl::UnavailableError("gone"), now_, &actions_);
  EXPECT_EQ(Drain(1), "!UNAVAILABLE");
  EXPECT_EQ(ReasonOf(last_), "DRAINING");
}

TEST_F(RouterTest, AFrozenTargetIsLeftWhenItIsSilentInBothWays) {
  AddTokenizer(1);
  AddTarget(2);
  AddTarget(3);
  const auto open = StartOne(Spec());
  router_->OnTokens(open.call, Letters(0, "a"), now_, &actions_);
  const WorkerHandle other = open.worker == 2 ? 3 : 2;
  for (int i = 0; i < 8; ++i) Tick(500'000, {2, 3});  // slow, but it reports: no reason to leave
  EXPECT_TRUE(Take<action::OpenDecode>().empty());
  for (int i = 0; i < 4; ++i) Tick(500'000, {other});
  const auto again = Take<action::OpenDecode>();
  ASSERT_EQ(again.size(), 1u);
  EXPECT_EQ(again[0].worker, other);
}

// A thread that hangs while the process lives and reports.
TEST_F(RouterTest, ATargetWhoseEngineHangsIsLeftWithinTwoSeconds) {
  AddTokenizer(1);
  AddTarget(2);
  AddTarget(3);
  const auto open = StartOne(Spec());
  router_->OnTokens(open.call, Letters(0, "a"), now_, &actions_);
  const WorkerHandle other = open.worker == 2 ? 3 : 2;
  const auto report = [&](int64_t age_us) {
    WorkerReport hung = TargetReport(open.worker);
    hung.load.step_age_us = age_us;
    hung.load.step_limit_us = 1'000'000;
    ASSERT_TRUE(router_->OnReport(open.worker, hung, now_, &actions_).ok());
  };
  for (int64_t age_us = 0; age_us <= 2'000'000; age_us += 100'000) {
    if (age_us % 500'000 == 200'000) report(age_us);
    Tick(100'000, {other});
  }
  const auto again = Take<action::OpenDecode>();
  ASSERT_EQ(again.size(), 1u);
  EXPECT_EQ(again[0].worker, other);
  EXPECT_THAT(again[0].open.generated_ids, ElementsAre(2));
  // Nothing new goes there, until it moves again.
  EXPECT_TRUE(router_->fleet().IsSuspect(open.worker));
  report(1'500'000);
  EXPECT_TRUE(router_->fleet().IsSuspect(open.worker));
  report(0);
  EXPECT_FALSE(router_->fleet().IsSuspect(open.worker));
}

TEST_F(RouterTest, AStepThatIsSlowAsUsualIsNoHang) {
  AddTokenizer(1);
  AddTarget(2);
  const auto open = StartOne(Spec());
  for (int64_t age_us = 0; age_us <= 9'000'000; age_us += 500'000) {
    WorkerReport slow = TargetReport(2);
    slow.load.step_age_us = age_us;
    slow.load.step_limit_us = 20'000'000;  // weights come from a disk
    ASSERT_TRUE(router_->OnReport(2, slow, now_, &actions_).ok());
    Tick(500'000);
  }
  EXPECT_TRUE(Take<action::CancelCall>().empty());
}

TEST_F(RouterTest, AFullClusterRefusesAtOnceAndSaysWhenToComeBack) {
  AddTokenizer(1);
  AddTarget(2);
  AddTarget(3);
  const auto open = StartOne(Spec());
  const absl::Status full = WithReason(absl::ResourceExhaustedError("queue full"), "QUEUE_FULL");
  router_->OnCallClosed(open.call, full, now_, &actions_);
  const auto again = Take<action::OpenDecode>();  // the other one may have room
  ASSERT_EQ(again.size(), 1u);
  EXPECT_NE(again[0].worker, open.worker);
  router_->OnCallClosed(again[0].call, full, now_, &actions_);
  EXPECT_EQ(Drain(1), "!RESOURCE_EXHAUSTED");
  EXPECT_GT(RetryAfterMs(last_), 0);
  EXPECT_EQ(watcher_.failovers, 0);  // nobody died
}

TEST_F(RouterTest, BeamsComeWithTheEndAndGetTheirText) {
  AddTokenizer(1);
  AddTarget(2);
  RequestSpec spec = Spec();
  spec.sampling.num_beams = spec.sampling.num_return = 2;
  spec.sampling.temperature = 0;
  const auto open = StartOne(spec);
  DecodeEnd end = End(FinishReason::kEos, 5);
  end.beams = {{{2, 3, kEos}, -0.5f, ""}, {{4, 5}, -0.75f, ""}};
  router_->OnDecodeEnd(open.call, std::move(end), now_, &actions_);
  const auto finish = Take<action::JournalFinish>();
  ASSERT_EQ(finish.size(), 1u);
  ASSERT_EQ(finish[0].finish.beams.size(), 2u);
  EXPECT_EQ(finish[0].finish.beams[0].text, "ab");
  EXPECT_EQ(finish[0].finish.beams[1].text, "cd");
  EXPECT_EQ(finish[0].finish.usage.output_tokens, 5);
  EXPECT_EQ(watcher_.failovers, 0);
}

TEST_F(RouterTest, AStopStringOverTokenBordersCutsAndCancels) {
  AddTokenizer(1);
  AddTarget(2);
  RequestSpec spec = Spec();
  spec.stop = {"cde"};
  const auto open = StartOne(spec);
  router_->OnTokens(open.call, Letters(0, "abc"), now_, &actions_);
  EXPECT_EQ(Drain(1), "^ab");  // c is held back
  router_->OnTokens(open.call, Letters(3, "defg"), now_, &actions_);
  EXPECT_EQ(Drain(1), "<0:2 5>.");  // f and g are dropped
  EXPECT_EQ(Take<action::CancelCall>().size(), 1u);
}

TEST_F(RouterTest, AStopStringCountsTheGuessesUpToItAlone) {
  AddTokenizer(1);
  AddTarget(2);
  RequestSpec spec = Spec();
  spec.stop = {"cd"};
  const auto open = StartOne(spec);
  DecodedTokens tokens = Letters(0, "a");
  tokens.usage.cached_tokens = 2;
  router_->OnTokens(open.call, tokens, now_, &actions_);
  // One step: b to f, four of them guessed; e and f lie beyond the stop.
  tokens = Letters(1, "bcdef");
  tokens.usage = {.cached_tokens = 2, .proposed_tokens = 6, .accepted_tokens = 4};
  router_->OnTokens(open.call, tokens, now_, &actions_);
  const auto finish = Take<action::JournalFinish>();
  ASSERT_EQ(finish.size(), 1u);
  const Usage& usage = finish[0].finish.usage;
  EXPECT_EQ(usage.output_tokens, 4);
  EXPECT_EQ(usage.cached_tokens, 2);
  EXPECT_EQ(usage.proposed_tokens, 6);
  EXPECT_EQ(usage.accepted_tokens, 2);
}

TEST_F(RouterTest, AClientThatGoesFreesTheDecoderAndAResumeGoesOn) {
  AddTokenizer(1);
  AddTarget(2);
  const auto open = StartOne(Spec());
  const auto created = Take<action::JournalCreate>();
  ASSERT_EQ(created.size(), 1u);
  router_->OnTokens(open.call, Letters(0, "abc"), now_, &actions_);
  const auto appended = Take<action::JournalAppend>();
  ASSERT_EQ(appended.size(), 1u);
  router_->OnSubscriberGone(1, now_, &actions_);
  EXPECT_EQ(Take<action::CancelCall>().size(), 1u);
  EXPECT_EQ(router_->Stats().live_requests, 0);

  router_->Resume(2, "r", created[0].record.resume_token, 0, 0, now_, &actions_);
  ASSERT_EQ(Take<action::LoadJournal>().size(), 1u);
  store::StoredRequest stored;
  stored.request = created[0].record;
  stored.choices.resize(1);
  stored.choices[0].tokens = appended[0].tokens;
  router_->OnJournalLoaded(2, stored, *created[0].spec, now_, &actions_);
  const auto again = Take<action::OpenDecode>();
  ASSERT_EQ(again.size(), 1u);
  EXPECT_THAT(again[0].open.generated_ids, ElementsAre(2, 3, 4));
  EXPECT_EQ(Drain(2), "^bc");  // after index 0
  router_->OnTokens(again[0].call, Letters(3, "d$"), now_, &actions_);
  router_->OnDecodeEnd(again[0].call, End(FinishReason::kEos, 5), now_, &actions_);
  EXPECT_EQ(Drain(2), "d<0:1 5>.");
}

TEST_F(RouterTest, SeveralSubscribersGetTheSameEachAtItsOwnPace) {
  AddTokenizer(1);
  AddTarget(2);
  const auto open = StartOne(Spec());
  router_->OnTokens(open.call, Letters(0, "ab"), now_, &actions_);
  EXPECT_EQ(Drain(1), "^ab");
  const std::string token = router_->FindSession("r")->spec().resume_token;
  router_->Resume(2, "r", token, 0, std::nullopt, now_, &actions_);
  router_->OnTokens(open.call, Letters(2, "c$"), now_, &actions_);
  router_->OnDecodeEnd(open.call, End(FinishReason::kEos, 4), now_, &actions_);
  EXPECT_EQ(Drain(2), "^abc<0:1 4>.");
  EXPECT_EQ(Drain(1), "c<0:1 4>.");
}

TEST_F(RouterTest, ResumeAndAbortWithoutTheRequestsOwnTokenAnswerAsIfThereWereNone) {
  AddTokenizer(1);
  AddTarget(2);
  StartOne(Spec());
  const auto created = Take<action::JournalCreate>();
  const std::string token = created[0].record.resume_token;
  ASSERT_EQ(token.size(), 16u);
  const absl::Status none = Router::NoSuchRequest("r");
  SubscriberId id = 10;
  for (const std::string& wrong :
       {std::string(), std::string(16, 'x'), token.substr(1), token + "x"}) {
    EXPECT_EQ(router_->Abort("r", wrong, now_, &actions_), none);
    router_->Resume(++id, "r", wrong, 0, std::nullopt, now_, &actions_);
    Drain(id);
    EXPECT_EQ(last_, none);
  }
  router_->OnSubscriberGone(1, now_, &actions_);  // parked: the journal has it
  store::StoredRequest stored;
  stored.request = created[0].record;
  stored.choices.resize(1);
  for (const std::string& wrong : {std::string(), std::string(16, 'x')}) {
    router_->Resume(++id, "r", wrong, 7, 99, now_, &actions_);
    ASSERT_EQ(Take<action::LoadJournal>().size(), 1u);
    router_->OnJournalLoaded(id, stored, *created[0].spec, now_, &actions_);
    Drain(id);
    EXPECT_EQ(last_, none);
  }
  router_->Resume(++id, "r", token, 0, std::nullopt, now_, &actions_);
  router_->OnJournalLoaded(id, stored, *created[0].spec, now_, &actions_);
  EXPECT_EQ(Drain(id), "^");
  EXPECT_TRUE(router_->Abort("r", token, now_, &actions_).ok());
}

TEST_F(RouterTest, TooManyRequestsAreRefused) {
  RouterOptions o;
  o.max_live_requests = 2;
  Reset(o);
  AddTokenizer(1);
  AddTarget(2);
  for (int i = 0; i < 3; ++i) {
    RequestSpec s = Spec();
    s.request_id = "r" + std::to_string(i);
    router_->Generate(static_cast<SubscriberId>(10 + i), s, now_, &actions_);
  }
  EXPECT_EQ(Drain(11), "^");
  EXPECT_EQ(Drain(12), "!RESOURCE_EXHAUSTED");
  EXPECT_GT(RetryAfterMs(last_), 0);
}

TEST_F(RouterTest, ADeadlineEndsWhatRuns) {
  AddTokenizer(1);
  AddTarget(2);
  RequestSpec s = Spec();
  s.deadline_us = now_ + 100'000;
  const auto open = StartOne(s);
  router_->OnTokens(open.call, Letters(0, "ab"), now_, &actions_);
  Tick(150'000, {2});
  EXPECT_EQ(Drain(1), "^ab<0:5 2>.");
  EXPECT_EQ(Take<action::CancelCall>().size(), 1u);
}

TEST_F(RouterTest, ASeedIsDrawnWhereNoneWasGiven) {
  AddTokenizer(1);
  AddTarget(2);
  RequestSpec s = Spec();
  s.has_seed = false;
  s.request_id.clear();
  const auto open = StartOne(s);
  EXPECT_NE(open.open.sampling.seed, 42u);
  EXPECT_THAT(open.open.request_id, HasSubstr("req-"));
}

TEST_F(RouterTest, ModelsAreFoundByNameOrNotAtAll) {
  AddTokenizer(1);
  AddTarget(2);
  Tick(options_.settle_us, {2});
  RequestSpec s = Spec();
  s.model = "other";
  router_->Generate(2, s, now_, &actions_);
  EXPECT_EQ(Drain(2), "!NOT_FOUND");
}

TEST_F(RouterTest, ARouterThatHasJustStartedWaitsForItsTargets) {
  router_->Generate(1, Spec(), now_, &actions_);
  EXPECT_EQ(Drain(1), "");
  Tick(options_.worker_wait_us - 1);
  EXPECT_EQ(Drain(1), "");
  AddTokenizer(1);
  AddTarget(2);
  RequestSpec other = Spec();  // its targets may come a moment after those of m
  other.model = "other";
  other.request_id = "r2";
  router_->Generate(2, other, now_, &actions_);
  EXPECT_EQ(Take<action::OpenDecode>().size(), 1u);
  EXPECT_EQ(Drain(2), "");
  Tick(options_.settle_us, {2});
  EXPECT_EQ(Drain(2), "!NOT_FOUND");
}

TEST_F(RouterTest, WithoutTargetsARequestWaitsForSoLongAndNoLonger) {
  router_->Generate(1, Spec(), now_, &actions_);
  Tick(options_.worker_wait_us - 1);
  EXPECT_EQ(Drain(1), "");
  Tick(1);
  EXPECT_EQ(Drain(1), "!UNAVAILABLE");
  EXPECT_EQ(ReasonOf(last_), "NO_WORKER");
}

TEST_F(RouterTest, APromptKeepsToItsLastTargetUntilThatIsBusy) {
  AddTokenizer(1);
  AddTarget(2);
  AddTarget(3);
  const std::vector<int32_t> prompt(40, 5);
  const std::map<WorkerHandle, int64_t> none;
  const WorkerHandle first = router_->fleet().PickTarget(9, prompt, none, now_);
  const WorkerHandle other = first == 2 ? 3 : 2;
  router_->fleet().AddOpenCalls(first, options_.affinity_slack);
  EXPECT_EQ(router_->fleet().PickTarget(9, prompt, none, now_), first);
  EXPECT_EQ(router_->fleet().PickTarget(9, std::vector<int32_t>(40, 6), none, now_), other);
  router_->fleet().AddOpenCalls(first, 1);
  EXPECT_EQ(router_->fleet().PickTarget(9, prompt, none, now_), other);
  WorkerReport draining = TargetReport(other);
  draining.state = WorkerState::kDraining;
  ASSERT_TRUE(router_->OnReport(other, draining, now_, &actions_).ok());
  EXPECT_EQ(router_->fleet().PickTarget(9, prompt, none, now_), first);
}

TEST_F(RouterTest, AWorkerWhoseWordsDifferIsNotUsed) {
  AddTokenizer(1);
  ASSERT_TRUE(router_->OnReport(2, TargetReport(2), now_, &actions_).ok());
  router_->OnModelInfo(2, ModelInfo{"m", "toy", 10, 5, 28, 100, {kEos}}, now_,
                       &actions_);  // reports say 9
  EXPECT_EQ(router_->fleet().PickTarget(9, {}, {}, now_), 0u);
  EXPECT_EQ(router_->fleet().PickTarget(10, {}, {}, now_), 0u);
  WorkerReport bad = TargetReport(3);
  bad.address.clear();
  EXPECT_EQ(router_->OnReport(3, bad, now_, &actions_).code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace tutti::router
