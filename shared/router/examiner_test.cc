// Targets that join beside a proven one: who gets work, and after what.
#include "shared/router/examiner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "shared/router/testing_router.h"

namespace tutti::router {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

class ExaminerTest : public RouterTest {
 protected:
  ExaminerTest() {
    RouterOptions options;
    options.exam_tokens = 4;
    Reset(options);
    AddTokenizer(1);
  }
  bool Usable(WorkerHandle h) { return router_->fleet().IsUsable(h); }
  std::string Refused(WorkerHandle h) {
    for (const WorkerView& w : router_->fleet().View()) {
      if (w.handle == h) return w.report.refused;
    }
    return "gone";
  }
  // The examination's calls: to the new target, to the proven one.
  std::vector<action::OpenDecode> Exam() { return Take<action::OpenDecode>(); }
  void Answer(const action::OpenDecode& open, const std::string& letters) {
    router_->OnTokens(open.call, Letters(0, letters), now_, &actions_);
    router_->OnDecodeEnd(open.call, End(FinishReason::kLength, static_cast<int>(letters.size())),
                         now_, &actions_);
    router_->OnCallClosed(open.call, absl::OkStatus(), now_, &actions_);
  }
};

TEST_F(ExaminerTest, TheFirstTargetIsProvenAndTheNextIsComparedWithIt) {
  AddTarget(2);
  EXPECT_TRUE(Usable(2));
  EXPECT_THAT(Exam(), IsEmpty());
  AddTarget(3);
  EXPECT_FALSE(Usable(3));
  const auto exam = Exam();
  ASSERT_EQ(exam.size(), 2u);
  EXPECT_EQ(exam[0].worker, 3u);
  EXPECT_EQ(exam[1].worker, 2u);
  EXPECT_EQ(*exam[0].open.prompt_ids, *exam[1].open.prompt_ids);
  EXPECT_EQ(exam[0].open.sampling.seed, exam[1].open.sampling.seed);
  EXPECT_THAT(exam[0].open.generated_ids, IsEmpty());  // nothing to copy from
  for (const int32_t id : *exam[0].open.prompt_ids) EXPECT_LT(id, 28);
  // A request meanwhile goes to the proven target.
  EXPECT_EQ(StartOne(Spec()).worker, 2u);
  Answer(exam[0], "abcd");
  EXPECT_FALSE(Usable(3));
  Answer(exam[1], "abcd");
  EXPECT_TRUE(Usable(3));
  EXPECT_EQ(Refused(3), "");
}

TEST_F(ExaminerTest, OtherDigestsOfTheSameTokensAreADifference) {
  AddTarget(2);
  AddTarget(3);
  const auto exam = Exam();
  ASSERT_EQ(exam.size(), 2u);
  DecodedTokens tokens = Letters(0, "abcd");
  tokens.tokens[3].digest ^= 1;
  router_->OnTokens(exam[0].call, tokens, now_, &actions_);
  router_->OnDecodeEnd(exam[0].call, End(FinishReason::kLength, 4), now_, &actions_);
  Answer(exam[1], "abcd");
  EXPECT_FALSE(Usable(3));
  EXPECT_TRUE(Usable(2));
  EXPECT_THAT(Refused(3), HasSubstr("t2"));
  // A third target joins, is proven, and decides.
  AddTarget(4);
  Tick(1000, {2, 3, 4});
  auto again = Exam();
  ASSERT_EQ(again.size(), 2u);
  for (auto& call : again) Answer(call, "abcd");
  EXPECT_TRUE(Usable(4));
  for (int i = 0; i < 11; ++i) Tick(1'000'000, {2, 3, 4});
  again = Exam();
  ASSERT_EQ(again.size(), 2u);
  EXPECT_EQ(again[0].worker, 3u);
  for (auto& call : again) Answer(call, call.worker == 3 ? "abcx" : "abcd");
  again = Exam();
  ASSERT_EQ(again.size(), 1u);
  EXPECT_THAT((std::set<WorkerHandle>{2, 4}), ::testing::Contains(again[0].worker));
  Answer(again[0], "abcd");
  Tick(1000);
  EXPECT_THAT(Refused(3), HasSubstr("wrong"));
  EXPECT_FALSE(Usable(3));
  EXPECT_TRUE(Usable(2));
}

TEST_F(ExaminerTest, TwoNewTargetsThatAgreeOverruleTheProvenOne) {
  AddTarget(2);
  AddTarget(3);
  auto exam = Exam();
  ASSERT_EQ(exam.size(), 2u);
  AddTarget(4);
  Answer(exam[0], "abcd");
  Answer(exam[1], "abcx");
  exam = Exam();
  ASSERT_EQ(exam.size(), 1u);
  EXPECT_EQ(exam[0].worker, 4u);
  Answer(exam[0], "abcd");
  EXPECT_TRUE(Usable(3));
  EXPECT_TRUE(Usable(4));
  EXPECT_FALSE(Usable(2));
  EXPECT_THAT(Refused(2), HasSubstr("wrong"));
}

TEST_F(ExaminerTest, ATargetThatFailsIsSilentOrGivesGarbageWaits) {
  AddTarget(2);
  AddTarget(3);
  auto exam = Exam();
  ASSERT_EQ(exam.size(), 2u);
  Answer(exam[1], "abcd");
  router_->OnCallClosed(exam[0].call, absl::DataLossError("token id -1"), now_, &actions_);
  EXPECT_FALSE(Usable(3));
  EXPECT_THAT(Exam(), IsEmpty());
  Tick(5'100'000, {2, 3});
  exam = Exam();
  ASSERT_EQ(exam.size(), 2u);
  Answer(exam[1], "abcd");
  router_->OnTokens(exam[0].call, Letters(0, "abcdefgh"), now_, &actions_);  // more than asked for
  EXPECT_FALSE(Usable(3));
  Tick(5'100'000, {2, 3});
  exam = Exam();
  ASSERT_EQ(exam.size(), 2u);
  Answer(exam[1], "abcd");
  for (int i = 0; i < 16; ++i) Tick(1'000'000, {2, 3});  // silence
  EXPECT_FALSE(Usable(3));
  exam = Exam();
  for (int i = 0; i < 6 && exam.empty(); ++i) {
    Tick(1'000'000, {2, 3});
    exam = Exam();
  }
  ASSERT_EQ(exam.size(), 2u);
  for (auto& call : exam) Answer(call, "abcd");
  EXPECT_TRUE(Usable(3));
}

TEST_F(ExaminerTest, WhenTheProvenTargetIsGoneTheOneThatWaitsIsTaken) {
  AddTarget(2);
  AddTarget(3);
  const auto exam = Exam();
  ASSERT_EQ(exam.size(), 2u);
  router_->OnWorkerClosed(2, now_, &actions_);
  router_->OnCallClosed(exam[1].call, absl::UnavailableError("gone"), now_, &actions_);
  router_->OnCallClosed(exam[0].call, absl::UnavailableError("cancelled"), now_, &actions_);
  Tick(600'000, {3});
  EXPECT_TRUE(Usable(3));
}

TEST_F(ExaminerTest, TokenizersAreComparedToo) {
  AddTarget(2);
  EXPECT_TRUE(Usable(1));
  AddTokenizer(5);
  EXPECT_FALSE(Usable(5));
  auto exam = Take<action::Encode>();
  ASSERT_EQ(exam.size(), 2u);
  EXPECT_EQ(std::get<std::string>(exam[0].prompt), std::get<std::string>(exam[1].prompt));
  EXPECT_FALSE(std::get<std::string>(exam[0].prompt).empty());
  router_->OnEncoded(exam[0].call, Encoded{{2, 3}, ""}, now_, &actions_);
  router_->OnEncoded(exam[1].call, Encoded{{2, 4}, ""}, now_, &actions_);
  EXPECT_FALSE(Usable(5));
  EXPECT_THAT(Refused(5), HasSubstr("tok1"));
  RequestSpec spec = Spec();
  spec.prompt = std::string("text");
  router_->Generate(1, spec, now_, &actions_);
  exam = Take<action::Encode>();
  ASSERT_EQ(exam.size(), 1u);
  EXPECT_EQ(exam[0].worker, 1u);  // the proven one
  AddTokenizer(6);
  exam = Take<action::Encode>();
  ASSERT_EQ(exam.size(), 2u);
  for (auto& call : exam) router_->OnEncoded(call.call, Encoded{{2, 4}, ""}, now_, &actions_);
  EXPECT_TRUE(Usable(6));
}

TEST_F(ExaminerTest, ADisputedTargetIsNotTakenInItsPlace) {
  AddTarget(2);
  AddTarget(3);
  const auto exam = Exam();
  ASSERT_EQ(exam.size(), 2u);
  Answer(exam[0], "abcx");
  Answer(exam[1], "abcd");
  router_->OnWorkerClosed(2, now_, &actions_);
  Tick(11'000'000, {3});
  EXPECT_FALSE(Usable(3));
  AddTarget(4);  // decides: proven as the first undisputed one
  Tick(100'000, {3, 4});
  EXPECT_TRUE(Usable(4));
}

}  // namespace
}  // namespace tutti::router
