// Compiled for AArch64 as such, which has NEON but not always its dot products; see
// neon_dotprod.cc.
#include "kernels/cpu/cpu.h"

#if defined(__aarch64__)
// The order matters: the kernels are written over the vector layer.
// clang-format off
#include "kernels/cpu/vec_neon.h"
#include "kernels/cpu/float_kernels.h"
#include "kernels/cpu/attention_kernel.h"
#include "kernels/cpu/matmul_kernels.h"
// clang-format on

namespace tutti::kernels::cpu {
void FillNeon(KernelTable* table, MatmulEntries* matmul) { Fill(table, matmul); }
}  // namespace tutti::kernels::cpu
#else
namespace tutti::kernels::cpu {
void FillNeon(KernelTable*, MatmulEntries*) {}
}  // namespace tutti::kernels::cpu
#endif
