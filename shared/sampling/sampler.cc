#include "shared/sampling/sampler.h"

#include <algorithm>

#include "kernels/kernels.h"
#include "shared/base/philox.h"
#include "shared/sampling/processors.h"

namespace tutti::sampling {

namespace {

// The scores to choose from: the logits themselves when nothing changes them.
std::span<const float> Process(const SamplingParams& params, const TokenHistory& history,
                               std::span<const int32_t> eos_ids, std::span<const float> logits,
                               Scratch* scratch) {
  if (!NeedsProcessing(params, history)) return logits;
  scratch->scores.assign(logits.begin(), logits.end());
  ProcessScores(params, history, eos_ids, scratch->scores);
  return scratch->scores;
}

int32_t ArgMax(std::span<const float> x) {
  return static_cast<int32_t>(kernels::Kernels().argmax(x.data(), static_cast<int64_t>(x.size())));
}

}  // namespace

void GumbelFor(uint64_t seed, uint32_t position, uint32_t stream, uint32_t sample_index,
               std::span<const int32_t> ids, std::vector<float>* noise) {
  const kernels::KernelTable& k = kernels::Kernels();
  const int64_t n = static_cast<int64_t>(ids.size());
  noise->resize(ids.size());
  uint32_t block_index = ~0u;
  PhiloxBlock block{};
  for (size_t i = 0; i < ids.size(); ++i) {
    const uint32_t id = static_cast<uint32_t>(ids[i]);
    if (id / 4 != block_index) {
      block_index = id / 4;
      block = Philox4x32(seed, {block_index, position, stream, sample_index});
    }
    (*noise)[i] = UnitUniform(block[id % 4]);
  }
  for (int round = 0; round < 2; ++round) {
    k.log(noise->data(), n, noise->data());
    for (float& value : *noise) value = -value;
  }
}

int32_t SampleToken(const SamplingParams& params, const TokenHistory& history,
                    std::span<const int32_t> eos_ids, std::span<const float> logits,
                    Scratch* scratch) {
  const std::span<const float> scores = Process(params, history, eos_ids, logits, scratch);
  Survivors left;
  if (params.temperature == 0.0f || !FilterScores(params, scores, scratch, &left))
    return ArgMax(scores);
  if (left.x.size() == 1) return left.ids.empty() ? 0 : left.ids[0];

  const kernels::KernelTable& k = kernels::Kernels();
  const uint32_t position = static_cast<uint32_t>(history.tokens().size());
  const int64_t vocab = static_cast<int64_t>(scores.size());
  std::vector<float>& noise = scratch->noise;
  if (left.ids.empty()) {
    noise.resize(scores.size());
    k.gumbel(params.seed, position, kTokenStream, params.sample_index, vocab, noise.data());
    k.add(left.x.data(), noise.data(), vocab, noise.data());
    return ArgMax(noise);
  }
  if (left.ids.size() > scores.size() / 8) {  // drawing all of them is cheaper, lane by lane
    scratch->small.resize(scores.size());
    k.gumbel(params.seed, position, kTokenStream, params.sample_index, vocab,
             scratch->small.data());
    noise.resize(left.ids.size());
    for (size_t i = 0; i < left.ids.size(); ++i)
      noise[i] = scratch->small[static_cast<size_t>(left.ids[i])];
  } else {
    GumbelFor(params.seed, position, kTokenStream, params.sample_index, left.ids, &noise);
  }
  k.add(left.x.data(), noise.data(), static_cast<int64_t>(noise.size()), noise.data());
  return left
      .ids[static_cast<size_t>(ArgMax(noise))];  // ids ascend, so the first maximum is the lower id
}

std::vector<double> Probabilities(const SamplingParams& params, const TokenHistory& history,
                                  std::span<const int32_t> eos_ids, std::span<const float> logits) {
  Scratch scratch;
  const std::span<const float> scores = Process(params, history, eos_ids, logits, &scratch);
  std::vector<double> p(logits.size(), 0.0);
  Survivors left;
  if (params.temperature == 0.0f || !FilterScores(params, scores, &scratch, &left)) {
    p[static_cast<size_t>(ArgMax(scores))] = 1.0;
    return p;
  }
  double sum = 0;
  for (float x : left.x)
    sum += kernels::DetExp(static_cast<double>(x) - static_cast<double>(left.max));
  for (size_t i = 0; i < left.x.size(); ++i) {
    p[left.ids.empty() ? i : static_cast<size_t>(left.ids[i])] =
        kernels::DetExp(static_cast<double>(left.x[i]) - static_cast<double>(left.max)) / sum;
  }
  return p;
}

TokenLogprobs ComputeLogprobs(std::span<const float> logits, int32_t token, int num_top) {
  const float norm =
      kernels::Kernels().log_sum_exp(logits.data(), static_cast<int64_t>(logits.size()));
  TokenLogprobs out;
  out.logprob = logits[static_cast<size_t>(token)] - norm;
  for (int32_t id : TopIndices(logits, static_cast<size_t>(std::max(num_top, 0)))) {
    out.top.emplace_back(id, logits[static_cast<size_t>(id)] - norm);
  }
  return out;
}

}  // namespace tutti::sampling
