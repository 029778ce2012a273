#include "shared/model/expert_runner.h"

#include <algorithm>

#include "shared/model/ffn.h"

namespace tutti::model {
namespace {

using kernels::kLanes;

// Outputs of a task are whole blocks of 32, so that stage 1 can quantise what it made.
constexpr int64_t kUnitGroups = 2;

int64_t SizeOf(const ExpertJob& job) { return job.weights->up.weight.rows(); }
int64_t HiddenOf(const ExpertJob& job) { return job.weights->down.weight.rows(); }

}  // namespace

void ExpertRunner::Plan(const Exec& exec, std::span<const ExpertJob> jobs, bool down) {
  tasks_.clear();
  // Few experts are cut finely, many coarsely: about four tasks a thread.
  const auto wanted = static_cast<int64_t>(exec.num_threads() == 1 ? 1 : 4 * exec.num_threads());
  const int64_t per_job = std::max<int64_t>(1, wanted / static_cast<int64_t>(jobs.size()));
  for (size_t j = 0; j < jobs.size(); ++j) {
    const ExpertJob& job = jobs[j];
    const int64_t groups = (down ? job.weights->down : job.weights->up).weight.num_groups();
    const int64_t units = (groups + kUnitGroups - 1) / kUnitGroups;
    const int64_t step = std::max<int64_t>(1, units / per_job) * kUnitGroups;
    for (int64_t g = 0; g < groups; g += step) {
      for (int64_t row = 0; row < job.num_rows; row += TaskGrid::kRowBlock) {
        tasks_.push_back({static_cast<int32_t>(j), row,
                          std::min(TaskGrid::kRowBlock, job.num_rows - row), g,
                          std::min(groups, g + step)});
      }
    }
  }
}

// h = f(gate x) * up x, quantised where it is made.
void ExpertRunner::Hidden(const Exec& exec, const ExpertJob& job, int64_t base, const Task& task,
                          ThreadScratch* scratch) {
  const int64_t size = SizeOf(job), first = task.group_begin * kLanes;
  const int64_t width = std::min(task.group_end * kLanes, size) - first, num = task.num_rows;
  const float* const h = FfnHidden(exec, *job.weights, activation_, job.x.Rows(task.row0, num), num,
                                   task.group_begin, task.group_end, scratch);
  const bool quantize = job.weights->down.weight.quantized();
  for (int64_t r = 0; r < num; ++r) {
    const int64_t at = base + (task.row0 + r) * size + first;
    if (quantize) {
      hidden_quantized_.Quantize(exec.kernels(), h + r * width, 0, 0, at, width);
    } else {
      std::copy_n(h + r * width, width, hidden_.data() + at);
    }
  }
}

void ExpertRunner::Down(const Exec& exec, const ExpertJob& job, int64_t base, const Task& task,
                        ThreadScratch* scratch) {
  const int64_t size = SizeOf(job), first = task.group_begin * kLanes;
  const int64_t width = std::min(task.group_end * kLanes, HiddenOf(job)) - first;
  Activations h{.cols = size};
  if (job.weights->down.weight.quantized()) {
    const kernels::QuantizedRows all = hidden_quantized_.View(1, size);
    h.q = {job.num_rows, size, all.q + base, all.scales + base / 32};
  } else {
    h.f32 = hidden_.data() + base;
  }
  scratch->a.Reserve(task.num_rows * width);
  float* const y = scratch->a.data();
  exec.Matmul(job.weights->down, h.Rows(task.row0, task.num_rows), task.num_rows, task.group_begin,
              task.group_end, y - first, width);
  for (int64_t r = 0; r < task.num_rows; ++r)
    std::copy_n(y + r * width, width, job.out[task.row0 + r] + first);
}

void ExpertRunner::Run(const Exec& exec, std::span<const ExpertJob> jobs) {
  if (jobs.empty()) return;
  bases_.clear();
  int64_t elements = 0;
  bool quantized = false, floats = false;
  for (const ExpertJob& job : jobs) {
    bases_.push_back(elements);
    elements += (job.num_rows * SizeOf(job) + 31) / 32 * 32;
    (job.weights->down.weight.quantized() ? quantized : floats) = true;
  }
  if (quantized) hidden_quantized_.Reserve(1, elements);
  if (floats) hidden_.Reserve(elements);
  scratch_.resize(std::max(scratch_.size(), static_cast<size_t>(exec.num_threads())));
  for (const bool down : {false, true}) {
    Plan(exec, jobs, down);
    exec.For(static_cast<int64_t>(tasks_.size()), [&](int64_t i, int thread) {
      const Task& task = tasks_[static_cast<size_t>(i)];
      const auto job = static_cast<size_t>(task.job);
      ThreadScratch* scratch = &scratch_[static_cast<size_t>(thread)];
      if (down) {
        Down(exec, jobs[job], bases_[job], task, scratch);
      } else {
        Hidden(exec, jobs[job], bases_[job], task, scratch);
      }
    });
  }
}

}  // namespace tutti::model
