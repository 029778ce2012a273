// The plain loops that are the specification of kernels/kernels.h.
#pragma once

#include "kernels/kernels.h"

namespace tutti::kernels::reference {

void QuantizeRows(const float* x, int64_t num_rows, int64_t cols, int8_t* q, BlockScale* scales);
void MatmulQuantized(const PackedMatrix& w, const QuantizedRows& x, int64_t group_begin,
                     int64_t group_end, float* y, int64_t y_stride);
void MatmulFloat(const PackedMatrix& w, const float* x, int64_t num_x, int64_t x_stride,
                 int64_t group_begin, int64_t group_end, float* y, int64_t y_stride);

void RmsNorm(const float* x, const float* gain, float gain_offset, float eps, int64_t n, float* y);
void LayerNorm(const float* x, const float* gain, const float* bias, float eps, int64_t n,
               float* y);
void RmsNormQuantize(const float* x, const float* gain, float gain_offset, float eps, int64_t n,
                     float* y, int8_t* q, BlockScale* scales);
void Add(const float* a, const float* b, int64_t n, float* y);
void Scale(const float* x, float factor, int64_t n, float* y);
void Axpy(float a, const float* x, int64_t n, float* y);
void Softcap(const float* x, float cap, int64_t n, float* y);
void Activate(Activation kind, const float* x, int64_t n, float* y);
void Gated(Activation kind, const float* gate, const float* up, int64_t n, float* y);
void Rope(float* x, int num_heads, int64_t head_stride, int rot, bool interleaved, const float* cos,
          const float* sin);
void Attention(const AttentionArgs& args);
void MergeChunks(const AttentionArgs& args);
float LogSumExp(const float* x, int64_t n);
void Exp(const float* x, int64_t n, float* y);
void Log(const float* x, int64_t n, float* y);
int64_t Argmax(const float* x, int64_t n);
void Gumbel(uint64_t seed, uint32_t position, uint32_t stream, uint32_t sample_index, int64_t n,
            float* out);
bool AllFinite(const float* x, int64_t n);

const KernelTable& Table();

}  // namespace tutti::kernels::reference
