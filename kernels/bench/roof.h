// What this machine can do at most, measured in the same run as the kernels: the denominator of
// "share".
#pragma once

#include "kernels/kernels.h"

namespace tutti::kernels {

struct Roof {
  double read_bytes_per_s[3] = {};  // [threads], 1 and 2: reading 128 MB in huge pages
  // One thread, two operations for each multiply-add. Bytes by AVX2 with a widening and an addition
  // for each product: what every engine can have.
  double simple_int8_ops_per_s = 0;
  // Bytes and floats by the widest vectors of the instruction set. Tiles (AMX) can pass the first.
  double int8_ops_per_s = 0, f32_flops_per_s = 0;
};
// Zeros where nothing can be measured (not x86-64, no AVX2).
Roof MeasureRoof(Isa isa);

}  // namespace tutti::kernels
