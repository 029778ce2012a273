#include "shared/quantize/blocks.h"

#include <cstring>

#include "kernels/blocks.h"
#include "shared/quantize/block_encoders.h"

namespace tutti::quantize {
namespace {

template <typename Convert>
void Store16(std::span<const float> values, std::byte* out, Convert convert) {
  for (size_t i = 0; i < values.size(); ++i) {
    const uint16_t bits = convert(values[i]);
    std::memcpy(out + 2 * i, &bits, 2);
  }
}

}  // namespace

void EncodeBlocks(DType dtype, std::span<const float> values, std::byte* out) {
  if (dtype == DType::kF32) {
    std::memcpy(out, values.data(), values.size_bytes());
    return;
  }
  if (dtype == DType::kF16) return Store16(values, out, FloatToHalf);
  if (dtype == DType::kBF16) return Store16(values, out, FloatToBFloat16);
  const DTypeTraits& traits = Traits(dtype);
  const auto block = static_cast<size_t>(traits.block_elements);
  kernels::RawBlock raw;
  for (size_t at = 0; at < values.size(); at += block, out += traits.block_bytes) {
    if (block == 256) {
      EncodeKBlock(dtype, values.data() + at, &raw);
    } else {
      EncodeLegacyBlock(dtype, values.data() + at, &raw);
    }
    kernels::EncodeFileBlock(dtype, raw, out);
  }
}

}  // namespace tutti::quantize
