// tutti.common.v1 <-> structs of sampling and engine.
//
// Everything that came over the wire is checked here; what passes is safe to hand to the libraries.
#pragma once

#include <cstdint>

#include "shared/base/status.h"
#include "shared/engine/engine.h"
#include "shared/sampling/params.h"
#include "tutti/common/v1/sampling.pb.h"

namespace tutti::wire {

inline constexpr int kMaxLogitBias = 1024;
inline constexpr int kMaxStopIds = 64;

// Unset fields get the defaults that the proto states; an unset seed is 0 (ask proto.has_seed()),
// an unset max_tokens is INT32_MAX ("what the context leaves": the engine cuts it). Errors:
// INVALID_ARGUMENT "sampling.<field>: ..."
absl::StatusOr<sampling::SamplingParams> SamplingFromProto(const common::v1::SamplingParams& proto,
                                                           uint32_t sample_index, int vocab_size);
// Sets every field but sample_index (it travels beside), so that both sides need not agree on
// defaults.
void SamplingToProto(const sampling::SamplingParams& params, common::v1::SamplingParams* proto);

// `with_logprob`: whether logprobs were asked for; a NaN stays unset either way.
void TokenToProto(const engine::TokenOutput& token, bool with_logprob,
                  common::v1::TokenInfo* proto);
// An unset logprob becomes NaN. Errors: INVALID_ARGUMENT  an id outside [0, vocab_size), over 20
// tops
absl::StatusOr<engine::TokenOutput> TokenFromProto(const common::v1::TokenInfo& proto,
                                                   int vocab_size);

common::v1::FinishReason FinishToProto(engine::FinishReason reason);
// An unknown number is kError: newer peers may have more reasons.
engine::FinishReason FinishFromProto(common::v1::FinishReason reason);

void UsageToProto(const engine::Usage& usage, common::v1::Usage* proto);
engine::Usage UsageFromProto(const common::v1::Usage& proto);

void BeamToProto(const engine::Beam& beam, common::v1::Beam* proto);
absl::StatusOr<engine::Beam> BeamFromProto(const common::v1::Beam& proto, int vocab_size);

}  // namespace tutti::wire
