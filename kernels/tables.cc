#include "kernels/tables.h"

#include "kernels/cpu/cpu.h"

namespace tutti::kernels {
namespace {

cpu::MatrixView View(const PackedMatrix& w) {
  return {w.dtype(), w.rows(), w.cols(), w.group_bytes(), w.group(0)};
}

// Table entries are plain functions, so each instruction set has its own pair of adapters.
template <Isa isa>
struct Adapter {
  static inline cpu::MatmulEntries entries{};

  static void Quantized(const PackedMatrix& w, const QuantizedRows& x, int64_t group_begin,
                        int64_t group_end, float* y, int64_t y_stride) {
    entries.quantized(View(w), x, group_begin, group_end, y, y_stride);
  }
  static void Floating(const PackedMatrix& w, const float* x, int64_t num_x, int64_t x_stride,
                       int64_t group_begin, int64_t group_end, float* y, int64_t y_stride) {
    entries.floating(View(w), x, num_x, x_stride, group_begin, group_end, y, y_stride);
  }
  static KernelTable Make(void (*fill)(KernelTable*, cpu::MatmulEntries*)) {
    KernelTable table{};
    table.isa = isa;
    table.matmul_quantized = Quantized;
    table.matmul_float = Floating;
    fill(&table, &entries);
    return table;
  }
};

}  // namespace

const KernelTable& Avx2Table() {
  static const KernelTable table = Adapter<Isa::kAvx2>::Make(cpu::FillAvx2);
  return table;
}

const KernelTable& Avx512Table() {
  static const KernelTable table = Adapter<Isa::kAvx512>::Make(cpu::FillAvx512);
  return table;
}

}  // namespace tutti::kernels
