#include "shared/router/router.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "shared/router/validate.h"

namespace tutti::router {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int32_t kEos = 1;

std::shared_ptr<const tokenizer::TokenDecoder> Decoder() {
  tokenizer::DecoderTable t;
  t.bytes = {"<s>", "</s>"};
  for (char c = 'a'; c <= 'z'; ++c) t.bytes.push_back(std::string(1, c));
  t.special.assign(t.bytes.size(), false);
  t.special[0] = t.special[1] = true;
  return tokenizer::MakeByteDecoder(std::move(t));
}

struct Watcher : Observer {
  void OnFailover(std::string_view, uint32_t, std::string_view, size_t,
                  const absl::Status&) override {
    ++failovers;
  }
  void OnContradiction(std::string_view, uint32_t, std::string_view, const absl::Status&) override {
    ++contradictions;
  }
  int failovers = 0, contradictions = 0;
};

// A router with hands: events go in, actions of one kind come out.
class RouterTest : public ::testing::Test {
 protected:
  RouterTest() { Reset({}); }
  void Reset(const RouterOptions& options) {
    options_ = options;
    router_ = std::make_unique<Router>(
        options, [this] { return ++random_; }, &watcher_);
  }

  void AddTokenizer(WorkerHandle handle) {
    WorkerReport r;
    r.worker_id = "tok" + std::to_string(handle);
    r.kind = WorkerKind::kTokenizer;
    r.state = WorkerState::kReady;
    r.address = "tok";
    r.tokenizer_fingerprint = 5;
    ASSERT_TRUE(router_->OnReport(handle, r, now_, &actions_).ok());
    router_->OnVocabulary(handle, Vocabulary{5, Decoder(), 0, 1, false}, now_, &actions_);
  }
  WorkerReport TargetReport(WorkerHandle handle) {
    WorkerReport r;
    r.worker_id = "t" + std::to_string(handle);
    r.kind = WorkerKind::kTarget;
    r.state = WorkerState::kReady;
    r.address = "t" + std::to_string(handle);
    r.fingerprint = 9;
    r.tokenizer_fingerprint = 5;
    r.model = "m";
    return r;
  }
  void AddTarget(WorkerHandle handle) {
    ASSERT_TRUE(router_->OnReport(handle, TargetReport(handle), now_, &actions_).ok());
    router_->OnModelInfo(handle, ModelInfo{"m", "toy", 9, 5, 28, 100, {kEos}}, now_, &actions_);
  }
  template <typename A>
  std::vector<A> Take() {
    std::vector<A> out;
    Actions rest;
    for (Action& a : actions_) {
      if (std::holds_alternative<A>(a)) {
        out.push_back(std::get<A>(std::move(a)));
      } else {
        rest.push_back(std::move(a));
      }
    }
    actions_ = std::move(rest);
    return out;
  }
  static RequestSpec Spec(int max_tokens = 10) {
    RequestSpec s;
    s.request_id = "r";
    s.prompt = std::vector<int32_t>{2, 3, 4};
    s.has_seed = s.has_max_tokens = true;
    s.sampling.seed = 42;
    s.sampling.max_tokens = max_tokens;
    s.sampling.ignore_eos = false;
    return s;
  }
  // Tokens 'a', 'b', ... by their letters; the digest of position p is 100 + p.
  static DecodedTokens Letters(uint32_t position, const std::string& letters) {
    DecodedTokens d;
    d.position = position;
    for (size_t i = 0; i < letters.size(); ++i) {
      Token t;
      t.id = letters[i] == '$' ? kEos : 2 + letters[i] - 'a';
      t.digest = 100 + position + i;
      d.tokens.push_back(t);
    }
    return d;
  }
  static DecodeEnd End(FinishReason reason, int tokens) {
    DecodeEnd e;
    e.reason = reason;
    e.usage.output_tokens = tokens;
    return e;
  }
  // Everything for that subscriber, as a line: text of deltas, <reason>, end.
  std::string Drain(SubscriberId id) {
    std::string out;
    while (const auto m = router_->Next(id)) {
      if (std::holds_alternative<message::Started>(m->body)) out += "^";
      if (const auto* d = std::get_if<message::Delta>(&m->body)) out += d->text;
      if (const auto* f = std::get_if<message::Finished>(&m->body)) {
        out += "<" + std::to_string(f->index) + ":" +
               std::to_string(static_cast<int>(f->finish->reason)) + " " +
               std::to_string(f->output_tokens) + ">";
      }
      if (const auto* e = std::get_if<message::End>(&m->body)) {
        out += e->status.ok() ? "." : "!" + std::string(absl::StatusCodeToString(e->status.code()));
        last_ = e->status;
      }
    }
    return out;
  }
  action::OpenDecode StartOne(RequestSpec spec) {
    router_->Generate(1, std::move(spec), now_, &actions_);
    auto opened = Take<action::OpenDecode>();
    EXPECT_EQ(opened.size(), 1u);
    return opened.empty() ? action::OpenDecode() : opened[0];
  }
  void Tick(int64_t us, const std::vector<WorkerHandle>& alive = {}) {
    now_ += us;
    for (const WorkerHandle h : alive) (void)router_->OnReport(h, TargetReport(h), now_, &actions_);
    router_->Tick(now_, &actions_);
  }

  RouterOptions options_;
  Watcher watcher_;
  std::unique_ptr<Router> router_;
  Actions actions_;
  int64_t now_ = 1'000'000;
  uint64_t random_ = 1000;
  absl::Status last_;
};

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

TEST_F(RouterTest, FinalErrorsAreNotTriedElsewhere) {
  AddTokenizer(1);
  AddTarget(2);
  AddTarget(3);
  for (const absl::Status& status : {absl::InvalidArgumentError("open.x"),
                                     WithReason(absl::InternalError("NaN"), "NUMERIC_FAULT")}) {
    const auto open = StartOne(Spec());
    router_->OnCallClosed(open.call, status, now_, &actions_);
    EXPECT_TRUE(Take<action::OpenDecode>().empty());
    EXPECT_EQ(Drain(1), "!" + std::string(absl::StatusCodeToString(status.code())));
    router_->OnSubscriberGone(1, now_, &actions_);
  }
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

// Over a slow network a draft says many words before it hears of a mistake, and hears of several
// tokens before its next words arrive.
TEST_F(RouterTest, AMistakenDraftIsHeardAgainOnceItWasTold) {
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

TEST_F(RouterTest, ADraftThatIsNoHelpIsLetGoAndTriedAgainLater) {
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

  router_->Resume(2, "r", 0, 0, now_, &actions_);
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
  router_->Resume(2, "r", 0, std::nullopt, now_, &actions_);
  router_->OnTokens(open.call, Letters(2, "c$"), now_, &actions_);
  router_->OnDecodeEnd(open.call, End(FinishReason::kEos, 4), now_, &actions_);
  EXPECT_EQ(Drain(2), "^abc<0:1 4>.");
  EXPECT_EQ(Drain(1), "c<0:1 4>.");
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
  router_->Generate(1, Spec(), now_, &actions_);
  EXPECT_EQ(Drain(1), "!UNAVAILABLE");  // no target has ever joined
  AddTokenizer(1);
  AddTarget(2);
  RequestSpec s = Spec();
  s.model = "other";
  s.request_id = "r2";
  router_->Generate(2, s, now_, &actions_);
  EXPECT_EQ(Drain(2), "!NOT_FOUND");
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

TEST(ValidateTest, WhatIsWrongIsNamed) {
  const auto message = [](const std::function<void(RequestSpec*)>& change) {
    RequestSpec s;
    s.prompt = std::string("hi");
    change(&s);
    const absl::Status status = ValidateRequest(&s, RouterOptions());
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_THAT(message([](auto* s) { s->n = 0; }), HasSubstr("n: 0"));
  EXPECT_THAT(message([](auto* s) { s->n = 129; }), HasSubstr("n: 129"));
  EXPECT_THAT(message([](auto* s) { s->prompt = std::string("a\xff"); }), HasSubstr("byte 1"));
  EXPECT_THAT(message([](auto* s) { s->prompt = std::vector<int32_t>(); }), HasSubstr("token_ids"));
  EXPECT_THAT(message([](auto* s) { s->stop.assign(17, "x"); }), HasSubstr("17"));
  EXPECT_THAT(message([](auto* s) { s->stop = {std::string(257, 'x')}; }), HasSubstr("stop[0]"));
  EXPECT_THAT(message([](auto* s) { s->request_id = std::string(129, 'x'); }),
              HasSubstr("request_id"));
  EXPECT_THAT(message([](auto* s) { s->sampling.num_beams = 2, s->n = 2; }), HasSubstr("n:"));
}

TEST(ValidateTest, MaxTokensIsCutToWhatFits) {
  ModelInfo model;
  model.vocab_size = 10;
  model.context_tokens = 8;
  RequestSpec s;
  const std::vector<int32_t> five(5, 1), eight(8, 1), bad = {1, 10};
  ASSERT_TRUE(ValidateForModel(&s, five, model).ok());
  EXPECT_EQ(s.sampling.max_tokens, 3);
  s = RequestSpec();
  EXPECT_THAT(std::string(ValidateForModel(&s, eight, model).message()), HasSubstr("8 tokens"));
  s.has_max_tokens = true;
  s.sampling.max_tokens = 0;  // scoring needs no room
  EXPECT_TRUE(ValidateForModel(&s, eight, model).ok());
  EXPECT_THAT(std::string(ValidateForModel(&s, bad, model).message()), HasSubstr("token_ids[1]"));
}

TEST(ValidateTest, TraceparentsAreRecognised) {
  EXPECT_TRUE(IsTraceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"));
  EXPECT_FALSE(IsTraceparent("00-00000000000000000000000000000000-00f067aa0ba902b7-01"));
  EXPECT_FALSE(IsTraceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7"));
  EXPECT_FALSE(IsTraceparent("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"));
}

}  // namespace
}  // namespace tutti::router
