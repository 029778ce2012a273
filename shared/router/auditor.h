// Has a share of finished outputs checked by another target: a target that computes wrong is found,
// also where no failover ever asks for its output again.
//
// An audit hands prompt, output and digest to a second target, which computes all of it again and
// compares (as at a failover). It runs at the lowest priority, one at a time, and only costs what
// the second target has to spare. Where the two disagree a third target decides; without a third,
// the target that made the output is asked again, since a fault of memory need not come twice. A
// target that is found wrong gets no more work (Fleet::Distrust). Where nobody can decide, the
// disagreement is logged and counted as `unresolved`.
//
// Thread safety: none; a state machine like the rest of the room.
// Determinism: free: an audit changes no answer.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "shared/router/types.h"

namespace tutti::router {

struct Context;

// What an audit came to.
enum class AuditResult : uint8_t {
  kAgreed,        // the second target computed the same
  kWrongOutput,   // others found the output wrong: its target is distrusted
  kWrongAuditor,  // the second target is the one that computes wrong
  kUnresolved,    // two targets disagree, and there is no third
  kInconclusive,  // no target was there, or it failed
};
const char* AuditResultName(AuditResult result);  // "agreed", "wrong_output", ...

class Auditor {
 public:
  // `rate`: share of outputs, in [0, 1].
  explicit Auditor(double rate) : rate_(rate) {}

  // A finished output that may be audited. Every 1 / rate-th is taken.
  struct Output {
    OpenRequest open;  // with generated_ids and digest; max_tokens is the length of the output
    int32_t vocab_size = 0;
    WorkerHandle author = 0;
    std::string author_id;
  };
  // Counts the output, and tells whether it is this one's turn.
  bool IsTurn();
  void Add(Output output);

  // Starts what waits. Called on every tick.
  void Tick(Context& ctx);
  // Of calls that CallTable knows as kAudit.
  void OnDecodeEnd(Context& ctx, CallId call, const DecodeEnd& end);
  void OnCallClosed(Context& ctx, CallId call, const absl::Status& status);

  size_t num_waiting() const { return waiting_.size() + (running_.has_value() ? 1 : 0); }

 private:
  struct Audit {
    explicit Audit(Output o) : output(std::move(o)) {}
    Output output;
    CallId call = 0;
    WorkerHandle worker = 0;
    int64_t opened_us = 0;
    // Who computed something else, in the order of asking; an agreement ends the audit.
    std::vector<WorkerHandle> deniers;
    std::string denial;
  };
  bool Ask(Context& ctx);
  void Conclude(Context& ctx, AuditResult result);
  void Close(Context& ctx);

  const double rate_;
  double due_ = 0;
  std::deque<Output> waiting_;
  std::optional<Audit> running_;
};

}  // namespace tutti::router
