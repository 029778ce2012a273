// A model whose forward passes take at least so long: what serving a larger one feels like, on a
// machine that has only a small one. For tests and measurements of what goes on around a target.
#pragma once

#include <algorithm>
#include <chrono>
#include <memory>
#include <thread>
#include <utility>

#include "shared/base/progress.h"
#include "shared/model/decoder_model.h"

namespace tutti::target {

// Determinism: exact: what the model says.
class PacedModel : public model::DecoderModel {
 public:
  PacedModel(std::unique_ptr<model::DecoderModel> model, int least_us)
      : model_(std::move(model)), least_(least_us) {}

  const model::ModelInfo& info() const override { return model_->info(); }
  absl::Status Forward(std::span<const model::SequenceSlice> slices, kv_cache::PagePool& pool,
                       model::StepOutput* out) override {
    const auto end = std::chrono::steady_clock::now() + least_;
    absl::Status status = model_->Forward(slices, pool, out);
    for (auto now = std::chrono::steady_clock::now(); now < end;
         now = std::chrono::steady_clock::now()) {
      std::this_thread::sleep_until(std::min(end, now + std::chrono::milliseconds(20)));
      NoteProgress();
    }
    return status;
  }

 private:
  const std::unique_ptr<model::DecoderModel> model_;
  const std::chrono::microseconds least_;
};

}  // namespace tutti::target
