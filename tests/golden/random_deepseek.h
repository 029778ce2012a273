// A small DeepSeek of random weights in any element type.
#pragma once

#include <string>

#include "shared/tensor/dtype.h"

namespace tutti::golden {

// A GGUF image, every matrix with rows of a multiple of 256, stored as `stored`, or, when
// `widened`, as F32 with the very values that `stored` holds. `split`: with k_b and v_b instead of
// kv_b (other values: a quantised k_b is rounded along the other dimension).
std::string RandomDeepseek(DType stored, bool widened, bool split);

}  // namespace tutti::golden
