// Compiled with the flags of avx512.cc, -mamx-tile and -mamx-int8 (kernels/CMakeLists.txt).
#include "kernels/cpu/cpu.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && \
    defined(__AVX512VL__) && defined(__AVX512VNNI__) &&                       \
    (defined(__AMX_INT8__) || defined(__AMXINT8__))  // clang 14 has the second
// The order matters: the kernels are written over the vector layer.
// clang-format off
#include "kernels/cpu/vec_avx512.h"
#include "kernels/cpu/matmul_amx.h"
// clang-format on

namespace tutti::kernels::cpu {
namespace {

// Fewer columns are quicker in registers: a group's weights go through memory to reach a tile.
constexpr int64_t kMinColumns = 24;

decltype(MatmulEntries::quantized) g_few_columns = nullptr;

void MatmulQuantized(const MatrixView& w, const QuantizedRows& x, int64_t group_begin,
                     int64_t group_end, float* y, int64_t y_stride) {
  const auto matmul = x.num_rows < kMinColumns ? g_few_columns : AmxMatmul;
  matmul(w, x, group_begin, group_end, y, y_stride);
}

}  // namespace

void FillAmx(KernelTable* table, MatmulEntries* matmul) {
  FillAvx512(table, matmul);
  g_few_columns = matmul->quantized;
  matmul->quantized = MatmulQuantized;
}
}  // namespace tutti::kernels::cpu
#else
namespace tutti::kernels::cpu {
void FillAmx(KernelTable*, MatmulEntries*) {}
}  // namespace tutti::kernels::cpu
#endif
