#include "shared/wire/fleet.h"

namespace tutti::wire {
namespace {

using router::WorkerKind;
using router::WorkerState;

WorkerKind KindFromProto(fleet::v1::WorkerKind kind) {
  switch (kind) {
    case fleet::v1::WORKER_KIND_TOKENIZER:
      return WorkerKind::kTokenizer;
    case fleet::v1::WORKER_KIND_TARGET:
      return WorkerKind::kTarget;
    case fleet::v1::WORKER_KIND_DRAFT:
      return WorkerKind::kDraft;
    case fleet::v1::WORKER_KIND_EXPERT:
      return WorkerKind::kExpert;
    case fleet::v1::WORKER_KIND_RETRIEVAL:
      return WorkerKind::kRetrieval;
    case fleet::v1::WORKER_KIND_REWARD:
      return WorkerKind::kReward;
    default:
      return WorkerKind::kUnknown;
  }
}

WorkerState StateFromProto(fleet::v1::WorkerState state) {
  switch (state) {
    case fleet::v1::WORKER_STATE_STARTING:
      return WorkerState::kStarting;
    case fleet::v1::WORKER_STATE_READY:
      return WorkerState::kReady;
    case fleet::v1::WORKER_STATE_DRAINING:
      return WorkerState::kDraining;
    case fleet::v1::WORKER_STATE_DEAD:
      return WorkerState::kDead;
    default:
      return WorkerState::kUnknown;
  }
}

}  // namespace

router::WorkerReport ReportFromProto(const fleet::v1::WorkerReport& proto) {
  router::WorkerReport r;
  r.worker_id = proto.worker_id();
  r.kind = KindFromProto(proto.kind());
  r.address = proto.address();
  r.metrics_address = proto.metrics_address();
  r.host = proto.host();
  r.model = proto.model();
  r.pid = proto.pid();
  r.state = StateFromProto(proto.state());
  r.fingerprint = proto.fingerprint();
  r.tokenizer_fingerprint = proto.tokenizer_fingerprint();
  r.load.running = proto.load().running();
  r.load.waiting = proto.load().waiting();
  r.load.pages = proto.load().pages();
  r.load.free_pages = proto.load().free_pages();
  r.load.memory_bytes = proto.load().memory_bytes();
  r.load.tokens_per_s = proto.load().tokens_per_s();
  return r;
}

void ReportToProto(const router::WorkerReport& report, fleet::v1::WorkerReport* proto) {
  proto->set_worker_id(report.worker_id);
  // The enums list the same values in the same order, zero being unknown.
  proto->set_kind(static_cast<fleet::v1::WorkerKind>(report.kind));
  proto->set_address(report.address);
  proto->set_metrics_address(report.metrics_address);
  proto->set_host(report.host);
  proto->set_model(report.model);
  proto->set_pid(report.pid);
  proto->set_state(static_cast<fleet::v1::WorkerState>(report.state));
  proto->set_fingerprint(report.fingerprint);
  proto->set_tokenizer_fingerprint(report.tokenizer_fingerprint);
  auto* load = proto->mutable_load();
  load->set_running(report.load.running);
  load->set_waiting(report.load.waiting);
  load->set_pages(report.load.pages);
  load->set_free_pages(report.load.free_pages);
  load->set_memory_bytes(report.load.memory_bytes);
  load->set_tokens_per_s(report.load.tokens_per_s);
}

}  // namespace tutti::wire
