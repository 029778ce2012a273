// Asking a router and collecting what it says.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "tutti/generation/v1/generation.grpc.pb.h"

namespace tutti::cluster {

struct Choice {
  std::vector<int32_t> ids;
  std::vector<uint32_t> logprob_bits;
  std::vector<uint64_t> digests;
  std::string text;
  std::optional<generation::v1::Finished> finished;
};

struct Answer {
  grpc::Status status;
  std::string request_id, resume_token;
  uint64_t seed = 0;
  std::vector<int32_t> prompt_ids;
  std::string prompt_text;
  std::map<uint32_t, Choice> choices;
  bool in_order = true;  // every delta began where the last one of its choice ended
};

// Called for every message; false ends the stream from the client's side.
using OnResponse = std::function<bool(const generation::v1::GenerateResponse&)>;

Answer Generate(generation::v1::GenerationService::Stub* stub,
                const generation::v1::GenerateRequest& request,
                const OnResponse& on_response = nullptr, int64_t deadline_ms = 300'000);
// `from`: the output index that the first token must have.
Answer Resume(generation::v1::GenerationService::Stub* stub, const std::string& request_id,
              const std::string& resume_token, uint32_t index, std::optional<uint32_t> after_index,
              int64_t deadline_ms = 300'000);

}  // namespace tutti::cluster
