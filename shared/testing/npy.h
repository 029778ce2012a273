// Reads .npy files (version 1.0, little-endian, C order) that hold golden arrays.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "shared/base/status.h"

namespace tutti::testing {

template <typename T>
struct NpyArray {
  std::vector<int64_t> shape;
  std::vector<T> values;
};

// Errors: NOT_FOUND; INVALID_ARGUMENT  not such a file, or of another type
absl::StatusOr<NpyArray<float>> ReadNpyF32(const std::string& path);
absl::StatusOr<NpyArray<int32_t>> ReadNpyI32(const std::string& path);

// The image of a float32 array, for tools that write one.
std::string NpyImageF32(const std::vector<int64_t>& shape, const float* values);

}  // namespace tutti::testing
