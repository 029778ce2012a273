#include "shared/router/examiner.h"

#include <algorithm>
#include <iterator>
#include <limits>
#include <memory>
#include <string_view>

#include "shared/base/hash.h"
#include "shared/router/session.h"

namespace tutti::router {
namespace {

constexpr int kPromptTokens = 16, kTextPieces = 48;
constexpr int64_t kTimeoutUs = 15'000'000;                         // of one examination
constexpr int64_t kSoonUs = 500'000;                               // the proven worker failed
constexpr int64_t kLaterUs = 5'000'000;                            // the new worker failed
constexpr int64_t kThirdUs = 10'000'000;                           // there was no third worker
constexpr int32_t kHighest = std::numeric_limits<int32_t>::max();  // 24 rows, and clients wait

// Workers of a group must compute the same.
std::pair<WorkerKind, uint64_t> GroupOf(const Fleet::Candidate& c) {
  return {c.kind, c.fingerprint};
}

}  // namespace

void Examiner::Tick(Context& ctx) {
  if (num_tokens_ <= 0) return;
  if (running_.has_value()) {
    if (ctx.now_us - running_->opened_us < kTimeoutUs) return;
    for (Answer& a : running_->answers) {
      if (!a.over) a.error = "no answer in time";
    }
    return Judge(ctx);
  }
  std::erase_if(again_us_, [&](const auto& entry) { return ctx.now_us >= entry.second; });
  const std::vector<Fleet::Candidate> all = ctx.fleet.Candidates();
  // A proven worker of each group, a usable one if there is any (else 0).
  std::map<std::pair<WorkerKind, uint64_t>, WorkerHandle> proven;
  for (const Fleet::Candidate& c : all) {
    if (!c.proven) continue;
    const auto it = proven.try_emplace(GroupOf(c), 0).first;
    if (c.usable) it->second = c.handle;
  }
  for (const Fleet::Candidate& c : all) {
    if (c.proven || !c.usable || again_us_.contains(c.handle)) continue;
    const auto reference = proven.find(GroupOf(c));
    if (reference == proven.end()) {
      if (c.disputed) continue;
      ctx.fleet.SetProven(c.handle);
      proven[GroupOf(c)] = c.handle;
    } else if (reference->second != 0) {
      return Begin(ctx, c, reference->second);
    }
  }
}

void Examiner::Begin(Context& ctx, const Fleet::Candidate& examinee, WorkerHandle reference) {
  Exam& e = running_.emplace(examinee);
  e.opened_us = ctx.now_us;
  e.open.request_id = "exam-" + Hex64(random_());
  if (examinee.kind == WorkerKind::kTokenizer) {
    e.text = RandomText();
  } else {
    std::vector<int32_t> prompt;
    for (int i = 0; i < kPromptTokens; ++i) {
      prompt.push_back(
          static_cast<int32_t>(random_() % static_cast<uint64_t>(examinee.vocab_size)));
    }
    e.open.prompt_ids = std::make_shared<const std::vector<int32_t>>(std::move(prompt));
    e.open.sampling.seed = random_();
    e.open.sampling.max_tokens = num_tokens_;
    e.open.sampling.ignore_eos = true;
    e.open.priority = kHighest;
    e.open.fingerprint = examinee.fingerprint;
  }
  Ask(ctx, examinee.handle);
  Ask(ctx, reference);
}

// Words of letters, digits, marks and characters of several bytes.
std::string Examiner::RandomText() {
  static constexpr std::string_view kPieces[] = {"a", "e",  "n",  "t",    "s",  "the", "ing",
                                                 "Q", "7",  "42", ".",    ", ", "-",   "é",
                                                 "ß", "日", "я",  "🙂", "\n", "_x"};
  std::string text;
  for (int i = 0; i < kTextPieces; ++i) {
    text += kPieces[random_() % std::size(kPieces)];
    if (random_() % 3 == 0) text += ' ';
  }
  return text;
}

void Examiner::Ask(Context& ctx, WorkerHandle worker) {
  Exam& e = *running_;
  Answer a;
  a.worker = worker;
  if (e.examinee.kind == WorkerKind::kTokenizer) {
    action::Encode encode;
    encode.call = a.call = ctx.calls.Open(nullptr, CallTable::kExam, worker, &ctx.fleet);
    encode.worker = worker;
    encode.address = ctx.fleet.AddressOf(worker);
    encode.request_id = e.open.request_id;
    encode.prompt = e.text;
    ctx.actions.push_back(std::move(encode));
  } else {
    action::OpenDecode open =
        ctx.MakeDecode(nullptr, CallTable::kExam, worker, e.examinee.vocab_size, e.open);
    a.call = open.call;
    ctx.actions.push_back(std::move(open));
  }
  e.answers.push_back(std::move(a));
}

// Asks a worker that was not asked, a proven one if there is any. False when there is none.
bool Examiner::AskThird(Context& ctx) {
  WorkerHandle third = 0;
  for (const Fleet::Candidate& c : ctx.fleet.Candidates()) {
    if (GroupOf(c) != GroupOf(running_->examinee) || !c.usable) continue;
    const auto asked = [&](const Answer& a) { return a.worker == c.handle; };
    if (std::any_of(running_->answers.begin(), running_->answers.end(), asked)) continue;
    if (third == 0 || c.proven) third = c.handle;
  }
  if (third == 0) return false;
  running_->opened_us = ctx.now_us;
  Ask(ctx, third);
  return true;
}

Examiner::Answer* Examiner::Find(CallId call) {
  if (!running_.has_value()) return nullptr;
  for (Answer& a : running_->answers) {
    if (a.call == call && !a.over) return &a;
  }
  return nullptr;
}

void Examiner::OnTokens(Context& ctx, CallId call, const DecodedTokens& got) {
  Answer* a = Find(call);
  if (a == nullptr) return;
  for (size_t i = 0; i < got.tokens.size(); ++i) {
    const size_t position = got.position + i;
    if (position < a->tokens.size()) continue;  // told twice
    if (position > a->tokens.size() || position >= static_cast<size_t>(num_tokens_)) {
      a->error = "tokens at wrong positions";
      return End(ctx, a);
    }
    a->tokens.emplace_back(got.tokens[i].id, got.tokens[i].digest);
  }
}

void Examiner::OnDecodeEnd(Context& ctx, CallId call, const DecodeEnd& end) {
  Answer* a = Find(call);
  if (a == nullptr) return;
  a->whole =
      end.reason == FinishReason::kLength && a->tokens.size() == static_cast<size_t>(num_tokens_);
  if (!a->whole) a->error = "an end before the last token";
  End(ctx, a);
}

void Examiner::OnCallClosed(Context& ctx, CallId call, const absl::Status& status) {
  Answer* a = Find(call);
  if (a == nullptr) return;
  a->error = std::string(status.message());
  End(ctx, a);
}

void Examiner::OnEncoded(Context& ctx, CallId call, const absl::StatusOr<Encoded>& encoded) {
  Answer* a = Find(call);
  if (a == nullptr) return;
  a->whole = encoded.ok();
  if (encoded.ok()) {
    for (const int32_t id : encoded->ids) a->tokens.emplace_back(id, 0);
  } else {
    a->error = std::string(encoded.status().message());
  }
  End(ctx, a);
}

void Examiner::End(Context& ctx, Answer* answer) {
  answer->over = true;
  ctx.Cancel(answer->call);
  if (std::all_of(running_->answers.begin(), running_->answers.end(),
                  [](const Answer& a) { return a.over; }))
    Judge(ctx);
}

void Examiner::Judge(Context& ctx) {
  const std::vector<Answer>& a = running_->answers;
  const auto same = [](const Answer& x, const Answer& y) {
    return x.whole && y.whole && x.tokens == y.tokens;
  };
  Fleet& fleet = ctx.fleet;
  const WorkerHandle examinee = a[0].worker, reference = a[1].worker;
  if (!a[1].whole) return Conclude(ctx, "inconclusive", kSoonUs);
  if (!a[0].whole) return Conclude(ctx, "failed", kLaterUs);
  if (same(a[0], a[1])) {
    fleet.SetProven(examinee);
    return Conclude(ctx, "agreed", 0);
  }
  if (a.size() == 2 && AskThird(ctx)) return;
  const auto alone = [&](WorkerHandle wrong, WorkerHandle other) {
    fleet.Distrust(wrong,
                   absl::DataLossError("examination: it computes other tokens than workers " +
                                       fleet.IdOf(other) + " and " + fleet.IdOf(a[2].worker)));
  };
  if (a.size() == 3 && same(a[0], a[2])) {
    fleet.SetProven(examinee);
    fleet.SetProven(a[2].worker);
    alone(reference, examinee);
    return Conclude(ctx, "wrong_reference", 0);
  }
  if (a.size() == 3 && same(a[1], a[2])) {
    alone(examinee, reference);
    return Conclude(ctx, "wrong", 0);
  }
  fleet.SetDisputed(examinee, "it computes other tokens than " + fleet.IdOf(reference) +
                                  ", and there is no third one to ask: it gets no work");
  Conclude(ctx, "unresolved", kThirdUs);
}

void Examiner::Conclude(Context& ctx, const char* result, int64_t again_us) {
  std::string error;
  for (Answer& a : running_->answers) {
    if (!a.error.empty())
      error += (error.empty() ? "" : "; ") + ctx.fleet.IdOf(a.worker) + ": " + a.error;
    if (!a.over) ctx.Cancel(a.call);
  }
  const WorkerHandle examinee = running_->answers[0].worker;
  ctx.observer.OnExamined(ctx.fleet.IdOf(examinee), result, error);
  if (again_us > 0) again_us_[examinee] = ctx.now_us + again_us;
  running_.reset();
}

}  // namespace tutti::router
