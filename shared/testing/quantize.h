// Small, plain quantisers and their inverses for tests: any matrix in every element type. They
// round to nearest and search for nothing, so they are worse than a real quantiser and simpler than
// one. The inverses are written from the formats' definitions, apart from the kernels, which are
// tested against them; the bits are put in place by kernels::EncodeFileBlock.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "shared/tensor/dtype.h"

namespace tutti::testing {

// REQUIRES: values.size() is a multiple of the type's block.
std::vector<std::byte> Quantize(DType dtype, std::span<const float> values);
// REQUIRES: bytes is a whole number of blocks.
std::vector<float> Dequantize(DType dtype, std::span<const std::byte> bytes);

}  // namespace tutti::testing
