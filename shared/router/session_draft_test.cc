// Drafts of a request: whose words count, and when they are let go.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "shared/router/testing_router.h"

namespace tutti::router {
namespace {

using SessionDraftTest = RouterTest;

// Over a slow network a draft says many words before it hears of a mistake, and hears of several
// tokens before its next words arrive.
TEST_F(SessionDraftTest, AMistakenDraftIsHeardAgainOnceItWasTold) {
  AddTokenizer(1);
  AddTarget(2);
  WorkerReport draft = TargetReport(3);
  draft.kind = WorkerKind::kDraft;
  ASSERT_TRUE(router_->OnReport(3, draft, now_, &actions_).ok());
  RequestSpec spec = Spec(90);
  spec.sampling.ignore_eos = true;
  router_->Generate(1, spec, now_, &actions_);
  const auto opened = Take<action::OpenDecode>();
  ASSERT_EQ(opened.size(), 2u);
  const CallId target = opened[0].call, drafting = opened[1].call;
  const auto say = [&](uint32_t position, const std::string& letters, uint32_t confirmed) {
    DecodedTokens words = Letters(position, letters);
    words.confirmed = confirmed;
    router_->OnTokens(drafting, words, now_, &actions_);
    std::vector<std::pair<uint32_t, size_t>> hints;  // from where, how many
    for (const auto& h : Take<action::Hint>()) hints.emplace_back(h.position, h.tokens.size());
    return hints;
  };
  using Hints = std::vector<std::pair<uint32_t, size_t>>;
  EXPECT_EQ(say(0, "abcd", 0), (Hints{{0, 4}}));
  router_->OnTokens(target, Letters(0, "abx"), now_, &actions_);
  EXPECT_EQ(say(4, "e", 0), Hints{});  // it had not heard of x
  router_->OnTokens(target, Letters(3, "y"), now_, &actions_);
  EXPECT_EQ(say(5, "f", 2), Hints{});
  // Now it had heard of x, and said y, too: what it says beyond is a hint.
  EXPECT_EQ(say(3, "yz", 3), (Hints{{4, 1}}));
  // Overtaken by what the target says, and right: it goes on.
  router_->OnTokens(target, Letters(4, "zab"), now_, &actions_);
  EXPECT_EQ(say(5, "abc", 4), (Hints{{7, 1}}));
  // A mistake that is known when it arrives.
  router_->OnTokens(target, Letters(7, "cd"), now_, &actions_);
  EXPECT_EQ(say(8, "ef", 7), Hints{});
  EXPECT_EQ(say(10, "g", 8), Hints{});
  EXPECT_EQ(say(9, "efg", 9), (Hints{{9, 3}}));
  EXPECT_EQ(say(9, "efg", 9), Hints{});  // told twice
  // Every token was confirmed once, none with a new epoch: nothing is said anew for a mistake.
  uint32_t next = 0;
  for (const auto& c : Take<action::Confirm>()) {
    EXPECT_EQ(c.epoch, 0u);
    EXPECT_EQ(c.position, next);
    next += static_cast<uint32_t>(c.tokens.size());
  }
  EXPECT_EQ(next, 9u);
  // A word that was lost: it starts anew from all that it may not have heard of.
  EXPECT_EQ(say(14, "z", 9), Hints{});
  const auto anew = Take<action::Confirm>();
  ASSERT_EQ(anew.size(), 1u);
  EXPECT_EQ(anew[0].epoch, 1u);
  EXPECT_EQ(anew[0].position, 9u);
  EXPECT_EQ(say(12, "h", 9), Hints{});  // of before
}

TEST_F(SessionDraftTest, ADraftThatIsNoHelpIsLetGoAndTriedAgainLater) {
  RouterOptions options = options_;
  options.draft_trial_tokens = 8;
  options.draft_least_share = 0;
  Reset(options);
  AddTokenizer(1);
  AddTarget(2);
  WorkerReport draft = TargetReport(3);
  draft.kind = WorkerKind::kDraft;
  draft.fingerprint = 10;
  ASSERT_TRUE(router_->OnReport(3, draft, now_, &actions_).ok());
  RequestSpec spec = Spec(90);
  spec.sampling.ignore_eos = true;
  router_->Generate(1, spec, now_, &actions_);
  auto opened = Take<action::OpenDecode>();
  ASSERT_EQ(opened.size(), 2u);
  EXPECT_EQ(opened[1].worker, 3u);
  const CallId target = opened[0].call;
  CallId drafting = opened[1].call;
  uint32_t at = 0;
  // Tokens `us` apart until the router opens a call or cancels one; how many.
  const auto until_called = [&](int64_t us) {
    const uint32_t before = at;
    while (at < 88) {
      now_ += us;
      router_->OnTokens(target, Letters(at++, "a"), now_, &actions_);
      router_->Tick(now_, &actions_);
      opened = Take<action::OpenDecode>();
      const auto cancelled = Take<action::CancelCall>();
      if (!cancelled.empty()) {
        EXPECT_EQ(cancelled[0].call, drafting);
      }
      if (!opened.empty() || !cancelled.empty()) break;
    }
    return at - before;
  };
  EXPECT_EQ(until_called(1000), 13u);  // the first has no time, 4 are skipped; then without
  EXPECT_TRUE(opened.empty());
  for (int i = 0; i < 13; ++i) {  // they come sooner without
    now_ += 700;
    router_->OnTokens(target, Letters(at++, "a"), now_, &actions_);
  }
  EXPECT_TRUE(Take<action::OpenDecode>().empty());

  const auto later = [&](int64_t us) {
    now_ += us;
    ASSERT_TRUE(router_->OnReport(2, TargetReport(2), now_, &actions_).ok());
    ASSERT_TRUE(router_->OnReport(3, draft, now_, &actions_).ok());
    router_->Tick(now_, &actions_);
  };
  const int64_t half_pause = RouterOptions().draft_pause_us / 2;
  later(half_pause);
  EXPECT_TRUE(Take<action::OpenDecode>().empty());
  later(half_pause);
  opened = Take<action::OpenDecode>();  // the pause is over
  ASSERT_EQ(opened.size(), 1u);
  EXPECT_EQ(opened[0].worker, 3u);
  drafting = opened[0].call;
  // Now they come sooner with it: it is asked again at once after the tokens without.
  EXPECT_GE(until_called(500), 12u);
  EXPECT_TRUE(opened.empty());
  EXPECT_EQ(until_called(700), 12u);
  ASSERT_EQ(opened.size(), 1u);
  EXPECT_EQ(opened[0].worker, 3u);
}

}  // namespace
}  // namespace tutti::router
