#include "services/expert/batch_runner.h"

#include <algorithm>
#include <cmath>

#include "shared/base/clock.h"

namespace tutti::expert {

BatchRunner::BatchRunner(ExpertStore* store, ThreadPool* pool, RowFault fault)
    : store_(store),
      exec_(&kernels::Kernels(), pool),
      runner_(store->experts().activation),
      fault_(std::move(fault)) {
  const model::ExpertDescription& e = store->experts();
  shape_ = {.fingerprint = e.fingerprint,
            .hidden = e.hidden,
            .num_layers = e.num_layers,
            .experts_per_layer = e.experts_per_layer,
            .reads_f32 = e.reads_f32};
  quantizes_ = e.reads_quantized;
}

absl::Status BatchRunner::Add(const Job& job) {
  const auto layer = static_cast<int>(job.dispatch.moe_layer);
  // All weights first: a dispatch runs whole or not at all.
  std::map<int, std::shared_ptr<const model::FfnWeights>> weights;
  for (const uint32_t id : job.dispatch.expert_ids) {
    const auto e = static_cast<int>(id);
    if (weights.contains(e)) continue;
    TUTTI_ASSIGN_OR_RETURN(weights[e], store_->Get(layer, e));
  }
  for (const auto& [e, w] : weights) work_[{layer, e}].queue_us += job.queue_us;
  for (int64_t r = 0; r < job.dispatch.num_rows(); ++r) {
    const auto at = static_cast<size_t>(r);
    for (uint32_t p = job.dispatch.row_offsets[at]; p < job.dispatch.row_offsets[at + 1]; ++p) {
      const auto e = static_cast<int>(job.dispatch.expert_ids[p]);
      Work& work = work_[{layer, e}];
      work.weights = weights[e];
      work.rows.emplace_back(&job, r);
      work.out.push_back(job.out + static_cast<int64_t>(p) * shape_.hidden);
    }
  }
  return absl::OkStatus();
}

void BatchRunner::Gather(const wire::DispatchView& dispatch, int64_t row, int64_t to) {
  const int64_t hidden = shape_.hidden, blocks = hidden / 32;
  if (!shape_.travels_quantized()) {
    float* const x = f32_.data() + to * hidden;
    wire::CopyFloatRow(dispatch, hidden, row, x);
    if (quantizes_) {
      exec_.kernels().quantize_rows(x, 1, hidden, q_.data() + to * hidden,
                                    scales_.data() + to * blocks);
    }
    return;
  }
  wire::CopyQuantizedRow(dispatch, hidden, row, q_.data() + to * hidden,
                         scales_.data() + to * blocks);
}

// Threads that stand on one core are slower than one: when other shards of this host compute at
// the same time, each takes as much of the cores as of the work.
int BatchRunner::ThreadsFor(std::span<const Job> jobs) const {
  constexpr float kTolerance = 0.05F;  // of work, not worth another thread
  float share = 0;
  for (const Job& job : jobs) share += job.share;
  const float threads = std::min(share, 1.0F) * static_cast<float>(exec_.num_threads());
  return std::max(1, static_cast<int>(std::ceil(threads - kTolerance)));
}

void BatchRunner::Run(std::span<Job> jobs) {
  const std::lock_guard lock(mutex_);
  const int64_t start = SteadyNowUs();
  kernels::SetFloatingPointMode();
  work_.clear();
  for (Job& job : jobs) job.status = Add(job);
  int64_t pairs = 0;
  for (const auto& [key, work] : work_) pairs += static_cast<int64_t>(work.rows.size());
  const int64_t hidden = shape_.hidden, blocks = hidden / 32;
  if (!shape_.travels_quantized()) f32_.Reserve(pairs * hidden);
  if (quantizes_) {
    q_.Reserve(pairs * hidden);
    scales_.Reserve(pairs * blocks);
  }
  jobs_.clear();
  model::Activations all{.f32 = f32_.data(), .cols = hidden};
  if (quantizes_) all.q = {pairs, hidden, q_.data(), scales_.data()};
  int64_t at = 0;
  for (auto& [key, work] : work_) {
    const int64_t begin = at;
    for (const auto& [job, row] : work.rows) Gather(job->dispatch, row, at++);
    jobs_.push_back({.weights = work.weights.get(),
                     .x = all.Rows(begin, at - begin),
                     .num_rows = at - begin,
                     .out = work.out.data()});
  }
  runner_.Run(exec_.WithThreads(ThreadsFor(jobs)), jobs_);
  if (fault_) {
    for (const auto& [key, work] : work_) {
      for (float* row : work.out) fault_(key.first, key.second, {row, static_cast<size_t>(hidden)});
    }
  }
  exec_.GiveWay();  // the target goes on, perhaps on these cores
  CountWork(pairs, SteadyNowUs() - start);
  work_.clear();  // lets go of the weights
}

void BatchRunner::CountWork(int64_t pairs, int64_t run_us) {
  for (const auto& [key, work] : work_) {
    const auto rows = static_cast<int64_t>(work.rows.size());
    store_->Count(key.first, key.second, rows, work.queue_us, run_us * rows / pairs);
  }
}

}  // namespace tutti::expert
