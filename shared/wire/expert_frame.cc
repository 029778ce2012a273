#include "shared/wire/expert_frame.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "shared/base/hash.h"

namespace tutti::wire {
namespace {

struct DispatchHead {
  uint64_t dispatch_id, fingerprint;
  uint32_t moe_layer, budget_us, format, num_rows, num_pairs, sent_us;
  uint32_t share;  // in parts of kWholeShare
  uint16_t seat_index, seat_of;
};

struct alignas(64) ReplyHead {
  uint64_t dispatch_id;
  uint64_t bytes;  // of the rows, or of the error's message
  uint32_t code;   // absl::StatusCode
  uint32_t queue_us, run_us, unused;
  uint64_t process, checksum;
};

size_t IdsBytes(size_t rows, size_t pairs) {
  return ((rows + 1 + pairs) * sizeof(uint32_t) + 63) / 64 * 64;
}

constexpr size_t kMessageMax = 1024;
constexpr uint32_t kWholeShare = 1 << 16;
constexpr uint32_t kWaitedUsMax = 60'000'000;  // what is longer was written by another clock

size_t MessageBytes(const absl::Status& status) {
  return std::min(status.message().size(), kMessageMax);
}

}  // namespace

size_t DispatchFrameBytes(const DispatchRows& part, const ExpertShape& shape) {
  return sizeof(DispatchHead) + IdsBytes(part.rows.size(), part.pairs.size()) +
         part.rows.size() * RowBytes(shape);
}

void WriteDispatchFrame(const moe::ExpertBatch& batch, const DispatchRows& part,
                        uint64_t dispatch_id, uint32_t budget_us, const ExpertShape& shape,
                        int64_t now_us, Seat seat, std::byte* to) {
  const DispatchHead head{.dispatch_id = dispatch_id,
                          .fingerprint = shape.fingerprint,
                          .moe_layer = static_cast<uint32_t>(batch.moe_layer),
                          .budget_us = budget_us,
                          .format = static_cast<uint32_t>(FormatOf(shape)),
                          .num_rows = static_cast<uint32_t>(part.rows.size()),
                          .num_pairs = static_cast<uint32_t>(part.pairs.size()),
                          .sent_us = static_cast<uint32_t>(now_us),
                          .share = static_cast<uint32_t>(part.share * kWholeShare),
                          .seat_index = seat.index,
                          .seat_of = seat.of};
  std::memcpy(to, &head, sizeof(head));
  std::byte* ids = to + sizeof(head);
  std::memcpy(ids, part.offsets.data(), part.offsets.size() * sizeof(uint32_t));
  ids += part.offsets.size() * sizeof(uint32_t);
  for (const int32_t p : part.pairs) {
    const auto id = static_cast<uint32_t>(batch.expert_ids[static_cast<size_t>(p)]);
    std::memcpy(ids, &id, sizeof(id));
    ids += sizeof(id);
  }
  GatherRows(
      batch, part, shape,
      reinterpret_cast<char*>(to + sizeof(head) + IdsBytes(part.rows.size(), part.pairs.size())));
}

absl::Status ReadDispatchFrame(std::span<const std::byte> frame, DispatchFrame* out) {
  DispatchHead head;
  if (frame.size() < sizeof(head)) return absl::InvalidArgumentError("dispatch: too short");
  std::memcpy(&head, frame.data(), sizeof(head));
  if (head.num_rows < 1 || head.num_rows > kMaxDispatchRows ||
      head.num_pairs < head.num_rows ||  // each row wants one expert at least
      head.num_pairs > kMaxDispatchPairs) {
    return absl::InvalidArgumentError(
        absl::StrCat("dispatch: ", head.num_rows, " rows, ", head.num_pairs, " pairs"));
  }
  const size_t ids = IdsBytes(head.num_rows, head.num_pairs);
  if (frame.size() - sizeof(head) < ids)
    return absl::InvalidArgumentError("dispatch: shorter than its ids");
  const std::byte* at = frame.data() + sizeof(head);
  out->row_offsets.resize(head.num_rows + size_t{1});
  std::memcpy(out->row_offsets.data(), at, out->row_offsets.size() * sizeof(uint32_t));
  out->expert_ids.resize(head.num_pairs);
  std::memcpy(out->expert_ids.data(), at + out->row_offsets.size() * sizeof(uint32_t),
              head.num_pairs * sizeof(uint32_t));
  out->sent_us = head.sent_us;
  out->share = static_cast<float>(std::clamp(head.share, 1u, kWholeShare)) / kWholeShare;
  out->seat = {.index = head.seat_index, .of = std::max<uint16_t>(1, head.seat_of)};
  out->view = {
      .dispatch_id = head.dispatch_id,
      .fingerprint = head.fingerprint,
      .moe_layer = head.moe_layer,
      .budget_us = head.budget_us,
      .format = static_cast<int>(head.format),
      .row_offsets = out->row_offsets,
      .expert_ids = out->expert_ids,
      .rows = {reinterpret_cast<const char*>(at + ids), frame.size() - sizeof(head) - ids}};
  return absl::OkStatus();
}

uint32_t WaitedUs(const DispatchFrame& frame, int64_t now_us) {
  const uint32_t waited = static_cast<uint32_t>(now_us) - frame.sent_us;
  return waited <= kWaitedUsMax ? waited : 0;
}

size_t ReplyFrameBytes(int64_t pairs, int64_t hidden) {
  return sizeof(ReplyHead) + static_cast<size_t>(pairs * hidden) * sizeof(float);
}

size_t ErrorFrameBytes(const absl::Status& status) {
  return sizeof(ReplyHead) + MessageBytes(status);
}

float* ReplyFrameRows(std::byte* to) { return reinterpret_cast<float*>(to + sizeof(ReplyHead)); }

void WriteReplyFrame(uint64_t dispatch_id, int64_t pairs, int64_t hidden, uint64_t process,
                     uint32_t queue_us, uint32_t run_us, std::byte* to) {
  const size_t bytes = static_cast<size_t>(pairs * hidden) * sizeof(float);
  const ReplyHead head{.dispatch_id = dispatch_id,
                       .bytes = bytes,
                       .code = 0,
                       .queue_us = queue_us,
                       .run_us = run_us,
                       .unused = 0,
                       .process = process,
                       .checksum = Hash64(to + sizeof(ReplyHead), bytes, dispatch_id)};
  std::memcpy(to, &head, sizeof(head));
}

void WriteErrorFrame(uint64_t dispatch_id, const absl::Status& status, std::byte* to) {
  const ReplyHead head{.dispatch_id = dispatch_id,
                       .bytes = MessageBytes(status),
                       .code = static_cast<uint32_t>(status.code()),
                       .queue_us = 0,
                       .run_us = 0,
                       .unused = 0,
                       .process = 0,
                       .checksum = 0};
  std::memcpy(to, &head, sizeof(head));
  if (head.bytes > 0) std::memcpy(to + sizeof(head), status.message().data(), head.bytes);
}

absl::StatusOr<ReplyFrame> ReadReplyFrame(std::span<const std::byte> frame) {
  ReplyHead head;
  if (frame.size() < sizeof(head)) return absl::InvalidArgumentError("reply: too short");
  std::memcpy(&head, frame.data(), sizeof(head));
  if (head.bytes != frame.size() - sizeof(head))
    return absl::InvalidArgumentError("reply: another length than it says");
  const char* const body = reinterpret_cast<const char*>(frame.data() + sizeof(head));
  ReplyFrame out{.dispatch_id = head.dispatch_id,
                 .status = absl::OkStatus(),
                 .queue_us = head.queue_us,
                 .run_us = head.run_us,
                 .process = head.process,
                 .rows = {}};
  if (head.code == 0) {
    out.rows = {body, head.bytes};
    if (Hash64(body, head.bytes, head.dispatch_id) != head.checksum) {
      out.rows = {};
      out.status = absl::DataLossError("reply.rows: the checksum differs");
    }
  } else {
    // A copy that others may still write to.
    out.status = absl::Status(static_cast<absl::StatusCode>(std::min(head.code, 16u)),
                              std::string(body, std::min(head.bytes, kMessageMax)));
  }
  return out;
}

}  // namespace tutti::wire
