#include "kernels/tables.h"

#include "kernels/cpu/cpu.h"

namespace tutti::kernels {
namespace {

cpu::MatrixView View(const PackedMatrix& w) {
  return {w.dtype(), w.rows(), w.cols(), w.group_bytes(), w.group(0)};
}

using FillFunction = void(KernelTable*, cpu::MatmulEntries*);

// Table entries are plain functions, so each table has its own pair of adapters.
template <Isa isa, FillFunction* fill>
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
  static KernelTable Make() {
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
  static const KernelTable table = Adapter<Isa::kAvx2, cpu::FillAvx2>::Make();
  return table;
}

const KernelTable& AvxVnniTable() {
  static const KernelTable table = Adapter<Isa::kAvxVnni, cpu::FillAvxVnni>::Make();
  return table;
}

const KernelTable& Avx512Table() {
  static const KernelTable table = Adapter<Isa::kAvx512, cpu::FillAvx512>::Make();
  return table;
}

const KernelTable& AmxTable() {
  static const KernelTable table = Adapter<Isa::kAmx, cpu::FillAmx>::Make();
  return table;
}

const KernelTable& NeonTable() {
  static const KernelTable table = Adapter<Isa::kNeon, cpu::FillNeon>::Make();
  return table;
}

const KernelTable& NeonDotprodTable() {
  static const KernelTable table = Adapter<Isa::kNeon, cpu::FillNeonDotprod>::Make();
  return table;
}

}  // namespace tutti::kernels
