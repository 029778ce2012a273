#include "shared/wire/fleet.h"

#include <algorithm>

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

// A model of more experts than this is not believed.
constexpr uint64_t kExpertsMax = 1 << 22;

template <typename Numbers>
void ToGaps(const Numbers& numbers, google::protobuf::RepeatedField<uint32_t>* gaps) {
  uint32_t last = 0;
  for (const uint32_t n : numbers) {
    gaps->Add(n - last);
    last = n;
  }
}

absl::StatusOr<std::vector<uint32_t>> FromGaps(
    const google::protobuf::RepeatedField<uint32_t>& gaps, uint64_t num_experts, const char* what) {
  std::vector<uint32_t> out;
  out.reserve(std::min<size_t>(static_cast<size_t>(gaps.size()), num_experts));
  uint64_t number = 0;
  for (const uint32_t gap : gaps) {
    if (!out.empty() && gap == 0)
      return absl::InvalidArgumentError(std::string(what) + ": numbers must ascend");
    number += gap;
    if (number >= num_experts) {
      return absl::InvalidArgumentError(std::string(what) + ": expert " + std::to_string(number) +
                                        ", of " + std::to_string(num_experts));
    }
    out.push_back(static_cast<uint32_t>(number));
  }
  return out;
}

uint32_t Flag(bool set, fleet::v1::ExpertFlag flag) {
  return set ? static_cast<uint32_t>(flag) : 0;
}

absl::StatusOr<uint64_t> NumExperts(uint32_t num_layers, uint32_t experts_per_layer,
                                    const char* what) {
  const uint64_t n = uint64_t{num_layers} * experts_per_layer;
  if (n == 0 || n > kExpertsMax) {
    return absl::InvalidArgumentError(std::string(what) + ": " + std::to_string(num_layers) +
                                      " layers of " + std::to_string(experts_per_layer) +
                                      " experts");
  }
  return n;
}

}  // namespace

void ExpertReportToProto(const placement::ExpertReport& r, bool with_columns,
                         fleet::v1::ExpertReport* proto) {
  proto->set_num_layers(r.num_layers);
  proto->set_experts_per_layer(r.experts_per_layer);
  proto->set_memory_bytes(r.memory_bytes);
  proto->set_memory_budget_bytes(r.memory_budget_bytes);
  proto->set_expert_bytes(r.expert_bytes);
  proto->set_assignment_epoch(r.assignment_epoch);
  proto->set_process(r.process);
  if (!with_columns) return;
  uint32_t last = 0;
  for (const placement::ExpertEntry& e : r.entries) {
    proto->add_gaps(e.number - last);
    last = e.number;
    proto->add_flags(Flag(e.resident, fleet::v1::EXPERT_FLAG_RESIDENT) |
                     Flag(e.pinned, fleet::v1::EXPERT_FLAG_PINNED) |
                     Flag(e.pinned_here, fleet::v1::EXPERT_FLAG_PINNED_HERE));
    proto->add_rows(e.rows);
    proto->add_queue_us(e.queue_us);
    proto->add_run_us(e.run_us);
  }
}

absl::StatusOr<placement::ExpertReport> ExpertReportFromProto(
    const fleet::v1::ExpertReport& proto) {
  placement::ExpertReport r;
  r.num_layers = proto.num_layers();
  r.experts_per_layer = proto.experts_per_layer();
  r.memory_bytes = std::max<int64_t>(0, proto.memory_bytes());
  r.memory_budget_bytes = std::max<int64_t>(0, proto.memory_budget_bytes());
  r.expert_bytes = std::max<int64_t>(0, proto.expert_bytes());
  r.assignment_epoch = proto.assignment_epoch();
  TUTTI_ASSIGN_OR_RETURN(const uint64_t n,
                         NumExperts(r.num_layers, r.experts_per_layer, "experts"));
  TUTTI_ASSIGN_OR_RETURN(const std::vector<uint32_t> numbers,
                         FromGaps(proto.gaps(), n, "experts.gaps"));
  const int size = proto.gaps_size();
  if (proto.flags_size() != size || proto.rows_size() != size || proto.queue_us_size() != size ||
      proto.run_us_size() != size) {
    return absl::InvalidArgumentError("experts: columns of different length");
  }
  r.process = proto.process();
  for (int i = 0; i < size; ++i) {
    const uint32_t flags = proto.flags(i);
    r.entries.push_back({.number = numbers[static_cast<size_t>(i)],
                         .resident = (flags & fleet::v1::EXPERT_FLAG_RESIDENT) != 0,
                         .pinned = (flags & fleet::v1::EXPERT_FLAG_PINNED) != 0,
                         .pinned_here = (flags & fleet::v1::EXPERT_FLAG_PINNED_HERE) != 0,
                         .rows = proto.rows(i),
                         .queue_us = proto.queue_us(i),
                         .run_us = proto.run_us(i)});
  }
  return r;
}

void AssignmentToProto(const placement::ExpertAssignment& a, fleet::v1::ExpertAssignment* proto) {
  proto->set_epoch(a.epoch);
  ToGaps(a.hold, proto->mutable_gaps());
  ToGaps(a.pinned, proto->mutable_pinned_gaps());
}

absl::StatusOr<placement::ExpertAssignment> AssignmentFromProto(
    const fleet::v1::ExpertAssignment& proto, uint32_t num_experts) {
  placement::ExpertAssignment a;
  a.epoch = proto.epoch();
  TUTTI_ASSIGN_OR_RETURN(a.hold, FromGaps(proto.gaps(), num_experts, "assign.gaps"));
  TUTTI_ASSIGN_OR_RETURN(a.pinned, FromGaps(proto.pinned_gaps(), num_experts, "assign.pinned"));
  return a;
}

void PlacementToProto(const placement::ExpertPlacement& p, fleet::v1::ExpertPlacement* proto) {
  proto->set_fingerprint(p.fingerprint);
  proto->set_epoch(p.epoch);
  proto->set_num_layers(p.num_layers);
  proto->set_experts_per_layer(p.experts_per_layer);
  for (const std::string& s : p.shards) proto->add_shards(s);
  for (const auto& copies : p.copies) {
    proto->add_num_copies(static_cast<uint32_t>(copies.size()));
    for (const uint32_t s : copies) proto->add_copies(s);
  }
  for (const placement::ExpertPin& pin : p.pins) {
    fleet::v1::ExpertPin* const out = proto->add_pins();
    out->set_moe_layer(pin.number / p.experts_per_layer);
    out->set_expert_id(pin.number % p.experts_per_layer);
    out->set_worker_id(pin.worker_id);
  }
  proto->set_moving(p.moving);
}

absl::StatusOr<placement::ExpertPlacement> PlacementFromProto(
    const fleet::v1::ExpertPlacement& proto) {
  placement::ExpertPlacement p;
  p.fingerprint = proto.fingerprint();
  p.epoch = proto.epoch();
  p.num_layers = proto.num_layers();
  p.experts_per_layer = proto.experts_per_layer();
  p.moving = proto.moving();
  p.shards.assign(proto.shards().begin(), proto.shards().end());
  TUTTI_ASSIGN_OR_RETURN(const uint64_t n,
                         NumExperts(p.num_layers, p.experts_per_layer, "placement"));
  if (static_cast<uint64_t>(proto.num_copies_size()) != n)
    return absl::InvalidArgumentError("placement.num_copies: one for each expert is needed");
  uint64_t at = 0;
  for (const uint32_t count : proto.num_copies()) {
    auto& copies = p.copies.emplace_back();
    for (uint32_t i = 0; i < count; ++i, ++at) {
      if (at >= static_cast<uint64_t>(proto.copies_size()) ||
          proto.copies(static_cast<int>(at)) >= p.shards.size()) {
        return absl::InvalidArgumentError(
            "placement.copies: too few, or a shard that is not there");
      }
      copies.push_back(proto.copies(static_cast<int>(at)));
    }
  }
  for (const fleet::v1::ExpertPin& pin : proto.pins()) {
    if (pin.moe_layer() >= p.num_layers || pin.expert_id() >= p.experts_per_layer)
      return absl::InvalidArgumentError("placement.pins: an expert that is not there");
    p.pins.push_back({pin.moe_layer() * p.experts_per_layer + pin.expert_id(), pin.worker_id()});
  }
  return p;
}

absl::StatusOr<router::WorkerReport> ReportFromProto(const fleet::v1::WorkerReport& proto) {
  router::WorkerReport r;
  r.worker_id = proto.worker_id();
  r.kind = KindFromProto(proto.kind());
  r.address = proto.address();
  r.metrics_address = proto.metrics_address();
  r.host = proto.host();
  r.model = proto.model();
  r.model_aliases.assign(proto.model_aliases().begin(), proto.model_aliases().end());
  r.pid = proto.pid();
  r.state = StateFromProto(proto.state());
  r.fingerprint = proto.fingerprint();
  r.tokenizer_fingerprint = proto.tokenizer_fingerprint();
  r.process_nonce = proto.process_nonce();
  r.vocabulary_digest = proto.vocabulary_digest();
  if (proto.has_expert_shape()) {
    const fleet::v1::ExpertShape& shape = proto.expert_shape();
    r.expert_shape =
        router::ExpertShape{shape.fingerprint(), shape.num_layers(), shape.experts_per_layer()};
  }
  r.load.running = proto.load().running();
  r.load.waiting = proto.load().waiting();
  r.load.pages = proto.load().pages();
  r.load.free_pages = proto.load().free_pages();
  r.load.memory_bytes = proto.load().memory_bytes();
  r.load.tokens_per_s = proto.load().tokens_per_s();
  constexpr int kQuarantinedMax = 64;
  for (int i = 0; i < std::min(proto.quarantined_size(), kQuarantinedMax); ++i)
    r.quarantined.push_back(proto.quarantined(i).process());
  r.load.step_age_us = proto.load().step_age_us();
  r.load.step_limit_us = proto.load().step_limit_us();
  if (proto.has_experts()) {
    TUTTI_ASSIGN_OR_RETURN(placement::ExpertReport experts, ExpertReportFromProto(proto.experts()));
    r.experts = std::make_shared<const placement::ExpertReport>(std::move(experts));
  }
  return r;
}

void ReportToProto(const router::WorkerReport& report, bool with_experts,
                   fleet::v1::WorkerReport* proto) {
  proto->set_worker_id(report.worker_id);
  // The enums list the same values in the same order, zero being unknown.
  proto->set_kind(static_cast<fleet::v1::WorkerKind>(report.kind));
  proto->set_address(report.address);
  proto->set_metrics_address(report.metrics_address);
  proto->set_host(report.host);
  proto->set_model(report.model);
  proto->mutable_model_aliases()->Assign(report.model_aliases.begin(), report.model_aliases.end());
  proto->set_pid(report.pid);
  proto->set_state(static_cast<fleet::v1::WorkerState>(report.state));
  proto->set_fingerprint(report.fingerprint);
  proto->set_tokenizer_fingerprint(report.tokenizer_fingerprint);
  proto->set_vocabulary_digest(report.vocabulary_digest);
  proto->set_refused(report.refused);
  auto* load = proto->mutable_load();
  load->set_running(report.load.running);
  load->set_waiting(report.load.waiting);
  load->set_pages(report.load.pages);
  load->set_free_pages(report.load.free_pages);
  load->set_memory_bytes(report.load.memory_bytes);
  load->set_tokens_per_s(report.load.tokens_per_s);
  proto->set_quarantined_by(report.quarantined_by);
  load->set_step_age_us(report.load.step_age_us);
  load->set_step_limit_us(report.load.step_limit_us);
  if (report.experts != nullptr)
    ExpertReportToProto(*report.experts, with_experts, proto->mutable_experts());
}

}  // namespace tutti::wire
