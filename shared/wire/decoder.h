// tutti.decoder.v1 <-> structs.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "shared/base/status.h"
#include "shared/engine/engine.h"
#include "shared/model/decoder_model.h"
#include "tutti/decoder/v1/decoder.pb.h"

namespace tutti::wire {

inline constexpr size_t kMaxRequestIdBytes = 128;
inline constexpr int kMaxSequenceTokens =
    1 << 21;  // of a request; the model's context cuts far below

// What a router opens a stream with.
struct DecodeOpen {
  std::string request_id;
  engine::SequenceRequest sequence;  // its id and deadline_us do not travel
  uint32_t lookahead = 0;            // draft only
  uint64_t fingerprint = 0;          // 0: any model
  std::string traceparent;
};

// Errors: INVALID_ARGUMENT "open.<field>: ...": no prompt, an id outside the vocabulary, no seed, a
// request id that is not printable ASCII, parameters. FAILED_PRECONDITION, reason
// FINGERPRINT_MISMATCH.
absl::StatusOr<DecodeOpen> DecodeOpenFromProto(const decoder::v1::Open& proto,
                                               const model::ModelInfo& model);
void DecodeOpenToProto(const DecodeOpen& open, decoder::v1::Open* proto);

// Tokens of a step. Appends to what `proto` already holds when `output` continues it (so that a
// slow reader gets fewer, larger messages).
void TokensToProto(const engine::SequenceOutput& output, bool logprobs, bool prompt_logprobs,
                   decoder::v1::Tokens* proto);

struct DecodedTokens {
  uint64_t epoch = 0;
  uint32_t confirmed = 0;
  uint32_t position = 0;  // output index of tokens[0]
  std::vector<engine::TokenOutput> tokens, prompt_tokens;
  engine::Usage usage;  // so far: cached_tokens, and those of speculation
};
absl::StatusOr<DecodedTokens> TokensFromProto(const decoder::v1::Tokens& proto, int vocab_size);

struct DecodeFinished {
  engine::FinishReason reason = engine::FinishReason::kNone;
  engine::Usage usage;
  std::vector<engine::Beam> beams;
};
void FinishedToProto(const engine::SequenceOutput& output, decoder::v1::Finished* proto);
absl::StatusOr<DecodeFinished> FinishedFromProto(const decoder::v1::Finished& proto,
                                                 int vocab_size);

// What a decoder serves, as routers know it.
struct DecoderInfo {
  std::string name, architecture, isa;
  uint64_t fingerprint = 0, tokenizer_fingerprint = 0;
  int vocab_size = 0, context_tokens = 0, num_pages = 0, page_tokens = 0, threads = 0;
  std::vector<int32_t> eos_ids;
};
void DecoderInfoToProto(const DecoderInfo& info, decoder::v1::GetModelResponse* proto);
absl::StatusOr<DecoderInfo> DecoderInfoFromProto(const decoder::v1::GetModelResponse& proto);

}  // namespace tutti::wire
