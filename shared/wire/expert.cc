#include "shared/wire/expert.h"

#include <bit>
#include <cstring>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "shared/base/hash.h"

namespace tutti::wire {

static_assert(std::endian::native == std::endian::little, "rows travel as they lie in memory");

namespace {

absl::Status Bad(const std::string& field, const std::string& what) {
  return absl::InvalidArgumentError("dispatch." + field + ": " + what);
}

absl::Status CheckIds(const DispatchView& d, const ExpertShape& shape) {
  const auto num_rows = static_cast<size_t>(d.num_rows());
  if (d.row_offsets[0] != 0) return Bad("row_offsets[0]", "must be 0");
  for (size_t r = 0; r < num_rows; ++r) {
    const uint32_t begin = d.row_offsets[r], end = d.row_offsets[r + 1];
    if (end <= begin || end > d.expert_ids.size()) {
      return Bad(absl::StrCat("row_offsets[", r + 1, "]"),
                 absl::StrCat(end, " is not in (", begin, ", ", d.expert_ids.size(), "]"));
    }
    for (uint32_t p = begin; p < end; ++p) {
      const uint32_t id = d.expert_ids[p];
      if (id >= static_cast<uint32_t>(shape.experts_per_layer) ||
          (p > begin && id <= d.expert_ids[p - 1])) {
        return Bad(
            absl::StrCat("expert_ids[", p, "]"),
            absl::StrCat(id, " must be below ", shape.experts_per_layer, " and ascend in its row"));
      }
    }
  }
  if (d.row_offsets[num_rows] != d.expert_ids.size())
    return Bad("expert_ids", "more ids than the offsets cover");
  return absl::OkStatus();
}

}  // namespace

expert::v1::ActivationFormat FormatOf(const ExpertShape& shape) {
  return shape.travels_quantized() ? expert::v1::ACTIVATION_FORMAT_Q8_BLOCKS
                                   : expert::v1::ACTIVATION_FORMAT_F32;
}

size_t RowBytes(const ExpertShape& shape) {
  const auto hidden = static_cast<size_t>(shape.hidden);
  return shape.travels_quantized() ? hidden + hidden / 32 * sizeof(float) : hidden * sizeof(float);
}

void GatherRows(const moe::ExpertBatch& batch, const DispatchRows& part, const ExpertShape& shape,
                char* to) {
  const auto hidden = static_cast<size_t>(batch.hidden);
  const auto copy = [&](const auto* from, size_t each) {
    for (const int32_t row : part.rows) {
      std::memcpy(to, from + static_cast<size_t>(row) * each, each * sizeof(*from));
      to += each * sizeof(*from);
    }
  };
  if (shape.travels_quantized()) {
    copy(batch.quantized.q, hidden);
    const size_t blocks = hidden / 32;
    for (const int32_t row : part.rows) {
      const kernels::BlockScale* scales =
          batch.quantized.scales + static_cast<size_t>(row) * blocks;
      for (size_t b = 0; b < blocks; ++b, to += sizeof(float))
        std::memcpy(to, &scales[b].d, sizeof(float));
    }
  } else {
    copy(batch.f32, hidden);
  }
}

void DispatchToProto(const moe::ExpertBatch& batch, const DispatchRows& part, uint64_t dispatch_id,
                     uint32_t budget_us, const ExpertShape& shape,
                     expert::v1::DispatchRequest* proto) {
  proto->Clear();
  proto->set_dispatch_id(dispatch_id);
  proto->set_moe_layer(static_cast<uint32_t>(batch.moe_layer));
  proto->set_budget_us(budget_us);
  proto->set_fingerprint(shape.fingerprint);
  proto->set_format(FormatOf(shape));
  std::string& bytes = *proto->mutable_rows();
  bytes.resize(part.rows.size() * RowBytes(shape));
  GatherRows(batch, part, shape, bytes.data());
  proto->mutable_row_offsets()->Assign(part.offsets.begin(), part.offsets.end());
  proto->mutable_expert_ids()->Reserve(static_cast<int>(part.pairs.size()));
  for (const int32_t p : part.pairs)
    proto->add_expert_ids(static_cast<uint32_t>(batch.expert_ids[static_cast<size_t>(p)]));
  proto->set_checksum(Hash64(bytes, dispatch_id));
}

DispatchView ViewOf(const expert::v1::DispatchRequest& proto) {
  return {
      .dispatch_id = proto.dispatch_id(),
      .fingerprint = proto.fingerprint(),
      .moe_layer = proto.moe_layer(),
      .budget_us = proto.budget_us(),
      .format = proto.format(),
      .row_offsets = {proto.row_offsets().data(), static_cast<size_t>(proto.row_offsets_size())},
      .expert_ids = {proto.expert_ids().data(), static_cast<size_t>(proto.expert_ids_size())},
      .rows = proto.rows()};
}

absl::Status CheckDispatch(const DispatchView& dispatch, const ExpertShape& shape) {
  if (dispatch.fingerprint != shape.fingerprint) {
    return WithReason(absl::FailedPreconditionError(
                          "dispatch.fingerprint: " + Hex64(dispatch.fingerprint) +
                          " was asked for, this shard serves " + Hex64(shape.fingerprint)),
                      "FINGERPRINT_MISMATCH");
  }
  if (dispatch.moe_layer >= static_cast<uint32_t>(shape.num_layers)) {
    return Bad("moe_layer",
               absl::StrCat(dispatch.moe_layer, " is not in [0, ", shape.num_layers, ")"));
  }
  const int format = FormatOf(shape);
  if (dispatch.format != format) {
    return Bad("format", absl::StrCat(dispatch.format, " is not what this model's experts read (",
                                      format, ")"));
  }
  const int64_t num_rows = dispatch.num_rows();
  if (num_rows < 1 || num_rows > kMaxDispatchRows) {
    return Bad("row_offsets",
               absl::StrCat(num_rows, " rows; there must be 1 to ", kMaxDispatchRows));
  }
  if (static_cast<int64_t>(dispatch.expert_ids.size()) > kMaxDispatchPairs)
    return Bad("expert_ids", absl::StrCat("more than ", kMaxDispatchPairs));
  const int64_t reply =
      static_cast<int64_t>(dispatch.expert_ids.size() * sizeof(float)) * shape.hidden;
  if (reply > kMaxReplyBytes) {
    return Bad("expert_ids", absl::StrCat("the reply to ", dispatch.expert_ids.size(), " has ",
                                          reply, " bytes; there may be ", kMaxReplyBytes));
  }
  const size_t want = static_cast<size_t>(num_rows) * RowBytes(shape);
  if (dispatch.rows.size() != want) {
    return Bad("rows", absl::StrCat(dispatch.rows.size(), " bytes for ", num_rows,
                                    " rows; there must be ", want));
  }
  return CheckIds(dispatch, shape);
}

absl::Status CheckDispatch(const expert::v1::DispatchRequest& proto, const ExpertShape& shape) {
  TUTTI_RETURN_IF_ERROR(CheckDispatch(ViewOf(proto), shape));
  if (Hash64(proto.rows(), proto.dispatch_id()) != proto.checksum())
    return absl::DataLossError("dispatch.rows: the checksum differs");
  return absl::OkStatus();
}

void CopyQuantizedRow(const DispatchView& dispatch, int64_t hidden, int64_t row, int8_t* q,
                      kernels::BlockScale* scales) {
  const int64_t blocks = hidden / 32;
  const char* bytes = dispatch.rows.data();
  std::memcpy(q, bytes + row * hidden, static_cast<size_t>(hidden));
  const char* from =
      bytes + dispatch.num_rows() * hidden + row * blocks * static_cast<int64_t>(sizeof(float));
  for (int64_t b = 0; b < blocks; ++b, from += sizeof(float)) {
    float d;
    std::memcpy(&d, from, sizeof(d));
    scales[b] =
        kernels::MakeBlockScale(d, std::accumulate(q + b * 32, q + (b + 1) * 32, int32_t{0}));
  }
}

void CopyFloatRow(const DispatchView& dispatch, int64_t hidden, int64_t row, float* x) {
  const auto bytes = static_cast<size_t>(hidden) * sizeof(float);
  std::memcpy(x, dispatch.rows.data() + static_cast<size_t>(row) * bytes, bytes);
}

void SignReply(expert::v1::CombineReply* proto) {
  proto->set_checksum(Hash64(proto->rows(), proto->dispatch_id()));
}

absl::Status CheckReply(const expert::v1::CombineReply& proto) {
  if (Hash64(proto.rows(), proto.dispatch_id()) != proto.checksum())
    return absl::DataLossError("reply.rows: the checksum differs");
  return absl::OkStatus();
}

}  // namespace tutti::wire
