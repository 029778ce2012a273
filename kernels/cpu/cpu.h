// Vector kernels: one source (float_kernels.h, attention_kernel.h, matmul_kernels.h) over a vector
// type of 16 lanes, compiled once per instruction set with that set's flags.
//
// Those files are compiled for machines that other files are not, so they must leave nothing behind
// that the linker could merge with code for every machine: everything in them is in an anonymous
// namespace, and they call no inline function or template from outside (the compiler may emit a
// copy of it with their flags). That is why a matrix comes to them as a plain struct.
#pragma once

#include "kernels/kernels.h"

namespace tutti::kernels::cpu {

struct MatrixView {
  DType dtype;
  int64_t rows, cols;
  size_t group_bytes;
  const std::byte* data;
};

// The entries of KernelTable that take a PackedMatrix, with a view instead.
struct MatmulEntries {
  void (*quantized)(const MatrixView& w, const QuantizedRows& x, int64_t group_begin,
                    int64_t group_end, float* y, int64_t y_stride);
  void (*floating)(const MatrixView& w, const float* x, int64_t num_x, int64_t x_stride,
                   int64_t group_begin, int64_t group_end, float* y, int64_t y_stride);
};

// Fill the entries that the instruction set has. Callers checked the machine first.
void FillAvx2(KernelTable* table, MatmulEntries* matmul);
void FillAvxVnni(KernelTable* table, MatmulEntries* matmul);
void FillAvx512(KernelTable* table, MatmulEntries* matmul);
void FillAmx(KernelTable* table, MatmulEntries* matmul);
void FillNeon(KernelTable* table, MatmulEntries* matmul);
void FillNeonDotprod(KernelTable* table, MatmulEntries* matmul);

}  // namespace tutti::kernels::cpu
