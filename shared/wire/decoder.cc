#include "shared/wire/decoder.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "shared/base/hash.h"
#include "shared/base/strings.h"
#include "shared/wire/sampling.h"

namespace tutti::wire {
namespace {

constexpr size_t kMaxTraceparentBytes = 256;
constexpr int kMaxBeams = 256;

absl::Status Bad(const std::string& field, const std::string& what) {
  return absl::InvalidArgumentError("open." + field + ": " + what);
}

absl::Status CheckIds(const std::string& field, const google::protobuf::RepeatedField<int32_t>& ids,
                      int vocab_size) {
  for (int i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= vocab_size) {
      return Bad(field + "[" + std::to_string(i) + "]", "token id " + std::to_string(ids[i]) +
                                                            " is outside the vocabulary of " +
                                                            std::to_string(vocab_size));
    }
  }
  return absl::OkStatus();
}

bool IsPrintableAscii(const std::string& s) {
  return std::all_of(s.begin(), s.end(), [](char c) { return c >= 0x20 && c < 0x7F; });
}

}  // namespace

absl::StatusOr<DecodeOpen> DecodeOpenFromProto(const decoder::v1::Open& proto,
                                               const model::ModelInfo& model) {
  if (proto.fingerprint() != 0 && proto.fingerprint() != model.fingerprint) {
    return WithReason(absl::FailedPreconditionError(
                          "open.fingerprint: " + Hex64(proto.fingerprint()) +
                          " was asked for, this decoder serves " + Hex64(model.fingerprint)),
                      "FINGERPRINT_MISMATCH");
  }
  if (proto.request_id().size() > kMaxRequestIdBytes || !IsPrintableAscii(proto.request_id())) {
    return Bad("request_id", "must be at most 128 bytes of printable ASCII");
  }
  if (proto.traceparent().size() > kMaxTraceparentBytes) {
    return Bad("traceparent", "over 256 bytes");
  }
  if (proto.prompt_ids().empty()) return Bad("prompt_ids", "at least one token is needed");
  const int64_t total = int64_t{proto.prompt_ids_size()} + proto.generated_ids_size();
  if (total > kMaxSequenceTokens) {
    return Bad("prompt_ids", std::to_string(total) + " tokens with generated_ids; at most " +
                                 std::to_string(kMaxSequenceTokens));
  }
  TUTTI_RETURN_IF_ERROR(CheckIds("prompt_ids", proto.prompt_ids(), model.vocab_size));
  TUTTI_RETURN_IF_ERROR(CheckIds("generated_ids", proto.generated_ids(), model.vocab_size));
  if (proto.generated_digests_size() != 0 &&
      proto.generated_digests_size() != proto.generated_ids_size()) {
    return Bad("generated_digests", std::to_string(proto.generated_digests_size()) + " for " +
                                        std::to_string(proto.generated_ids_size()) +
                                        " generated_ids; one for each is needed, or none");
  }
  if (!proto.sampling().has_seed()) {
    return Bad("sampling.seed",
               "must be set: who opens a stream draws it, so that it can be replayed");
  }
  DecodeOpen out;
  auto params = SamplingFromProto(proto.sampling(), proto.sample_index(), model.vocab_size);
  if (!params.ok()) {
    return absl::Status(params.status().code(), "open." + std::string(params.status().message()));
  }
  out.sequence.params = *std::move(params);
  out.sequence.prompt.assign(proto.prompt_ids().begin(), proto.prompt_ids().end());
  out.sequence.generated.assign(proto.generated_ids().begin(), proto.generated_ids().end());
  out.sequence.digest = proto.digest();
  out.sequence.digests.assign(proto.generated_digests().begin(), proto.generated_digests().end());
  out.sequence.priority = proto.priority();
  out.sequence.client = proto.client();
  out.request_id = proto.request_id();
  out.lookahead = proto.lookahead();
  out.fingerprint = proto.fingerprint();
  out.traceparent = proto.traceparent();
  return out;
}

void DecodeOpenToProto(const DecodeOpen& open, decoder::v1::Open* proto) {
  const engine::SequenceRequest& s = open.sequence;
  proto->set_request_id(open.request_id);
  proto->mutable_prompt_ids()->Assign(s.prompt.begin(), s.prompt.end());
  proto->mutable_generated_ids()->Assign(s.generated.begin(), s.generated.end());
  proto->set_digest(s.digest);
  proto->mutable_generated_digests()->Assign(s.digests.begin(), s.digests.end());
  SamplingToProto(s.params, proto->mutable_sampling());
  proto->set_sample_index(s.params.sample_index);
  proto->set_lookahead(open.lookahead);
  proto->set_priority(s.priority);
  proto->set_client(s.client);
  proto->set_fingerprint(open.fingerprint);
  proto->set_traceparent(open.traceparent);
}

void TokensToProto(const engine::SequenceOutput& output, bool logprobs, bool prompt_logprobs,
                   decoder::v1::Tokens* proto) {
  if (proto->tokens().empty()) proto->set_position(static_cast<uint32_t>(output.first_index));
  proto->set_epoch(output.epoch);
  proto->set_confirmed(static_cast<uint32_t>(output.confirmed));
  const engine::Usage& usage = output.usage;
  proto->set_cached_tokens(static_cast<uint32_t>(usage.cached_tokens));
  proto->set_proposed_tokens(static_cast<uint32_t>(usage.proposed_tokens));
  proto->set_accepted_tokens(static_cast<uint32_t>(usage.accepted_tokens));
  proto->set_accepted_hint_tokens(static_cast<uint32_t>(usage.accepted_hint_tokens));
  for (const auto& token : output.tokens) TokenToProto(token, logprobs, proto->add_tokens());
  for (const auto& token : output.prompt_tokens) {
    TokenToProto(token, prompt_logprobs, proto->add_prompt_tokens());
  }
}

absl::StatusOr<DecodedTokens> TokensFromProto(const decoder::v1::Tokens& proto, int vocab_size) {
  DecodedTokens out;
  out.epoch = proto.epoch();
  out.confirmed = proto.confirmed();
  out.position = proto.position();
  for (const auto& [from, to] :
       {std::pair(proto.cached_tokens(), &out.usage.cached_tokens),
        std::pair(proto.proposed_tokens(), &out.usage.proposed_tokens),
        std::pair(proto.accepted_tokens(), &out.usage.accepted_tokens),
        std::pair(proto.accepted_hint_tokens(), &out.usage.accepted_hint_tokens)}) {
    *to = static_cast<int32_t>(std::min<uint32_t>(from, std::numeric_limits<int32_t>::max()));
  }
  if (int64_t{proto.position()} + proto.tokens_size() > kMaxSequenceTokens) {
    return absl::InvalidArgumentError("tokens.position: " + std::to_string(proto.position()) +
                                      " is beyond any sequence");
  }
  out.tokens.reserve(proto.tokens_size());
  for (const auto& token : proto.tokens()) {
    TUTTI_ASSIGN_OR_RETURN(engine::TokenOutput t, TokenFromProto(token, vocab_size));
    out.tokens.push_back(std::move(t));
  }
  out.prompt_tokens.reserve(proto.prompt_tokens_size());
  for (const auto& token : proto.prompt_tokens()) {
    TUTTI_ASSIGN_OR_RETURN(engine::TokenOutput t, TokenFromProto(token, vocab_size));
    out.prompt_tokens.push_back(std::move(t));
  }
  return out;
}

void FinishedToProto(const engine::SequenceOutput& output, decoder::v1::Finished* proto) {
  proto->set_reason(FinishToProto(output.finish));
  UsageToProto(output.usage, proto->mutable_usage());
  for (const auto& beam : output.beams) BeamToProto(beam, proto->add_beams());
}

absl::StatusOr<DecodeFinished> FinishedFromProto(const decoder::v1::Finished& proto,
                                                 int vocab_size) {
  if (proto.beams_size() > kMaxBeams) {
    return absl::InvalidArgumentError("finished.beams: " + std::to_string(proto.beams_size()) +
                                      " beams; at most 256");
  }
  DecodeFinished out;
  out.reason = FinishFromProto(proto.reason());
  if (out.reason == engine::FinishReason::kNone) {
    return absl::InvalidArgumentError("finished.reason: must be set");
  }
  out.usage = UsageFromProto(proto.usage());
  for (const auto& beam : proto.beams()) {
    TUTTI_ASSIGN_OR_RETURN(engine::Beam b, BeamFromProto(beam, vocab_size));
    out.beams.push_back(std::move(b));
  }
  return out;
}

void DecoderInfoToProto(const DecoderInfo& info, decoder::v1::GetModelResponse* proto) {
  proto->set_name(info.name);
  proto->set_architecture(info.architecture);
  proto->set_fingerprint(info.fingerprint);
  proto->set_tokenizer_fingerprint(info.tokenizer_fingerprint);
  proto->set_vocab_size(info.vocab_size);
  proto->set_context_tokens(info.context_tokens);
  proto->mutable_eos_ids()->Assign(info.eos_ids.begin(), info.eos_ids.end());
  proto->set_num_pages(info.num_pages);
  proto->set_page_tokens(info.page_tokens);
  proto->set_isa(info.isa);
  proto->set_threads(info.threads);
}

absl::StatusOr<DecoderInfo> DecoderInfoFromProto(const decoder::v1::GetModelResponse& proto) {
  constexpr int kMaxVocab = 1 << 24;
  if (proto.vocab_size() < 1 || proto.vocab_size() > kMaxVocab) {
    return absl::InvalidArgumentError("vocab_size: " + std::to_string(proto.vocab_size()) +
                                      " is not in [1, 2^24]");
  }
  if (proto.context_tokens() < 1 || proto.context_tokens() > kMaxSequenceTokens) {
    return absl::InvalidArgumentError("context_tokens: " + std::to_string(proto.context_tokens()) +
                                      " is not in [1, 2^21]");
  }
  if (proto.eos_ids_size() > kMaxStopIds) {
    return absl::InvalidArgumentError("eos_ids: " + std::to_string(proto.eos_ids_size()) +
                                      " ids; at most 64");
  }
  DecoderInfo out;
  out.name = proto.name();
  out.architecture = proto.architecture();
  out.isa = proto.isa();
  out.fingerprint = proto.fingerprint();
  out.tokenizer_fingerprint = proto.tokenizer_fingerprint();
  out.vocab_size = proto.vocab_size();
  out.context_tokens = proto.context_tokens();
  out.num_pages = proto.num_pages();
  out.page_tokens = proto.page_tokens();
  out.threads = proto.threads();
  out.eos_ids.assign(proto.eos_ids().begin(), proto.eos_ids().end());
  return out;
}

}  // namespace tutti::wire
