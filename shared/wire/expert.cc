#include "shared/wire/expert.h"

#include <bit>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "shared/base/hash.h"

namespace tutti::wire {

static_assert(std::endian::native == std::endian::little, "rows travel as they lie in memory");

namespace {

absl::Status Bad(const std::string& field, const std::string& what) {
  return absl::InvalidArgumentError("dispatch." + field + ": " + what);
}

size_t RowBytes(const ExpertShape& shape) {
  const auto hidden = static_cast<size_t>(shape.hidden);
  return shape.travels_quantized() ? hidden + hidden / 32 * sizeof(float) : hidden * sizeof(float);
}

absl::Status CheckIds(const expert::v1::DispatchRequest& proto, const ExpertShape& shape) {
  const int num_rows = proto.row_offsets_size() - 1;
  if (proto.row_offsets(0) != 0) return Bad("row_offsets[0]", "must be 0");
  for (int r = 0; r < num_rows; ++r) {
    const uint32_t begin = proto.row_offsets(r), end = proto.row_offsets(r + 1);
    if (end <= begin || end > static_cast<uint32_t>(proto.expert_ids_size())) {
      return Bad(absl::StrCat("row_offsets[", r + 1, "]"),
                 absl::StrCat(end, " is not in (", begin, ", ", proto.expert_ids_size(), "]"));
    }
    for (uint32_t p = begin; p < end; ++p) {
      const uint32_t id = proto.expert_ids(static_cast<int>(p));
      if (id >= static_cast<uint32_t>(shape.experts_per_layer) ||
          (p > begin && id <= proto.expert_ids(static_cast<int>(p) - 1))) {
        return Bad(
            absl::StrCat("expert_ids[", p, "]"),
            absl::StrCat(id, " must be below ", shape.experts_per_layer, " and ascend in its row"));
      }
    }
  }
  if (proto.row_offsets(num_rows) != static_cast<uint32_t>(proto.expert_ids_size()))
    return Bad("expert_ids", "more ids than the offsets cover");
  return absl::OkStatus();
}

}  // namespace

void DispatchToProto(const moe::ExpertBatch& batch, const DispatchRows& part, uint64_t dispatch_id,
                     uint32_t budget_us, const ExpertShape& shape,
                     expert::v1::DispatchRequest* proto) {
  proto->Clear();
  proto->set_dispatch_id(dispatch_id);
  proto->set_moe_layer(static_cast<uint32_t>(batch.moe_layer));
  proto->set_budget_us(budget_us);
  proto->set_fingerprint(shape.fingerprint);
  const size_t num = part.rows.size();
  const auto hidden = static_cast<size_t>(batch.hidden);
  std::string& bytes = *proto->mutable_rows();
  bytes.resize(num * RowBytes(shape));
  char* to = bytes.data();
  if (shape.travels_quantized()) {
    proto->set_format(expert::v1::ACTIVATION_FORMAT_Q8_BLOCKS);
    for (size_t i = 0; i < num; ++i, to += hidden)
      std::memcpy(to, batch.quantized.q + static_cast<size_t>(part.rows[i]) * hidden, hidden);
    const size_t blocks = hidden / 32;
    for (size_t i = 0; i < num; ++i, to += blocks * sizeof(float)) {
      std::memcpy(to, batch.quantized.d + static_cast<size_t>(part.rows[i]) * blocks,
                  blocks * sizeof(float));
    }
  } else {
    proto->set_format(expert::v1::ACTIVATION_FORMAT_F32);
    for (size_t i = 0; i < num; ++i, to += hidden * sizeof(float)) {
      std::memcpy(to, batch.f32 + static_cast<size_t>(part.rows[i]) * hidden,
                  hidden * sizeof(float));
    }
  }
  proto->mutable_row_offsets()->Assign(part.offsets.begin(), part.offsets.end());
  proto->mutable_expert_ids()->Reserve(static_cast<int>(part.pairs.size()));
  for (const int32_t p : part.pairs)
    proto->add_expert_ids(static_cast<uint32_t>(batch.expert_ids[static_cast<size_t>(p)]));
  proto->set_checksum(Hash64(bytes, dispatch_id));
}

absl::Status CheckDispatch(const expert::v1::DispatchRequest& proto, const ExpertShape& shape) {
  if (proto.fingerprint() != shape.fingerprint) {
    return WithReason(absl::FailedPreconditionError(
                          "dispatch.fingerprint: " + Hex64(proto.fingerprint()) +
                          " was asked for, this shard serves " + Hex64(shape.fingerprint)),
                      "FINGERPRINT_MISMATCH");
  }
  if (proto.moe_layer() >= static_cast<uint32_t>(shape.num_layers)) {
    return Bad("moe_layer",
               absl::StrCat(proto.moe_layer(), " is not in [0, ", shape.num_layers, ")"));
  }
  const auto format = shape.travels_quantized() ? expert::v1::ACTIVATION_FORMAT_Q8_BLOCKS
                                                : expert::v1::ACTIVATION_FORMAT_F32;
  if (proto.format() != format) {
    return Bad("format",
               absl::StrCat(static_cast<int>(proto.format()), " is not what ",
                            "this model's experts read (", static_cast<int>(format), ")"));
  }
  const int64_t num_rows = int64_t{proto.row_offsets_size()} - 1;
  if (num_rows < 1 || num_rows > kMaxDispatchRows) {
    return Bad("row_offsets",
               absl::StrCat(num_rows, " rows; there must be 1 to ", kMaxDispatchRows));
  }
  if (proto.expert_ids_size() > kMaxDispatchPairs)
    return Bad("expert_ids", absl::StrCat("more than ", kMaxDispatchPairs));
  const size_t want = static_cast<size_t>(num_rows) * RowBytes(shape);
  if (proto.rows().size() != want) {
    return Bad("rows", absl::StrCat(proto.rows().size(), " bytes for ", num_rows,
                                    " rows; there must be ", want));
  }
  TUTTI_RETURN_IF_ERROR(CheckIds(proto, shape));
  if (Hash64(proto.rows(), proto.dispatch_id()) != proto.checksum())
    return absl::DataLossError("dispatch.rows: the checksum differs");
  return absl::OkStatus();
}

void CopyQuantizedRow(const expert::v1::DispatchRequest& proto, int64_t hidden, int64_t row,
                      int8_t* q, float* d) {
  const int64_t num = proto.row_offsets_size() - 1, scales = hidden / 32 * 4;
  const char* bytes = proto.rows().data();
  std::memcpy(q, bytes + row * hidden, static_cast<size_t>(hidden));
  std::memcpy(d, bytes + num * hidden + row * scales, static_cast<size_t>(scales));
}

void CopyFloatRow(const expert::v1::DispatchRequest& proto, int64_t hidden, int64_t row, float* x) {
  const auto bytes = static_cast<size_t>(hidden) * sizeof(float);
  std::memcpy(x, proto.rows().data() + static_cast<size_t>(row) * bytes, bytes);
}

void SignReply(expert::v1::CombineReply* proto) {
  proto->set_checksum(Hash64(proto->rows(), proto->dispatch_id()));
}

absl::Status CheckReply(const expert::v1::CombineReply& proto, int64_t pairs, int64_t hidden) {
  const auto want = static_cast<size_t>(pairs * hidden) * sizeof(float);
  if (proto.rows().size() != want) {
    return absl::InvalidArgumentError(
        absl::StrCat("reply.rows: ", proto.rows().size(), " bytes; there must be ", want));
  }
  if (Hash64(proto.rows(), proto.dispatch_id()) != proto.checksum())
    return absl::DataLossError("reply.rows: the checksum differs");
  return absl::OkStatus();
}

}  // namespace tutti::wire
