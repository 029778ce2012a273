#include <utility>

#include "kernels/reference/reference.h"
#include "kernels/reference/scalar_math.h"
#include "shared/base/philox.h"

namespace tutti::kernels::reference {

void RmsNorm(const float* x, const float* gain, float gain_offset, float eps, int64_t n, float* y) {
  float lane[16] = {};
  for (int64_t i = 0; i < n; ++i) lane[i % 16] = Fma(x[i], x[i], lane[i % 16]);
  const float r = 1.0f / __builtin_sqrtf(FoldLanes(lane) / static_cast<float>(n) + eps);
  for (int64_t i = 0; i < n; ++i) y[i] = (x[i] * r) * (gain[i] + gain_offset);
}

void RmsNormQuantize(const float* x, const float* gain, float gain_offset, float eps, int64_t n,
                     float* y, int8_t* q, BlockScale* scales) {
  RmsNorm(x, gain, gain_offset, eps, n, y);
  QuantizeRows(y, 1, n, q, scales);
}

void LayerNorm(const float* x, const float* gain, const float* bias, float eps, int64_t n,
               float* y) {
  float sum[16] = {}, squares[16] = {};
  for (int64_t i = 0; i < n; ++i) sum[i % 16] = sum[i % 16] + x[i];
  const float mean = FoldLanes(sum) / static_cast<float>(n);
  for (int64_t i = 0; i < n; ++i) {
    const float c = x[i] - mean;
    squares[i % 16] = Fma(c, c, squares[i % 16]);
  }
  const float r = 1.0f / __builtin_sqrtf(FoldLanes(squares) / static_cast<float>(n) + eps);
  for (int64_t i = 0; i < n; ++i) {
    const float scaled = ((x[i] - mean) * r) * gain[i];
    y[i] = bias != nullptr ? scaled + bias[i] : scaled;
  }
}

void Add(const float* a, const float* b, int64_t n, float* y) {
  for (int64_t i = 0; i < n; ++i) y[i] = a[i] + b[i];
}

void Scale(const float* x, float factor, int64_t n, float* y) {
  for (int64_t i = 0; i < n; ++i) y[i] = x[i] * factor;
}

void Axpy(float a, const float* x, int64_t n, float* y) {
  for (int64_t i = 0; i < n; ++i) y[i] = Fma(a, x[i], y[i]);
}

void Softcap(const float* x, float cap, int64_t n, float* y) {
  for (int64_t i = 0; i < n; ++i) y[i] = cap * ScalarTanh(x[i] / cap);
}

void Activate(Activation kind, const float* x, int64_t n, float* y) {
  for (int64_t i = 0; i < n; ++i)
    y[i] = kind == Activation::kSilu ? ScalarSilu(x[i]) : ScalarGeluTanh(x[i]);
}

void Gated(Activation kind, const float* gate, const float* up, int64_t n, float* y) {
  for (int64_t i = 0; i < n; ++i) {
    y[i] = (kind == Activation::kSilu ? ScalarSilu(gate[i]) : ScalarGeluTanh(gate[i])) * up[i];
  }
}

void Rope(float* x, int num_heads, int64_t head_stride, int rot, bool interleaved, const float* cos,
          const float* sin) {
  for (int h = 0; h < num_heads; ++h, x += head_stride) {
    for (int i = 0; i < rot / 2; ++i) {
      float& x0 = interleaved ? x[2 * i] : x[i];
      float& x1 = interleaved ? x[2 * i + 1] : x[i + rot / 2];
      const float y0 = Fma(-x1, sin[i], x0 * cos[i]);
      const float y1 = Fma(x1, cos[i], x0 * sin[i]);
      x0 = y0;
      x1 = y1;
    }
  }
}

float LogSumExp(const float* x, int64_t n) {
  const float m = x[Argmax(x, n)];
  float lane[16] = {};
  for (int64_t i = 0; i < n; ++i) lane[i % 16] = lane[i % 16] + ScalarExp(x[i] - m);
  return m + ScalarLog(FoldLanes(lane));
}

void Exp(const float* x, int64_t n, float* y) {
  for (int64_t i = 0; i < n; ++i) y[i] = ScalarExp(x[i]);
}

void Log(const float* x, int64_t n, float* y) {
  for (int64_t i = 0; i < n; ++i) y[i] = ScalarLog(x[i]);
}

int64_t Argmax(const float* x, int64_t n) {
  int64_t best = 0;
  bool any = x[0] == x[0];
  for (int64_t i = 1; i < n; ++i) {
    if (x[i] > x[best] || (!any && x[i] == x[i])) {
      best = i;
      any = true;
    }
  }
  return best;
}

void Gumbel(uint64_t seed, uint32_t position, uint32_t stream, uint32_t sample_index, int64_t n,
            float* out) {
  PhiloxBlock block{};
  for (int64_t i = 0; i < n; ++i) {
    if (i % 4 == 0)
      block = Philox4x32(seed, {static_cast<uint32_t>(i / 4), position, stream, sample_index});
    const float u = UnitUniform(block[static_cast<size_t>(i % 4)]);
    out[i] = -ScalarLog(-ScalarLog(u));
  }
}

bool AllFinite(const float* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    if ((std::bit_cast<uint32_t>(x[i]) & 0x7F800000u) == 0x7F800000u) return false;
  }
  return true;
}

}  // namespace tutti::kernels::reference
