// Buffers of the forward pass, grown to the largest step and then reused, and the loops over them.
#pragma once

#include <algorithm>
#include <climits>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <vector>

#include "kernels/kernels.h"
#include "shared/base/thread_pool.h"
#include "shared/model/model_weights.h"

namespace tutti::model {

// An array on a cache line's boundary that only grows. Contents are lost when it does.
template <typename T>
class Buffer {
 public:
  void Reserve(int64_t n) {
    if (n <= size_) return;
    const size_t bytes = (static_cast<size_t>(n) * sizeof(T) + 63) / 64 * 64;
    data_.reset(static_cast<T*>(std::aligned_alloc(64, bytes)));
    size_ = n;
  }
  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }

 private:
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };
  std::unique_ptr<T, Free> data_;
  int64_t size_ = 0;
};

// Rows as matmuls read them: f32, and quantised (Q1) when some consumer has quantised weights. One
// quantisation serves all consumers.
struct Activations {
  const float* f32 = nullptr;  // [rows, cols]; null where only q is wanted
  kernels::QuantizedRows q;    // num_rows 0: not quantised
  int64_t cols = 0;

  Activations Rows(int64_t begin, int64_t count) const {
    Activations a = *this;
    if (f32 != nullptr) a.f32 = f32 + begin * cols;
    if (q.num_rows > 0) {
      a.q = {count, cols, q.q + begin * cols, q.scales + begin * (cols / 32)};
    }
    return a;
  }
};

// Room for quantised rows [rows, cols].
class QuantizedBuffer {
 public:
  void Reserve(int64_t rows, int64_t cols) {
    q_.Reserve(rows * cols);
    scales_.Reserve(rows * (cols / 32));
  }
  // Quantises columns [begin, begin + n) of row `row`, both multiples of 32.
  void Quantize(const kernels::KernelTable& k, const float* x, int64_t row, int64_t cols,
                int64_t begin, int64_t n) {
    const int64_t block = (row * cols + begin) / 32;
    k.quantize_rows(x, 1, n, q_.data() + row * cols + begin, scales_.data() + block);
  }
  // Normalises x [cols] into y and quantises that as row `row`.
  void RmsNorm(const kernels::KernelTable& k, const float* x, const float* gain, float gain_offset,
               float eps, int64_t row, int64_t cols, float* y) {
    const int64_t block = row * cols / 32;
    k.rms_norm_quantize(x, gain, gain_offset, eps, cols, y, q_.data() + row * cols,
                        scales_.data() + block);
  }
  kernels::QuantizedRows View(int64_t rows, int64_t cols) const {
    return {rows, cols, q_.data(), scales_.data()};
  }

 private:
  Buffer<int8_t> q_;
  Buffer<kernels::BlockScale> scales_;
};

// How the loops of a step run: which kernels, which threads, how many rows per task.
class Exec {
 public:
  // `max_threads`: of the pool, no more are used.
  Exec(const kernels::KernelTable* kernels, ThreadPool* pool, int max_threads = INT_MAX)
      : kernels_(kernels), pool_(pool), max_threads_(max_threads) {}
  Exec WithThreads(int max_threads) const { return {kernels_, pool_, max_threads}; }

  const kernels::KernelTable& kernels() const { return *kernels_; }
  int num_threads() const {
    return pool_ == nullptr ? 1 : std::min(max_threads_, pool_->num_threads());
  }

  // body(task, thread) for every task; no allocation.
  template <typename Body>
  void For(int64_t num_tasks, const Body& body) const {
    if (pool_ == nullptr || num_tasks == 1) {
      for (int64_t i = 0; i < num_tasks; ++i) body(i, 0);
    } else {
      pool_->ParallelFor(num_tasks, std::cref(body), max_threads_);
    }
  }

  // body(row) for every row; in parallel when that is worth waking threads (`cost`: floats per
  // row).
  template <typename Body>
  void ForRows(int64_t rows, int64_t cost, const Body& body) const {
    constexpr int64_t kInlineFloats = 32768, kRowsPerTask = 16;
    if (num_threads() == 1 || rows * cost <= kInlineFloats) {
      for (int64_t r = 0; r < rows; ++r) body(r);
      return;
    }
    const int64_t per_task = std::clamp<int64_t>(rows / (4 * num_threads()), 1, kRowsPerTask);
    For((rows + per_task - 1) / per_task, [&](int64_t task, int) {
      for (int64_t r = task * per_task; r < std::min(rows, (task + 1) * per_task); ++r) body(r);
    });
  }

  // Before waiting for other processes: see ThreadPool::GiveWay.
  void GiveWay() const {
    if (pool_ != nullptr) pool_->GiveWay();
  }

  // y[r, n] of rows [0, rows) of `x` for n in [16 group_begin, 16 group_end) clipped to w's rows,
  // bias added. `y` points at column 0.
  void Matmul(const Linear& w, const Activations& x, int64_t rows, int64_t group_begin,
              int64_t group_end, float* y, int64_t y_stride) const;

 private:
  const kernels::KernelTable* kernels_;
  ThreadPool* pool_;
  int max_threads_;
};

// A grid of tasks over rows and output groups: every task is at most kRowBlock rows by some units
// of `unit` groups. Tasks are as many for every thread and differ by a unit at most, so that
// threads have the same to do. Only speed depends on it.
struct TaskGrid {
  static constexpr int64_t kRowBlock = 128;

  TaskGrid(int64_t rows, int64_t groups, int64_t unit, int num_threads,
           int64_t units_per_task_max = INT64_MAX)
      : rows(rows), groups(groups), unit(unit), units((groups + unit - 1) / unit) {
    row_blocks = (rows + kRowBlock - 1) / kRowBlock;
    const int64_t wanted = num_threads == 1 ? 1 : kTasksPerThread * int64_t{num_threads};
    const int64_t units_per_task =
        std::clamp<int64_t>(units * row_blocks / wanted, 1, units_per_task_max);
    column_tasks = (units + units_per_task - 1) / units_per_task;
    column_tasks = std::min(units, (column_tasks + num_threads - 1) / num_threads * num_threads);
  }
  int64_t num_tasks() const { return row_blocks * column_tasks; }
  int64_t most_groups() const { return unit * ((units + column_tasks - 1) / column_tasks); }
  // Neighbouring tasks share their weights.
  int64_t group_begin(int64_t task) const { return Begin(task / row_blocks); }
  int64_t group_end(int64_t task) const { return std::min(groups, Begin(task / row_blocks + 1)); }
  int64_t row_begin(int64_t task) const { return task % row_blocks * kRowBlock; }
  int64_t num_rows(int64_t task) const { return std::min(kRowBlock, rows - row_begin(task)); }

  int64_t rows, groups, unit, units, row_blocks = 0, column_tasks = 0;

 private:
  static constexpr int64_t kTasksPerThread = 8;
  int64_t Begin(int64_t column) const { return unit * (units * column / column_tasks); }
};

// Scratch of one thread.
struct ThreadScratch {
  Buffer<float> a, b;
};

}  // namespace tutti::model
