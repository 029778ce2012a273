// Loops over a few vectors that the compiler sees written out, so that the vectors stay in
// registers. Included after a vector layer (vec_*.h); see cpu.h.
#pragma once

#include <utility>

namespace tutti::kernels::cpu {
namespace {

#define TUTTI_LAMBDA __attribute__((always_inline))

// A number as a type, so that an index is a constant for the compiler from the start.
template <int n>
struct Constant {
  constexpr operator int() const { return n; }
};
// body(0), ..., body(n - 1), written out. A loop over an array of vectors, unrolled later by the
// optimiser, would keep the array in memory; this keeps it in registers.
template <int n, typename Body>
TUTTI_INLINE void Unroll(const Body& body) {
  [&]<int... i>(std::integer_sequence<int, i...>) TUTTI_LAMBDA { (body(Constant<i>{}), ...); }
  (std::make_integer_sequence<int, n>{});
}

}  // namespace
}  // namespace tutti::kernels::cpu
