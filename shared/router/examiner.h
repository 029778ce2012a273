// Compares a target or tokenizer that has just joined with one that is known, before clients'
// requests go to it.
//
// Both targets compute the same short output of a random prompt, both tokenizers encode the same
// random text; where tokens (and digests) agree the new worker is proven and gets work. Where they
// differ a third worker decides: the one that is alone with its output gets no work any more
// (Fleet::Distrust). Without a third the new worker waits as `disputed` until one comes. A worker
// that fails or is silent waits, and is examined again. The first one of a model or vocabulary is
// proven by itself, as there is nothing to compare it with. So a process that computes wrong, or
// lies, from its first token on changes no answer; a target that begins to later is the Auditor's
// to find.
//
// Thread safety: none; a state machine like the rest of the room.
// Determinism: free: an examination changes no answer.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "shared/router/fleet.h"
#include "shared/router/types.h"

namespace tutti::router {

struct Context;

class Examiner {
 public:
  // `tokens`: of each examination's output; 0: nobody is examined. `random` draws prompts and
  // seeds, which nobody may be able to guess.
  Examiner(int32_t tokens, std::function<uint64_t()> random)
      : num_tokens_(tokens), random_(std::move(random)) {}

  // Begins and ends examinations, one at a time. Called on every tick.
  void Tick(Context& ctx);
  // Of calls that CallTable knows as kExam.
  void OnTokens(Context& ctx, CallId call, const DecodedTokens& tokens);
  void OnDecodeEnd(Context& ctx, CallId call, const DecodeEnd& end);
  void OnCallClosed(Context& ctx, CallId call, const absl::Status& status);
  void OnEncoded(Context& ctx, CallId call, const absl::StatusOr<Encoded>& encoded);

 private:
  struct Answer {
    WorkerHandle worker = 0;
    CallId call = 0;
    std::vector<std::pair<int32_t, uint64_t>> tokens;  // ids and digests
    bool over = false, whole = false;
    std::string error;
  };
  struct Exam {
    explicit Exam(const Fleet::Candidate& c) : examinee(c) {}
    Fleet::Candidate examinee;
    OpenRequest open;  // of targets
    std::string text;  // of tokenizers
    int64_t opened_us = 0;
    std::vector<Answer> answers;  // of the new worker, of the proven one, of a third
  };
  void Begin(Context& ctx, const Fleet::Candidate& examinee, WorkerHandle reference);
  std::string RandomText();
  void Ask(Context& ctx, WorkerHandle worker);
  bool AskThird(Context& ctx);
  Answer* Find(CallId call);
  void End(Context& ctx, Answer* answer);
  void Judge(Context& ctx);
  void Conclude(Context& ctx, const char* result, int64_t again_us);

  const int32_t num_tokens_;
  const std::function<uint64_t()> random_;
  std::optional<Exam> running_;
  std::map<WorkerHandle, int64_t> again_us_;  // not examined before
};

}  // namespace tutti::router
