// The block encoders behind blocks.h. Each takes one block of values and fills in the scales and
// codes of a file block. Internal to this room.
#pragma once

#include "kernels/blocks.h"
#include "shared/tensor/dtype.h"

namespace tutti::quantize {

// Q8_0, Q4_0, Q5_0, Q4_1, Q5_1: x has 32 numbers.
void EncodeLegacyBlock(DType dtype, const float* x, kernels::RawBlock* out);
// Q4_K, Q5_K, Q6_K: x has 256 numbers.
void EncodeKBlock(DType dtype, const float* x, kernels::RawBlock* out);

}  // namespace tutti::quantize
