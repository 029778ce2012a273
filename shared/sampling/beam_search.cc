#include "shared/sampling/beam_search.h"

#include <algorithm>

#include "kernels/kernels.h"
#include "shared/base/check.h"
#include "shared/sampling/filters.h"
#include "shared/sampling/processors.h"

namespace tutti::sampling {

namespace {

struct Candidate {
  float sum = 0;
  int32_t beam = 0, token = 0;
};

}  // namespace

BeamSearch::BeamSearch(const SamplingParams& params, std::span<const int32_t> eos_ids,
                       int32_t max_tokens, std::span<const int32_t> prompt)
    : params_(params),
      eos_ids_(eos_ids.begin(), eos_ids.end()),
      end_ids_(params.stop_ids),
      max_tokens_(static_cast<size_t>(max_tokens)) {
  TUTTI_CHECK(max_tokens >= 1);
  if (!params.ignore_eos) end_ids_.insert(end_ids_.end(), eos_ids.begin(), eos_ids.end());
  std::sort(end_ids_.begin(), end_ids_.end());
  end_ids_.erase(std::unique(end_ids_.begin(), end_ids_.end()), end_ids_.end());
  running_.push_back({.history = TokenHistory(params, prompt)});
}

float BeamSearch::Score(float sum, size_t length) const {
  if (params_.length_penalty == 0.0f) return sum;
  const double power =
      kernels::DetPow(static_cast<double>(length), static_cast<double>(params_.length_penalty));
  return static_cast<float>(static_cast<double>(sum) / power);
}

void BeamSearch::Finish(std::vector<int32_t> output, float sum, bool met_end) {
  Finished finished{.met_end = met_end};
  finished.hypothesis.score = Score(sum, output.size());
  finished.hypothesis.token_ids = std::move(output);
  const auto better = [](const Finished& a, const Finished& b) {
    return a.hypothesis.score > b.hypothesis.score;
  };
  // Of equal ones the earlier is first.
  const auto at = std::upper_bound(finished_.begin(), finished_.end(), finished, better);
  finished_.insert(at, std::move(finished));
  if (finished_.size() > static_cast<size_t>(params_.num_beams)) finished_.pop_back();
}

std::vector<int32_t> BeamSearch::Step(std::span<const float> logits) {
  TUTTI_CHECK(!done_ && !running_.empty() && logits.size() % running_.size() == 0);
  const kernels::KernelTable& k = kernels::Kernels();
  const size_t num_beams = static_cast<size_t>(params_.num_beams);
  const size_t vocab = logits.size() / running_.size();
  const size_t keep = std::max<size_t>(2, 1 + end_ids_.size()) * num_beams;

  // The best continuations of each beam, then of all.
  std::vector<Candidate> candidates;
  std::vector<float> scores(vocab);
  for (size_t b = 0; b < running_.size(); ++b) {
    const Running& beam = running_[b];
    const float* row = logits.data() + b * vocab;
    const float norm = k.log_sum_exp(row, static_cast<int64_t>(vocab));
    for (size_t v = 0; v < vocab; ++v) scores[v] = row[v] - norm;
    ProcessScores(params_, beam.history, eos_ids_, scores);
    for (float& score : scores) score += beam.sum;
    for (int32_t token : TopIndices(scores, keep)) {
      candidates.push_back({.sum = scores[static_cast<size_t>(token)],
                            .beam = static_cast<int32_t>(b),
                            .token = token});
    }
  }
  std::stable_sort(candidates.begin(), candidates.end(),
                   [](const Candidate& a, const Candidate& b) { return a.sum > b.sum; });
  if (candidates.size() > keep) candidates.resize(keep);

  // Those that end go to the finished ones, the best of the others run on.
  const bool last = length_ + 1 >= max_tokens_;
  std::vector<Running> next;
  std::vector<int32_t> parents;
  for (size_t i = 0; i < candidates.size(); ++i) {
    const Candidate& c = candidates[i];
    const Running& parent = running_[static_cast<size_t>(c.beam)];
    const bool met_end = std::binary_search(end_ids_.begin(), end_ids_.end(), c.token);
    if (met_end || last) {
      if (i >= num_beams) continue;
      std::vector<int32_t> output(parent.history.output().begin(), parent.history.output().end());
      output.push_back(c.token);
      Finish(std::move(output), c.sum, met_end);
    } else if (next.size() < num_beams) {
      next.push_back({.history = parent.history, .sum = c.sum});
      next.back().history.Append(c.token);
      parents.push_back(c.beam);
    }
  }
  if (next.empty() && finished_.empty() && length_ > 0) {
    for (const Running& beam : running_) {
      Finish({beam.history.output().begin(), beam.history.output().end()}, beam.sum, false);
    }
  }
  running_ = std::move(next);
  ++length_;

  const bool full = finished_.size() == num_beams;
  done_ = running_.empty() || (full && params_.early_stopping) ||
          (full && Score(running_[0].sum, length_) <= finished_.back().hypothesis.score);
  if (done_) parents.clear();
  return parents;
}

bool BeamSearch::best_met_end() const { return !finished_.empty() && finished_.front().met_end; }

std::vector<Hypothesis> BeamSearch::Best() const {
  std::vector<Hypothesis> best;
  for (const Finished& finished : finished_) {
    if (best.size() == static_cast<size_t>(params_.num_return)) break;
    best.push_back(finished.hypothesis);
  }
  return best;
}

}  // namespace tutti::sampling
