// tutti.fleet.v1 <-> the router's structs.
#pragma once

#include "shared/router/types.h"
#include "tutti/fleet/v1/fleet.pb.h"

namespace tutti::wire {

// What is out of range in it is for Fleet::OnReport to refuse.
router::WorkerReport ReportFromProto(const fleet::v1::WorkerReport& proto);
void ReportToProto(const router::WorkerReport& report, fleet::v1::WorkerReport* proto);

}  // namespace tutti::wire
