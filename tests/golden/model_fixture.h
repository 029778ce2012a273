// Golden models of tests/data/models: weights with what transformers computed from them.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "shared/base/thread_pool.h"
#include "shared/model/single_sequence.h"
#include "shared/model/transformer.h"

namespace tutti::golden {

struct GoldenPrompt {
  std::vector<int32_t> ids, greedy;
  bool has_loss = false;
  double loss = 0;
  bool has_aux_loss = false;
  double aux_loss = 0;
};

struct GoldenModel {
  std::string name, golden_dir, model_dir;
  std::vector<GoldenPrompt> prompts;
};

// All sets, by name.
std::vector<std::string> GoldenNames();
// Sets whose weights are another set's, rounded to bf16, get a folder with those written first.
GoldenModel LoadGolden(const std::string& name);

std::unique_ptr<model::Transformer> LoadOrDie(const std::string& path, DType kv_dtype,
                                              ThreadPool* pool = nullptr);

// [ids, vocabulary] logits with the prompt cut into chunks.
std::vector<float> ChunkedLogits(model::DecoderModel& model, const std::vector<int32_t>& ids,
                                 int32_t chunk);
std::vector<int32_t> Greedy(model::DecoderModel& model, const std::vector<int32_t>& prompt,
                            int num_tokens);

// Equal in every bit?
bool SameBits(const std::vector<float>& a, const std::vector<float>& b);
double MaxAbsDiff(std::span<const float> a, std::span<const float> b);

}  // namespace tutti::golden
