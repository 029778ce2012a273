#include "shared/model/workspace.h"

namespace tutti::model {

void Exec::Matmul(const Linear& w, const Activations& x, int64_t rows, int64_t group_begin,
                  int64_t group_end, float* y, int64_t y_stride) const {
  if (w.weight.quantized()) {
    kernels_->matmul_quantized(w.weight, x.q, group_begin, group_end, y, y_stride);
  } else {
    kernels_->matmul_float(w.weight, x.f32, rows, x.cols, group_begin, group_end, y, y_stride);
  }
  if (w.bias.empty()) return;
  const int64_t begin = group_begin * kernels::kLanes;
  const int64_t end = std::min(group_end * kernels::kLanes, w.weight.rows());
  for (int64_t r = 0; r < rows; ++r) {
    float* row = y + r * y_stride + begin;
    kernels_->add(row, w.bias.data() + begin, end - begin, row);
  }
}

}  // namespace tutti::model
