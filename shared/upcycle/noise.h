// Weights with noise, in the type that they have.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "shared/weights/model_files.h"

namespace tutti::upcycle {

struct NoiseStream {
  double noise = 0;  // standard deviation, in units of a row's root mean square
  uint64_t seed = 0;
  uint32_t expert = 0;  // these two keep the numbers of one seed apart
  uint32_t tensor = 0;
};

// Sums over the weights that were written, and the first of them that is not a number which the
// type holds.
struct NoiseChange {
  double squares = 0, squared_change = 0;
  int64_t bad_element = -1;  // of the tensor
};

// Rows [first, first + n) of a matrix, perturbed and encoded again, to `out`. The numbers are sums
// of four uniform ones: near normal, never past 2 sqrt(3) deviations, and exact without a
// logarithm. `scratch` is reused memory.
// Determinism: exact: a weight's number depends on the stream and the element's index alone.
void EncodeWithNoise(const weights::TensorInfo& source, const NoiseStream& stream, int64_t first,
                     int64_t n, std::vector<float>* scratch, std::byte* out, NoiseChange* change);

}  // namespace tutti::upcycle
