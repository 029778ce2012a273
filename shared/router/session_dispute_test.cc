// Targets that say different things: who is asked, who is believed, who is asked no more.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "shared/router/testing_router.h"

namespace tutti::router {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

absl::Status Mismatch() {
  return WithReason(absl::DataLossError("output token 1 is 7, and was sent as 3"), kResumeMismatch);
}

class SessionDisputeTest : public RouterTest {
 protected:
  void AddTargets(std::vector<WorkerHandle> handles) {
    AddTokenizer(1);
    for (const WorkerHandle h : handles) AddTarget(h);
  }
  bool Trusted(WorkerHandle handle) { return router_->fleet().IsUsable(handle); }
  // Two tokens of the first target, which then dies; the call to the next one.
  action::OpenDecode StartAndLose(WorkerHandle* author) {
    const auto first = StartOne(Spec(4));
    *author = first.worker;
    router_->OnTokens(first.call, Letters(0, "ab"), now_, &actions_);
    router_->OnCallClosed(first.call, absl::UnavailableError("gone"), now_, &actions_);
    const auto next = Take<action::OpenDecode>();
    EXPECT_EQ(next.size(), 1u);
    return next.empty() ? action::OpenDecode() : next[0];
  }
};

TEST_F(SessionDisputeTest, AFinalErrorIsBelievedWhenTwoTargetsSayIt) {
  AddTargets({2, 3, 4});
  for (const absl::Status& status :
       {absl::InvalidArgumentError("open.x"), absl::PermissionDeniedError("no"),
        absl::UnimplementedError("what"),
        WithReason(absl::InternalError("NaN"), "NUMERIC_FAULT")}) {
    const auto open = StartOne(Spec());
    router_->OnCallClosed(open.call, status, now_, &actions_);
    const auto again = Take<action::OpenDecode>();
    ASSERT_EQ(again.size(), 1u);
    EXPECT_NE(again[0].worker, open.worker);
    EXPECT_EQ(Drain(1), "^");
    router_->OnCallClosed(again[0].call, status, now_, &actions_);
    EXPECT_THAT(Take<action::OpenDecode>(), IsEmpty());
    EXPECT_EQ(Drain(1), "!" + std::string(absl::StatusCodeToString(status.code())));
    router_->OnSubscriberGone(1, now_, &actions_);
  }
}

TEST_F(SessionDisputeTest, AFinalErrorOfTheOnlyTargetIsToldAtOnce) {
  AddTargets({2});
  const auto open = StartOne(Spec());
  router_->OnCallClosed(open.call, absl::InvalidArgumentError("open.x"), now_, &actions_);
  EXPECT_EQ(Drain(1), "!INVALID_ARGUMENT");
}

TEST_F(SessionDisputeTest, OneTargetCannotRefuseForAll) {
  AddTargets({2, 3});
  const auto open = StartOne(Spec(2));
  router_->OnCallClosed(open.call, absl::InvalidArgumentError("open.x"), now_, &actions_);
  const auto again = Take<action::OpenDecode>();
  ASSERT_EQ(again.size(), 1u);
  router_->OnTokens(again[0].call, Letters(0, "ab"), now_, &actions_);
  router_->OnDecodeEnd(again[0].call, End(FinishReason::kLength, 2), now_, &actions_);
  EXPECT_EQ(Drain(1), "^ab<0:3 2>.");
  router_->OnSubscriberGone(1, now_, &actions_);
  // It is asked last for a while, and not distrusted: its limits may be others.
  EXPECT_TRUE(Trusted(open.worker));
  EXPECT_EQ(StartOne(Spec(2)).worker, again[0].worker);
}

TEST_F(SessionDisputeTest, AThirdTargetThatAgreesWithWhatWasSentGoesOn) {
  AddTargets({2, 3, 4});
  WorkerHandle author = 0;
  const auto second = StartAndLose(&author);
  EXPECT_THAT(second.open.generated_ids, ElementsAre(2, 3));
  router_->OnCallClosed(second.call, Mismatch(), now_, &actions_);
  const auto third = Take<action::OpenDecode>();
  ASSERT_EQ(third.size(), 1u);
  EXPECT_NE(third[0].worker, author);
  EXPECT_NE(third[0].worker, second.worker);
  EXPECT_TRUE(Trusted(second.worker));  // nobody knows yet
  router_->OnTokens(third[0].call, Letters(2, "cd"), now_, &actions_);
  EXPECT_FALSE(Trusted(second.worker));
  EXPECT_TRUE(Trusted(author));
  EXPECT_EQ(watcher_.contradictions, 1);
  router_->OnDecodeEnd(third[0].call, End(FinishReason::kLength, 4), now_, &actions_);
  EXPECT_EQ(Drain(1), "^abcd<0:3 4>.");
}

TEST_F(SessionDisputeTest, TwoTargetsThatDisagreeWithWhatWasSentEndTheRequest) {
  AddTargets({2, 3, 4});
  WorkerHandle author = 0;
  const auto second = StartAndLose(&author);
  router_->OnCallClosed(second.call, Mismatch(), now_, &actions_);
  const auto third = Take<action::OpenDecode>();
  ASSERT_EQ(third.size(), 1u);
  router_->OnCallClosed(third[0].call, Mismatch(), now_, &actions_);
  EXPECT_EQ(Drain(1), "!DATA_LOSS");
  EXPECT_EQ(ReasonOf(last_), "COMPUTED_WRONG");
  EXPECT_FALSE(Trusted(author));
  EXPECT_TRUE(Trusted(second.worker));
  EXPECT_TRUE(Trusted(third[0].worker));
}

TEST_F(SessionDisputeTest, WithoutAThirdTargetTheRequestEndsAndNobodyIsBlamed) {
  AddTargets({2, 3});
  WorkerHandle author = 0;
  const auto second = StartAndLose(&author);
  router_->OnCallClosed(second.call, Mismatch(), now_, &actions_);
  EXPECT_EQ(Drain(1), "!DATA_LOSS");
  EXPECT_EQ(ReasonOf(last_), kResumeMismatch);
  EXPECT_TRUE(Trusted(author));
  EXPECT_TRUE(Trusted(second.worker));
}

TEST_F(SessionDisputeTest, WhatATargetFoundWrongInItsOwnAnswerIsNotAskedElsewhere) {
  AddTargets({2, 3});
  const auto open = StartOne(Spec(4));
  router_->OnTokens(open.call, Letters(0, "ab"), now_, &actions_);
  router_->OnCallClosed(open.call, WithReason(absl::DataLossError("a shard"), "COMPUTED_WRONG"),
                        now_, &actions_);
  EXPECT_THAT(Take<action::OpenDecode>(), IsEmpty());
  EXPECT_EQ(Drain(1), "!DATA_LOSS");
}

TEST_F(SessionDisputeTest, ADistrustedProcessStaysSoWhenItJoinsAgain) {
  AddTargets({2, 3});
  router_->fleet().Distrust(2, absl::DataLossError("wrong"));
  EXPECT_EQ(router_->fleet().TakeDistrusted().size(), 1u);
  EXPECT_FALSE(Trusted(2));
  EXPECT_THAT(router_->fleet().View()[1].report.refused, HasSubstr("wrong"));  // tutti status
  WorkerReport again = TargetReport(2);
  ASSERT_TRUE(router_->OnReport(7, again, now_, &actions_).ok());
  router_->OnModelInfo(7, ModelInfo{"m", "toy", 9, 5, 28, 100, {kEos}}, now_, &actions_);
  EXPECT_FALSE(Trusted(7));
  router_->OnWorkerClosed(7, now_, &actions_);
  again.process_nonce = "another";  // started anew
  ASSERT_TRUE(router_->OnReport(8, again, now_, &actions_).ok());
  router_->OnModelInfo(8, ModelInfo{"m", "toy", 9, 5, 28, 100, {kEos}}, now_, &actions_);
  EXPECT_TRUE(Trusted(8));
}

// ---- audits

class AuditorTest : public SessionDisputeTest {
 protected:
  // A finished answer of `author`, and the call that audits it.
  action::OpenDecode FinishOne(WorkerHandle* author) {
    const auto open = StartOne(Spec(3));
    *author = open.worker;
    router_->OnTokens(open.call, Letters(0, "abc"), now_, &actions_);
    router_->OnDecodeEnd(open.call, End(FinishReason::kLength, 3), now_, &actions_);
    EXPECT_EQ(Drain(1), "^abc<0:3 3>.");
    router_->OnSubscriberGone(1, now_, &actions_);
    Tick(50'000);
    const auto opened = Take<action::OpenDecode>();
    EXPECT_EQ(opened.size(), 1u);
    return opened.empty() ? action::OpenDecode() : opened[0];
  }
  void SetRate(double rate) {
    RouterOptions options;
    options.audit_rate = rate;
    Reset(options);
  }
};

TEST_F(AuditorTest, ItHasTheWholeOutputCheckedByAnotherTarget) {
  SetRate(1);
  AddTargets({2, 3});
  WorkerHandle author = 0;
  const auto audit = FinishOne(&author);
  EXPECT_NE(audit.worker, author);
  EXPECT_THAT(audit.open.generated_ids, ElementsAre(2, 3, 4));
  EXPECT_EQ(audit.open.digest, 102u);
  EXPECT_EQ(audit.open.sampling.max_tokens, 3);
  EXPECT_EQ(audit.open.sampling.seed, 42u);
  EXPECT_LT(audit.open.priority, 0);
  router_->OnDecodeEnd(audit.call, End(FinishReason::kLength, 3), now_, &actions_);
  EXPECT_THAT(watcher_.audits, ElementsAre("t" + std::to_string(author) + " agreed"));
  EXPECT_EQ(router_->Stats().open_calls, 0u);
}

TEST_F(AuditorTest, AnEndBeforeTheLastTokenIsNoAgreement) {
  SetRate(1);
  AddTargets({2, 3});
  WorkerHandle author = 0;
  const auto audit = FinishOne(&author);
  router_->OnDecodeEnd(audit.call, End(FinishReason::kEos, 2), now_, &actions_);
  ASSERT_EQ(watcher_.audits.size(), 1u);
  EXPECT_THAT(watcher_.audits[0], HasSubstr("inconclusive"));
}

TEST_F(AuditorTest, AThirdTargetDecidesWhoIsWrong) {
  for (const bool output_is_wrong : {false, true}) {
    SetRate(1);
    watcher_.audits.clear();
    AddTargets({2, 3, 4});
    WorkerHandle author = 0;
    const auto audit = FinishOne(&author);
    router_->OnCallClosed(audit.call, Mismatch(), now_, &actions_);
    const auto third = Take<action::OpenDecode>();
    ASSERT_EQ(third.size(), 1u);
    EXPECT_NE(third[0].worker, author);
    EXPECT_NE(third[0].worker, audit.worker);
    if (output_is_wrong) {
      router_->OnCallClosed(third[0].call, Mismatch(), now_, &actions_);
    } else {
      router_->OnDecodeEnd(third[0].call, End(FinishReason::kLength, 3), now_, &actions_);
    }
    ASSERT_EQ(watcher_.audits.size(), 1u);
    EXPECT_THAT(watcher_.audits[0], HasSubstr(output_is_wrong ? "wrong_output" : "wrong_auditor"));
    EXPECT_EQ(Trusted(author), !output_is_wrong);
    EXPECT_EQ(Trusted(audit.worker), output_is_wrong);
    EXPECT_TRUE(Trusted(third[0].worker));
  }
}

TEST_F(AuditorTest, WithTwoTargetsTheAuthorIsAskedAgain) {
  for (const bool same_again : {false, true}) {
    SetRate(1);
    watcher_.audits.clear();
    AddTargets({2, 3});
    WorkerHandle author = 0;
    const auto audit = FinishOne(&author);
    router_->OnCallClosed(audit.call, Mismatch(), now_, &actions_);
    const auto again = Take<action::OpenDecode>();
    ASSERT_EQ(again.size(), 1u);
    EXPECT_EQ(again[0].worker, author);
    if (same_again) {
      router_->OnDecodeEnd(again[0].call, End(FinishReason::kLength, 3), now_, &actions_);
    } else {
      router_->OnCallClosed(again[0].call, Mismatch(), now_, &actions_);
    }
    ASSERT_EQ(watcher_.audits.size(), 1u);
    EXPECT_THAT(watcher_.audits[0], HasSubstr(same_again ? "unresolved" : "wrong_output"));
    EXPECT_EQ(Trusted(author), same_again);
    EXPECT_TRUE(Trusted(audit.worker));
  }
}

TEST_F(AuditorTest, ItTakesTheShareThatIsStated) {
  Auditor auditor(0.1);
  int taken = 0;
  for (int i = 0; i < 1000; ++i) taken += auditor.IsTurn() ? 1 : 0;
  EXPECT_NEAR(taken, 100, 1);
  Auditor none(0);
  for (int i = 0; i < 1000; ++i) EXPECT_FALSE(none.IsTurn());
}

TEST_F(AuditorTest, NothingIsAuditedWithoutAnotherTarget) {
  SetRate(1);
  AddTargets({2});
  const auto open = StartOne(Spec(1));
  router_->OnTokens(open.call, Letters(0, "a"), now_, &actions_);
  router_->OnDecodeEnd(open.call, End(FinishReason::kLength, 1), now_, &actions_);
  Tick(50'000);
  EXPECT_THAT(Take<action::OpenDecode>(), IsEmpty());
  EXPECT_THAT(watcher_.audits, ElementsAre("t2 inconclusive"));
}

}  // namespace
}  // namespace tutti::router
