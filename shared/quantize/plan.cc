#include "shared/quantize/plan.h"

#include "absl/strings/match.h"
#include "shared/base/strings.h"

namespace tutti::quantize {
namespace {

enum class Role { kEmbedding, kMatrix, kSmall };

Role RoleOf(const weights::TensorInfo& t) {
  if (t.NumElements() == t.shape.back()) return Role::kSmall;
  const std::string_view name = t.name;
  if (name == "token_embd.weight" || name == "output.weight") return Role::kEmbedding;
  if (!name.ends_with(".weight") || name.ends_with(".ffn_gate_inp.weight") ||
      name == "position_embd.weight") {
    return Role::kSmall;
  }
  return Role::kMatrix;
}

// Bits of one weight, in thousandths.
int MilliBits(DType dtype) {
  const DTypeTraits& t = Traits(dtype);
  return t.block_bytes * 8000 / t.block_elements;
}

}  // namespace

DType FittingType(DType wanted, int64_t row_elements) {
  if (row_elements % Traits(wanted).block_elements == 0) return wanted;
  DType smaller = DType::kF16;
  if (wanted == DType::kQ4_K) smaller = DType::kQ5_0;
  if (wanted == DType::kQ5_K) smaller = DType::kQ5_1;
  if (wanted == DType::kQ6_K) smaller = DType::kQ8_0;
  return row_elements % Traits(smaller).block_elements == 0 ? smaller : DType::kF16;
}

std::vector<TensorPlan> PlanTensors(const weights::ModelFiles& files, const PlanOptions& options) {
  const DType embedding = options.embedding.value_or(
      MilliBits(options.dtype) < MilliBits(DType::kQ8_0) ? DType::kQ8_0 : options.dtype);
  std::vector<TensorPlan> plan;
  for (const weights::TensorInfo& t : files.tensors()) {
    const Role role = RoleOf(t);
    const DType wanted = role == Role::kSmall       ? DType::kF32
                         : role == Role::kEmbedding ? embedding
                                                    : options.dtype;
    plan.push_back({&t, wanted, FittingType(wanted, t.shape.back())});
  }
  return plan;
}

std::optional<DType> ParseDType(std::string_view name) {
  for (int i = 0; i < kNumDTypes; ++i) {
    const auto dtype = static_cast<DType>(i);
    if (absl::EqualsIgnoreCase(ToAbsl(name), ToAbsl(Traits(dtype).name))) return dtype;
  }
  return std::nullopt;
}

uint32_t FileTypeNumber(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return 0;
    case DType::kF16:
      return 1;
    case DType::kQ4_0:
      return 2;
    case DType::kQ4_1:
      return 3;
    case DType::kQ8_0:
      return 7;
    case DType::kQ5_0:
      return 8;
    case DType::kQ5_1:
      return 9;
    case DType::kQ4_K:
      return 14;
    case DType::kQ5_K:
      return 16;
    case DType::kQ6_K:
      return 18;
    case DType::kBF16:
      return 32;
  }
  return 0;
}

}  // namespace tutti::quantize
