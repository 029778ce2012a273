// Compiled with -mavx2 -mfma -mf16c -mavxvnni (kernels/CMakeLists.txt).
#include "kernels/cpu/cpu.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__) && defined(__AVXVNNI__)
// The order matters: the kernels are written over the vector layer.
// clang-format off
#include "kernels/cpu/vec_avx2.h"
#include "kernels/cpu/float_kernels.h"
#include "kernels/cpu/attention_kernel.h"
#include "kernels/cpu/matmul_kernels.h"
// clang-format on

namespace tutti::kernels::cpu {
void FillAvxVnni(KernelTable* table, MatmulEntries* matmul) { Fill(table, matmul); }
}  // namespace tutti::kernels::cpu
#else
namespace tutti::kernels::cpu {
void FillAvxVnni(KernelTable*, MatmulEntries*) {}
}  // namespace tutti::kernels::cpu
#endif
