// What this machine can do at most, measured in the same run as the kernels: the denominator of
// "share".
#pragma once

#include <cstdint>

namespace tutti::kernels {

struct Roof {
  double read_bytes_per_s[3] = {};  // [threads], 1 and 2: reading 128 MB in huge pages
  double int8_ops_per_s = 0;        // one thread: multiply-adds of bytes (two operations each)
  double f32_flops_per_s = 0;       // one thread: fma (two operations each)
};
Roof MeasureRoof();

}  // namespace tutti::kernels
