#include "shared/wire/sampling.h"

#include <cmath>
#include <limits>
#include <string>
#include <unordered_set>

namespace tutti::wire {
namespace {

constexpr int kMaxTop = 20;
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

absl::Status Bad(const std::string& field, const std::string& what) {
  return absl::InvalidArgumentError("sampling." + field + ": " + what);
}

absl::Status CheckId(int32_t id, int vocab_size) {
  if (id >= 0 && id < vocab_size) return absl::OkStatus();
  return absl::InvalidArgumentError("token id " + std::to_string(id) +
                                    " is outside the vocabulary of " + std::to_string(vocab_size));
}

}  // namespace

absl::StatusOr<sampling::SamplingParams> SamplingFromProto(const common::v1::SamplingParams& proto,
                                                           uint32_t sample_index, int vocab_size) {
  if (proto.logit_bias_size() > kMaxLogitBias) {
    return Bad("logit_bias", std::to_string(proto.logit_bias_size()) + " entries; at most " +
                                 std::to_string(kMaxLogitBias));
  }
  if (proto.stop_ids_size() > kMaxStopIds) {
    return Bad("stop_ids", std::to_string(proto.stop_ids_size()) + " entries; at most " +
                               std::to_string(kMaxStopIds));
  }
  sampling::SamplingParams out;
  out.sample_index = sample_index;
  out.seed = proto.seed();
  if (proto.has_temperature()) out.temperature = proto.temperature();
  if (proto.has_top_k()) out.top_k = proto.top_k();
  if (proto.has_top_p()) out.top_p = proto.top_p();
  if (proto.has_min_p()) out.min_p = proto.min_p();
  if (proto.has_typical_p()) out.typical_p = proto.typical_p();
  if (proto.has_repetition_penalty()) out.repetition_penalty = proto.repetition_penalty();
  if (proto.has_presence_penalty()) out.presence_penalty = proto.presence_penalty();
  if (proto.has_frequency_penalty()) out.frequency_penalty = proto.frequency_penalty();
  if (proto.has_no_repeat_ngram_size()) out.no_repeat_ngram_size = proto.no_repeat_ngram_size();
  out.max_tokens =
      proto.has_max_tokens() ? proto.max_tokens() : std::numeric_limits<int32_t>::max();
  if (proto.has_min_tokens()) out.min_tokens = proto.min_tokens();
  out.ignore_eos = proto.ignore_eos();
  if (proto.has_logprobs()) out.logprobs = proto.logprobs();
  if (proto.has_prompt_logprobs()) out.prompt_logprobs = proto.prompt_logprobs();
  // In the struct -1 means "none"; on the wire that is an unset field, and a negative number a
  // mistake.
  if (proto.has_logprobs() && proto.logprobs() < 0) return Bad("logprobs", "must be in [0, 20]");
  if (proto.has_prompt_logprobs() && proto.prompt_logprobs() < 0) {
    return Bad("prompt_logprobs", "must be in [0, 20]");
  }
  if (proto.has_num_beams()) out.num_beams = proto.num_beams();
  if (proto.has_length_penalty()) out.length_penalty = proto.length_penalty();
  out.early_stopping = proto.early_stopping();
  if (proto.has_num_return()) out.num_return = proto.num_return();

  std::unordered_set<int32_t> seen;
  for (const auto& bias : proto.logit_bias()) {
    if (!seen.insert(bias.token_id()).second) {
      return Bad("logit_bias",
                 "token id " + std::to_string(bias.token_id()) + " stands there twice");
    }
    out.logit_bias.emplace_back(bias.token_id(), bias.bias());
  }
  out.stop_ids.assign(proto.stop_ids().begin(), proto.stop_ids().end());
  if (absl::Status status = out.Validate(vocab_size); !status.ok()) {
    return absl::Status(status.code(), "sampling." + std::string(status.message()));
  }
  return out;
}

void SamplingToProto(const sampling::SamplingParams& params, common::v1::SamplingParams* proto) {
  proto->Clear();
  proto->set_seed(params.seed);
  proto->set_temperature(params.temperature);
  proto->set_top_k(params.top_k);
  proto->set_top_p(params.top_p);
  proto->set_min_p(params.min_p);
  proto->set_typical_p(params.typical_p);
  proto->set_repetition_penalty(params.repetition_penalty);
  proto->set_presence_penalty(params.presence_penalty);
  proto->set_frequency_penalty(params.frequency_penalty);
  for (const auto& [id, value] : params.logit_bias) {
    auto* bias = proto->add_logit_bias();
    bias->set_token_id(id);
    bias->set_bias(value);
  }
  proto->set_no_repeat_ngram_size(params.no_repeat_ngram_size);
  proto->set_max_tokens(params.max_tokens);
  proto->set_min_tokens(params.min_tokens);
  proto->set_ignore_eos(params.ignore_eos);
  proto->mutable_stop_ids()->Assign(params.stop_ids.begin(), params.stop_ids.end());
  if (params.logprobs >= 0) proto->set_logprobs(params.logprobs);
  if (params.prompt_logprobs >= 0) proto->set_prompt_logprobs(params.prompt_logprobs);
  proto->set_num_beams(params.num_beams);
  proto->set_length_penalty(params.length_penalty);
  proto->set_early_stopping(params.early_stopping);
  proto->set_num_return(params.num_return);
}

void TokenToProto(const engine::TokenOutput& token, bool with_logprob,
                  common::v1::TokenInfo* proto) {
  proto->set_token_id(token.token_id);
  proto->set_digest(token.digest);
  if (!with_logprob) return;
  if (!std::isnan(token.logprob)) proto->set_logprob(token.logprob);
  for (const auto& alternative : token.top) {
    auto* top = proto->add_top();
    top->set_token_id(alternative.token_id);
    top->set_logprob(alternative.logprob);
  }
}

absl::StatusOr<engine::TokenOutput> TokenFromProto(const common::v1::TokenInfo& proto,
                                                   int vocab_size) {
  TUTTI_RETURN_IF_ERROR(CheckId(proto.token_id(), vocab_size));
  if (proto.top_size() > kMaxTop) {
    return absl::InvalidArgumentError("top: " + std::to_string(proto.top_size()) +
                                      " alternatives; at most 20");
  }
  engine::TokenOutput out;
  out.token_id = proto.token_id();
  out.logprob = proto.has_logprob() ? proto.logprob() : kNaN;
  out.digest = proto.digest();
  out.top.reserve(proto.top_size());
  for (const auto& top : proto.top()) {
    TUTTI_RETURN_IF_ERROR(CheckId(top.token_id(), vocab_size));
    out.top.push_back({top.token_id(), top.logprob()});
  }
  return out;
}

common::v1::FinishReason FinishToProto(engine::FinishReason reason) {
  switch (reason) {
    case engine::FinishReason::kNone:
      return common::v1::FINISH_REASON_UNSPECIFIED;
    case engine::FinishReason::kEos:
      return common::v1::FINISH_REASON_EOS;
    case engine::FinishReason::kStopId:
      return common::v1::FINISH_REASON_STOP;
    case engine::FinishReason::kLength:
      return common::v1::FINISH_REASON_LENGTH;
    case engine::FinishReason::kCancelled:
      return common::v1::FINISH_REASON_CANCELLED;
    case engine::FinishReason::kDeadline:
      return common::v1::FINISH_REASON_DEADLINE;
    case engine::FinishReason::kError:
      return common::v1::FINISH_REASON_ERROR;
  }
  return common::v1::FINISH_REASON_ERROR;
}

engine::FinishReason FinishFromProto(common::v1::FinishReason reason) {
  switch (reason) {
    case common::v1::FINISH_REASON_UNSPECIFIED:
      return engine::FinishReason::kNone;
    case common::v1::FINISH_REASON_EOS:
      return engine::FinishReason::kEos;
    case common::v1::FINISH_REASON_STOP:
      return engine::FinishReason::kStopId;
    case common::v1::FINISH_REASON_LENGTH:
      return engine::FinishReason::kLength;
    case common::v1::FINISH_REASON_CANCELLED:
      return engine::FinishReason::kCancelled;
    case common::v1::FINISH_REASON_DEADLINE:
      return engine::FinishReason::kDeadline;
    default:
      return engine::FinishReason::kError;
  }
}

void UsageToProto(const engine::Usage& usage, common::v1::Usage* proto) {
  proto->set_prompt_tokens(usage.prompt_tokens);
  proto->set_output_tokens(usage.output_tokens);
  proto->set_cached_tokens(usage.cached_tokens);
  proto->set_preemptions(usage.preemptions);
  proto->set_queue_us(usage.queue_us);
  proto->set_prefill_us(usage.prefill_us);
  proto->set_decode_us(usage.decode_us);
  proto->set_proposed_tokens(usage.proposed_tokens);
  proto->set_accepted_tokens(usage.accepted_tokens);
}

engine::Usage UsageFromProto(const common::v1::Usage& proto) {
  engine::Usage out;
  out.prompt_tokens = proto.prompt_tokens();
  out.output_tokens = proto.output_tokens();
  out.cached_tokens = proto.cached_tokens();
  out.preemptions = proto.preemptions();
  out.queue_us = proto.queue_us();
  out.prefill_us = proto.prefill_us();
  out.decode_us = proto.decode_us();
  out.proposed_tokens = proto.proposed_tokens();
  out.accepted_tokens = proto.accepted_tokens();
  return out;
}

void BeamToProto(const engine::Beam& beam, common::v1::Beam* proto) {
  proto->mutable_token_ids()->Assign(beam.token_ids.begin(), beam.token_ids.end());
  proto->set_score(beam.score);
}

absl::StatusOr<engine::Beam> BeamFromProto(const common::v1::Beam& proto, int vocab_size) {
  for (const int32_t id : proto.token_ids()) TUTTI_RETURN_IF_ERROR(CheckId(id, vocab_size));
  engine::Beam out;
  out.token_ids.assign(proto.token_ids().begin(), proto.token_ids().end());
  out.score = proto.score();
  return out;
}

}  // namespace tutti::wire
