// tutti.expert.v1 <-> the rows of moe::ExpertBatch.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kernels/kernels.h"
#include "shared/base/status.h"
#include "shared/exchange/expert_exchange.h"
#include "shared/moe/expert_backend.h"
#include "tutti/expert/v1/expert.pb.h"

namespace tutti::wire {

// What a shard and its callers agree on.
struct ExpertShape {
  uint64_t fingerprint = 0;
  int64_t hidden = 0;
  int num_layers = 0;  // with experts
  int experts_per_layer = 0;
  // What the experts' first matmuls read. Where it is not quantised rows alone, f32 travels (a
  // shard can quantise by Q1 with the same bits; the way back would lose some).
  bool reads_f32 = false;
  bool travels_quantized() const { return !reads_f32; }
};

// Rows of one dispatch may not be more; nor pairs.
inline constexpr int64_t kMaxDispatchRows = 1 << 16;
inline constexpr int64_t kMaxDispatchPairs = 1 << 20;

using exchange::DispatchRows;

void DispatchToProto(const moe::ExpertBatch& batch, const DispatchRows& part, uint64_t dispatch_id,
                     uint32_t budget_us, const ExpertShape& shape,
                     expert::v1::DispatchRequest* proto);

// Checks everything: after it, offsets ascend from 0 to the number of ids, each row has at least
// one, ids ascend in a row and exist, and `rows` has the right size and checksum.
// Errors: as ExpertService.Exchange says; the message names the field.
absl::Status CheckDispatch(const expert::v1::DispatchRequest& proto, const ExpertShape& shape);

// Copies row r as it travelled: `q` [hidden] and `d` [hidden / 32], or `f32` [hidden].
// REQUIRES: CheckDispatch was OK.
void CopyQuantizedRow(const expert::v1::DispatchRequest& proto, int64_t hidden, int64_t row,
                      int8_t* q, float* d);
void CopyFloatRow(const expert::v1::DispatchRequest& proto, int64_t hidden, int64_t row, float* x);

// Signs a reply whose rows are there.
void SignReply(expert::v1::CombineReply* proto);
// Errors: DATA_LOSS  the checksum differs; INVALID_ARGUMENT  the size is not [pairs, hidden] f32.
absl::Status CheckReply(const expert::v1::CombineReply& proto, int64_t pairs, int64_t hidden);

}  // namespace tutti::wire
