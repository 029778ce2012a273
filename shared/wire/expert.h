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
// Nor the rows of its reply more bytes.
inline constexpr int64_t kMaxReplyBytes = int64_t{64} << 20;

using exchange::DispatchRows;

// A dispatch as it arrived, whichever way: in a message or in memory that is shared. Its lengths
// and ids are the receiver's own; what `rows` points to may not be.
struct DispatchView {
  uint64_t dispatch_id = 0;
  uint64_t fingerprint = 0;
  uint32_t moe_layer = 0;
  uint32_t budget_us = 0;
  int format = 0;  // ActivationFormat
  std::span<const uint32_t> row_offsets;
  std::span<const uint32_t> expert_ids;
  std::span<const char> rows;

  int64_t num_rows() const { return static_cast<int64_t>(row_offsets.size()) - 1; }
};

// How rows travel.
expert::v1::ActivationFormat FormatOf(const ExpertShape& shape);
// Bytes of a row as it travels.
size_t RowBytes(const ExpertShape& shape);
// Gathers the rows of the part, as they travel, to `to` [rows * RowBytes].
void GatherRows(const moe::ExpertBatch& batch, const DispatchRows& part, const ExpertShape& shape,
                char* to);

void DispatchToProto(const moe::ExpertBatch& batch, const DispatchRows& part, uint64_t dispatch_id,
                     uint32_t budget_us, const ExpertShape& shape,
                     expert::v1::DispatchRequest* proto);

// Points into `proto`.
DispatchView ViewOf(const expert::v1::DispatchRequest& proto);

// Checks everything: after it, offsets ascend from 0 to the number of ids, each row has at least
// one, ids ascend in a row and exist, and `rows` has the right size (of a message: and checksum).
// Errors: as ExpertService.Exchange says; the message names the field.
absl::Status CheckDispatch(const DispatchView& dispatch, const ExpertShape& shape);
absl::Status CheckDispatch(const expert::v1::DispatchRequest& proto, const ExpertShape& shape);

// Copies row r as it travelled: `q` [hidden], with `scales` [hidden / 32] made again from what
// travelled, or `f32` [hidden].
// REQUIRES: CheckDispatch was OK.
void CopyQuantizedRow(const DispatchView& dispatch, int64_t hidden, int64_t row, int8_t* q,
                      kernels::BlockScale* scales);
void CopyFloatRow(const DispatchView& dispatch, int64_t hidden, int64_t row, float* x);

// Signs a reply whose rows are there.
void SignReply(expert::v1::CombineReply* proto);
// Errors: DATA_LOSS  the checksum differs
absl::Status CheckReply(const expert::v1::CombineReply& proto);

}  // namespace tutti::wire
