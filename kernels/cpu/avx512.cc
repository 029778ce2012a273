// Compiled with -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni (kernels/CMakeLists.txt).
#include "kernels/cpu/cpu.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && \
    defined(__AVX512VL__) && defined(__AVX512VNNI__)
// The order matters: the kernels are written over the vector layer.
// clang-format off
#include "kernels/cpu/vec_avx512.h"
#include "kernels/cpu/float_kernels.h"
#include "kernels/cpu/attention_kernel.h"
#include "kernels/cpu/matmul_kernels.h"
// clang-format on

namespace tutti::kernels::cpu {
void FillAvx512(KernelTable* table, MatmulEntries* matmul) { Fill(table, matmul); }
}  // namespace tutti::kernels::cpu
#else
namespace tutti::kernels::cpu {
void FillAvx512(KernelTable*, MatmulEntries*) {}
}  // namespace tutti::kernels::cpu
#endif
