// The requests of the exactness tests, their recorded continuations, and models that are broken on
// purpose.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "shared/engine/test_harness.h"

namespace tutti::golden {

// A model of the matrix. "smollm2" is the real one; its path is "" when it is not on this machine.
// "mixtral_second", "mixtral_capacity" and "mixtral_both" are mixtral_8x2 with GShard's options
// (moe/drops.h).
struct ExactModel {
  std::string name, path;
  bool real = false;
};
ExactModel FindModel(const std::string& name);

// 16 requests with every kind of parameters: prompts of 1 to 90 tokens (fewer for a real model),
// some with a common beginning. The same on every machine.
std::vector<engine::SequenceRequest> ExactRequests(const model::ModelInfo& info, bool real);

// What each request gave when it was recorded: one line of ids and the digest.
struct Recorded {
  std::vector<int32_t> tokens;
  std::string logprob_bits;  // 8 hex digits each
  std::string digest;
};
Recorded RecordOf(const engine::Outcome& outcome);
// tests/data/exactness/<model>.json; empty when there is none.
std::vector<Recorded> LoadRecorded(const std::string& model);
void SaveRecorded(const std::string& model, const std::vector<engine::SequenceRequest>& requests,
                  const std::vector<Recorded>& recorded);

// A copy of the model's weights under `dir` with one bit of one weight flipped, or with the
// embedding scaled down until the numbers of the forward pass are denormal. Returns the path to
// load.
std::string WriteFlippedBit(const ExactModel& model, const std::string& dir);
std::string WriteDenormal(const ExactModel& model, const std::string& dir);

}  // namespace tutti::golden
