// A small Llama of random weights in any element type.
#pragma once

#include <string>
#include <vector>

#include "shared/tensor/dtype.h"

namespace tutti::golden {

// A GGUF image with all matrices stored as `stored`, or, when `widened`, as F32 with the very
// values that `stored` holds.
std::string RandomLlama(DType stored, bool widened);

std::vector<DType> AllTypes();

}  // namespace tutti::golden
