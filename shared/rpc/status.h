// absl::Status <-> grpc::Status: the one place that turns one into the other.
//
// On the wire an error carries google.rpc.Status details: ErrorInfo{domain "tutti", reason} where
// the status has a reason (WithReason), RetryInfo where it has a retry hint (WithRetryAfterMs). The
// way back restores both; peers that are not ours may send anything, and get at most their code and
// message.
#pragma once

#include <grpcpp/support/status.h>

#include "google/rpc/status.pb.h"
#include "shared/base/status.h"

namespace tutti::rpc {

// Messages are cut to 2 KB (they travel in HTTP/2 trailers) and made valid UTF-8.
grpc::Status ToGrpc(const absl::Status& status);
absl::Status FromGrpc(const grpc::Status& status);
// The same for a status that travels inside of a message.
void StatusToProto(const absl::Status& status, google::rpc::Status* proto);
absl::Status StatusFromProto(const google::rpc::Status& proto);

}  // namespace tutti::rpc
