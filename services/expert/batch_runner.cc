#include "services/expert/batch_runner.h"

#include <numeric>

#include "shared/base/clock.h"
#include "shared/rpc/status.h"

namespace tutti::expert {

BatchRunner::BatchRunner(ExpertStore* store, ThreadPool* pool)
    : store_(store), exec_(&kernels::Kernels(), pool), runner_(store->experts().activation) {
  const model::ExpertDescription& e = store->experts();
  shape_ = {.fingerprint = e.fingerprint,
            .hidden = e.hidden,
            .num_layers = e.num_layers,
            .experts_per_layer = e.experts_per_layer,
            .reads_f32 = e.reads_f32};
  quantizes_ = e.reads_quantized;
}

absl::Status BatchRunner::Add(size_t index, const expert::v1::DispatchRequest& request,
                              int64_t queue_us, expert::v1::CombineReply* reply) {
  TUTTI_RETURN_IF_ERROR(wire::CheckDispatch(request, shape_));
  const auto layer = static_cast<int>(request.moe_layer());
  // All weights first: a dispatch runs whole or not at all.
  std::map<int, std::shared_ptr<const model::FfnWeights>> weights;
  for (const uint32_t id : request.expert_ids()) {
    const auto e = static_cast<int>(id);
    if (weights.contains(e)) continue;
    TUTTI_ASSIGN_OR_RETURN(weights[e], store_->Get(layer, e));
  }
  for (const auto& [e, w] : weights) work_[{layer, e}].queue_us += queue_us;
  std::string& out = *reply->mutable_rows();
  out.resize(static_cast<size_t>(request.expert_ids_size()) * static_cast<size_t>(shape_.hidden) *
             sizeof(float));
  auto* const base = reinterpret_cast<float*>(out.data());
  for (int r = 0; r + 1 < request.row_offsets_size(); ++r) {
    for (uint32_t p = request.row_offsets(r); p < request.row_offsets(r + 1); ++p) {
      const auto e = static_cast<int>(request.expert_ids(static_cast<int>(p)));
      Work& work = work_[{layer, e}];
      work.weights = weights[e];
      work.rows.emplace_back(index, r);
      work.out.push_back(base + static_cast<int64_t>(p) * shape_.hidden);
    }
  }
  return absl::OkStatus();
}

void BatchRunner::Gather(const expert::v1::DispatchRequest& request, int64_t row, int64_t to) {
  const int64_t hidden = shape_.hidden, blocks = hidden / 32;
  if (!shape_.travels_quantized()) {
    float* const x = f32_.data() + to * hidden;
    wire::CopyFloatRow(request, hidden, row, x);
    if (quantizes_) {
      exec_.kernels().quantize_rows(x, 1, hidden, q_.data() + to * hidden, d_.data() + to * blocks,
                                    s_.data() + to * blocks);
    }
    return;
  }
  int8_t* const q = q_.data() + to * hidden;
  wire::CopyQuantizedRow(request, hidden, row, q, d_.data() + to * blocks);
  for (int64_t b = 0; b < blocks; ++b)
    s_.data()[to * blocks + b] = std::accumulate(q + b * 32, q + (b + 1) * 32, int32_t{0});
}

void BatchRunner::Run(std::span<const expert::v1::DispatchRequest* const> requests,
                      std::span<expert::v1::CombineReply* const> replies,
                      std::span<const int64_t> queue_us) {
  const int64_t start = SteadyNowUs();
  kernels::SetFloatingPointMode();
  work_.clear();
  for (size_t i = 0; i < requests.size(); ++i) {
    replies[i]->set_dispatch_id(requests[i]->dispatch_id());
    if (absl::Status s = Add(i, *requests[i], queue_us[i], replies[i]); !s.ok())
      rpc::StatusToProto(s, replies[i]->mutable_status());
  }
  int64_t pairs = 0;
  for (const auto& [key, work] : work_) pairs += static_cast<int64_t>(work.rows.size());
  const int64_t hidden = shape_.hidden, blocks = hidden / 32;
  if (!shape_.travels_quantized()) f32_.Reserve(pairs * hidden);
  if (quantizes_) {
    q_.Reserve(pairs * hidden);
    d_.Reserve(pairs * blocks);
    s_.Reserve(pairs * blocks);
  }
  jobs_.clear();
  model::Activations all{.f32 = f32_.data(), .cols = hidden};
  if (quantizes_) all.q = {pairs, hidden, q_.data(), d_.data(), s_.data()};
  int64_t at = 0;
  for (auto& [key, work] : work_) {
    const int64_t begin = at;
    for (const auto& [index, row] : work.rows) Gather(*requests[index], row, at++);
    jobs_.push_back({.weights = work.weights.get(),
                     .x = all.Rows(begin, at - begin),
                     .num_rows = at - begin,
                     .out = work.out.data()});
  }
  runner_.Run(exec_, jobs_);
  for (expert::v1::CombineReply* reply : replies) {
    if (!reply->has_status()) wire::SignReply(reply);
  }
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
