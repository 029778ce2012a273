// Compiled with -march=armv8.2-a+dotprod (kernels/CMakeLists.txt).
#include "kernels/cpu/cpu.h"

#if defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD)
// The order matters: the kernels are written over the vector layer.
// clang-format off
#include "kernels/cpu/vec_neon.h"
#include "kernels/cpu/float_kernels.h"
#include "kernels/cpu/attention_kernel.h"
#include "kernels/cpu/matmul_kernels.h"
// clang-format on

namespace tutti::kernels::cpu {
void FillNeonDotprod(KernelTable* table, MatmulEntries* matmul) { Fill(table, matmul); }
}  // namespace tutti::kernels::cpu
#else
namespace tutti::kernels::cpu {
void FillNeonDotprod(KernelTable*, MatmulEntries*) {}
}  // namespace tutti::kernels::cpu
#endif
