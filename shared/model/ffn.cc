#include "shared/model/ffn.h"

namespace tutti::model {
namespace {

bool IsGated(const FfnWeights& w) { return w.gate.weight.rows() > 0; }

class DenseFfn final : public FeedForward {
 public:
  DenseFfn(const ModelConfig& config, const FfnWeights* weights, FfnWorkspace* workspace)
      : hidden_(config.hidden_size),
        size_(weights->up.weight.rows()),
        activation_(config.activation),
        w_(*weights),
        space_(*workspace) {}

  bool reads_quantized() const override {
    return w_.up.weight.quantized() || (IsGated(w_) && w_.gate.weight.quantized());
  }
  void Start(const Exec& exec, const Activations& x, int64_t rows, int lane, float* y) override;
  absl::Status Finish(const Exec&, int) override { return absl::OkStatus(); }

 private:
  // A task's columns are whole blocks of 32, so that it can quantise what it made; few enough that
  // gate and up stay in the second-level cache until then.
  static constexpr int64_t kUnitGroups = 2, kManyRows = 8, kUnitsPerTaskMany = 4;

  const int64_t hidden_, size_;
  const kernels::Activation activation_;
  const FfnWeights& w_;
  FfnWorkspace& space_;
};

void DenseFfn::Start(const Exec& exec, const Activations& x, int64_t rows, int, float* y) {
  const kernels::KernelTable& k = exec.kernels();
  const bool quantize = w_.down.weight.quantized();
  if (quantize) {
    space_.hidden_quantized.Reserve(rows, size_);
  } else {
    space_.hidden.Reserve(rows * size_);
  }
  space_.threads.resize(exec.num_threads());

  // Stage 1: h = f(gate x) * up x, quantised where it is made.
  const TaskGrid grid(rows, w_.up.weight.num_groups(), kUnitGroups, exec.num_threads(),
                      rows < kManyRows ? INT64_MAX : kUnitsPerTaskMany);
  const int64_t scratch =
      std::min(rows, TaskGrid::kRowBlock) * grid.most_groups() * kernels::kLanes;
  for (ThreadScratch& t : space_.threads) {
    t.a.Reserve(scratch);
    t.b.Reserve(scratch);
  }
  exec.For(grid.num_tasks(), [&](int64_t task, int thread) {
    const int64_t first = grid.group_begin(task) * kernels::kLanes;
    const int64_t width = std::min(grid.group_end(task) * kernels::kLanes, size_) - first;
    const int64_t row0 = grid.row_begin(task), num = grid.num_rows(task);
    const Activations in = x.Rows(row0, num);
    const float* h = FfnHidden(exec, w_, activation_, in, num, grid.group_begin(task),
                               grid.group_end(task), &space_.threads[thread]);
    for (int64_t r = 0; r < num; ++r) {
      if (quantize) {
        space_.hidden_quantized.Quantize(k, h + r * width, row0 + r, size_, first, width);
      } else {
        std::copy_n(h + r * width, width, space_.hidden.data() + (row0 + r) * size_ + first);
      }
    }
  });

  // Stage 2: y = down h.
  Activations h;
  h.cols = size_;
  h.f32 = space_.hidden.data();
  if (quantize) h.q = space_.hidden_quantized.View(rows, size_);
  const TaskGrid out(rows, w_.down.weight.num_groups(), 1, exec.num_threads());
  exec.For(out.num_tasks(), [&](int64_t task, int) {
    const int64_t row0 = out.row_begin(task), num = out.num_rows(task);
    exec.Matmul(w_.down, h.Rows(row0, num), num, out.group_begin(task), out.group_end(task),
                y + row0 * hidden_, hidden_);
  });
}

}  // namespace

float* FfnHidden(const Exec& exec, const FfnWeights& w, kernels::Activation activation,
                 const Activations& x, int64_t rows, int64_t group_begin, int64_t group_end,
                 ThreadScratch* scratch) {
  const int64_t first = group_begin * kernels::kLanes;
  const int64_t width = std::min(group_end * kernels::kLanes, w.up.weight.rows()) - first;
  scratch->a.Reserve(rows * width);
  float* const up = scratch->a.data();
  exec.Matmul(w.up, x, rows, group_begin, group_end, up - first, width);
  if (IsGated(w)) {
    scratch->b.Reserve(rows * width);
    float* const gate = scratch->b.data();
    exec.Matmul(w.gate, x, rows, group_begin, group_end, gate - first, width);
    exec.kernels().gated(activation, gate, up, rows * width, up);
  } else {
    exec.kernels().activate(activation, up, rows * width, up);
  }
  return up;
}

std::unique_ptr<FeedForward> MakeDenseFfn(const ModelConfig& config, const FfnWeights* weights,
                                          FfnWorkspace* workspace) {
  return std::make_unique<DenseFfn>(config, weights, workspace);
}

}  // namespace tutti::model
