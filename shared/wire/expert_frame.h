// Dispatches and replies as they lie in memory that a target and a shard of one host share: what
// the messages of tutti.expert.v1 say, without a copy on the way. Replies carry a checksum of their
// rows: the shard reads back what it wrote, and the target reads it again, so that a bit that flips
// in between, or a writer that runs over the ring's end, is noticed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "shared/base/status.h"
#include "shared/wire/expert.h"

namespace tutti::wire {

// Where a shard should compute, so that those of a host do not meet on one core: the cores are
// divided among the `of` shards that a target of the host has there, and this is the index-th.
struct Seat {
  uint16_t index = 0, of = 1;
  int CoreOf(int num_cores) const { return index * num_cores / of % num_cores; }
};

size_t DispatchFrameBytes(const DispatchRows& part, const ExpertShape& shape);
// To `to` [DispatchFrameBytes]. `now_us`: SteadyNowUs, which all processes of a host share.
void WriteDispatchFrame(const moe::ExpertBatch& batch, const DispatchRows& part,
                        uint64_t dispatch_id, uint32_t budget_us, const ExpertShape& shape,
                        int64_t now_us, Seat seat, std::byte* to);

// A frame's lengths and ids, copied; `view.rows` points into the frame.
struct DispatchFrame {
  std::vector<uint32_t> row_offsets, expert_ids;
  uint32_t sent_us = 0;  // the lower bits of its writer's clock
  float share = 1;       // of DispatchRows, in (0, 1]
  Seat seat;
  DispatchView view;
};
// Reads each length once. The dispatch itself is checked by CheckDispatch.
// Errors: INVALID_ARGUMENT  the frame is not as long as it says
absl::Status ReadDispatchFrame(std::span<const std::byte> frame, DispatchFrame* out);

// How long ago it was written; 0 when what it says cannot be.
uint32_t WaitedUs(const DispatchFrame& frame, int64_t now_us);

struct ReplyFrame {
  uint64_t dispatch_id = 0;
  absl::Status status;
  uint32_t queue_us = 0, run_us = 0;
  uint64_t process = 0;        // CombineReply.process
  std::span<const char> rows;  // f32 [pairs, hidden], in the frame; empty when status is not OK
};
size_t ReplyFrameBytes(int64_t pairs, int64_t hidden);
size_t ErrorFrameBytes(const absl::Status& status);
// Where the rows [pairs, hidden] of a reply go, before its head is written.
float* ReplyFrameRows(std::byte* to);
// The head, with the checksum of the rows that are there.
void WriteReplyFrame(uint64_t dispatch_id, int64_t pairs, int64_t hidden, uint64_t process,
                     uint32_t queue_us, uint32_t run_us, std::byte* to);
void WriteErrorFrame(uint64_t dispatch_id, const absl::Status& status, std::byte* to);
// `status` is DATA_LOSS when the checksum differs.
// Errors: INVALID_ARGUMENT  the frame is not as long as it says
absl::StatusOr<ReplyFrame> ReadReplyFrame(std::span<const std::byte> frame);

}  // namespace tutti::wire
