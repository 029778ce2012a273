#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/packed_layout.h"
#include "kernels/reference/reference.h"
#include "kernels/reference/scalar_math.h"

namespace tutti::kernels::reference {
namespace {
constexpr int64_t kSegment = 256;  // k per segment (Q4)
}

void QuantizeRows(const float* x, int64_t num_rows, int64_t cols, int8_t* q, BlockScale* scales) {
  for (int64_t block = 0; block < num_rows * (cols / 32); ++block) {
    const float* xb = x + 32 * block;
    // The maximum of |x| as an integer: same order for numbers, and NaN beats all, so a NaN ends up
    // in d.
    uint32_t max_bits = 0;
    for (int i = 0; i < 32; ++i)
      max_bits = std::max(max_bits, std::bit_cast<uint32_t>(xb[i]) & 0x7FFFFFFFu);
    const float m = std::bit_cast<float>(max_bits);
    const float inverse = m > 0.0f ? 127.0f / m : 0.0f;
    int32_t sum = 0;
    for (int i = 0; i < 32; ++i) {
      // The low byte of the rounding sum is the integer. (It is 0 for infinity: blocks below 4e-37,
      // whose 127 / m overflows, become zeros.)
      const uint32_t rounded = std::bit_cast<uint32_t>(xb[i] * inverse + kRound);
      q[32 * block + i] = static_cast<int8_t>(rounded & 0xFF);
      sum += q[32 * block + i];
    }
    scales[block] = MakeBlockScale(m / 127.0f, sum);
  }
}

void MatmulQuantized(const PackedMatrix& w, const QuantizedRows& x, int64_t group_begin,
                     int64_t group_end, float* y, int64_t y_stride) {
  const PackedLayout layout = LayoutOf(w.dtype());
  const int64_t blocks = w.cols() / 32;
  const int parts = layout.block_k / 32;
  std::vector<Block32> row(static_cast<size_t>(blocks));
  RawBlock raw;
  for (int64_t n = group_begin * kLanes; n < std::min(group_end * kLanes, w.rows()); ++n) {
    for (int64_t b = 0; b < blocks / parts; ++b) {
      ReadPackedBlock(w.dtype(), w.group(n / kLanes) + b * layout.block_bytes,
                      static_cast<int>(n % kLanes), &raw);
      for (int part = 0; part < parts; ++part) {
        NormalizeBlock(w.dtype(), raw, part, &row[static_cast<size_t>(b * parts + part)]);
      }
    }
    for (int64_t t = 0; t < x.num_rows; ++t) {
      float total = 0, p = 0;
      for (int64_t b = 0; b < blocks; ++b) {
        const Block32& wb = row[static_cast<size_t>(b)];
        const int8_t* q = x.q + t * x.cols + 32 * b;
        const BlockScale& scale = x.scales[t * blocks + b];
        int32_t half[2] = {0, 0};
        for (int i = 0; i < 32; ++i) half[i / 16] += wb.w[i] * q[i];
        const int32_t isum = wb.scale[0] * half[0] + wb.scale[1] * half[1];
        p = Fma(wb.dw * scale.d, static_cast<float>(isum), p);
        if (wb.has_min) p = Fma(wb.mw, scale.m, p);
        if ((b + 1) % (kSegment / 32) == 0 || b + 1 == blocks) {  // the segment's end
          total = b < kSegment / 32 ? p : total + p;
          p = 0;
        }
      }
      y[t * y_stride + n] = total;
    }
  }
}

void MatmulFloat(const PackedMatrix& w, const float* x, int64_t num_x, int64_t x_stride,
                 int64_t group_begin, int64_t group_end, float* y, int64_t y_stride) {
  std::vector<float> row(static_cast<size_t>(w.cols()));
  for (int64_t n = group_begin * kLanes; n < std::min(group_end * kLanes, w.rows()); ++n) {
    w.DequantizeRow(n, row.data());
    for (int64_t t = 0; t < num_x; ++t) {
      float total = 0;
      for (int64_t begin = 0; begin < w.cols(); begin += kSegment) {
        float p = 0;
        for (int64_t k = begin; k < std::min(begin + kSegment, w.cols()); ++k) {
          p = Fma(row[static_cast<size_t>(k)], x[t * x_stride + k], p);
        }
        total = begin == 0 ? p : total + p;
      }
      y[t * y_stride + n] = total;
    }
  }
}

}  // namespace tutti::kernels::reference
