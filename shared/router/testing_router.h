// For tests: a router with hands. Events go in, actions come out.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "shared/router/router.h"

namespace tutti::router {

inline constexpr int32_t kEos = 1;

// Token 2 is "a", 3 is "b", ...
inline std::shared_ptr<const tokenizer::TokenDecoder> LetterDecoder() {
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
  void OnAudit(std::string_view, std::string_view author, std::string_view result,
               std::string_view) override {
    audits.push_back(std::string(author) + " " + std::string(result));
  }
  int failovers = 0, contradictions = 0;
  std::vector<std::string> audits;
};

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
    router_->OnVocabulary(handle, Vocabulary{5, LetterDecoder(), 0, 1, false, "letters"}, now_,
                          &actions_);
  }
  WorkerReport TargetReport(WorkerHandle handle) {
    WorkerReport r;
    r.worker_id = "t" + std::to_string(handle);
    r.process_nonce = "process of " + r.worker_id;
    r.kind = WorkerKind::kTarget;
    r.state = WorkerState::kReady;
    r.address = "t" + std::to_string(handle);
    r.fingerprint = 9;
    r.tokenizer_fingerprint = 5;
    r.vocabulary_digest = "letters";
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

}  // namespace tutti::router
