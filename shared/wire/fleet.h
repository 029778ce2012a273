// tutti.fleet.v1 <-> the router's structs.
#pragma once

#include "shared/placement/experts.h"
#include "shared/router/types.h"
#include "tutti/fleet/v1/fleet.pb.h"

namespace tutti::wire {

// What is out of range in it, but for its experts, is for Fleet::OnReport to refuse.
// Errors: INVALID_ARGUMENT  experts: columns of different length, a number that the model has not
absl::StatusOr<router::WorkerReport> ReportFromProto(const fleet::v1::WorkerReport& proto);
// `with_experts` false: of the experts only what is not a column.
void ReportToProto(const router::WorkerReport& report, bool with_experts,
                   fleet::v1::WorkerReport* proto);

void ExpertReportToProto(const placement::ExpertReport& report, bool with_columns,
                         fleet::v1::ExpertReport* proto);
absl::StatusOr<placement::ExpertReport> ExpertReportFromProto(const fleet::v1::ExpertReport& proto);

void AssignmentToProto(const placement::ExpertAssignment& assignment,
                       fleet::v1::ExpertAssignment* proto);
// Errors: INVALID_ARGUMENT  an expert beyond `num_experts`
absl::StatusOr<placement::ExpertAssignment> AssignmentFromProto(
    const fleet::v1::ExpertAssignment& proto, uint32_t num_experts);

void PlacementToProto(const placement::ExpertPlacement& placement,
                      fleet::v1::ExpertPlacement* proto);
// Errors: INVALID_ARGUMENT  a shard or a number of experts that is not there
absl::StatusOr<placement::ExpertPlacement> PlacementFromProto(
    const fleet::v1::ExpertPlacement& proto);

}  // namespace tutti::wire
