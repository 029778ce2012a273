#include "shared/speculation/draft.h"

#include <algorithm>
#include <bit>

#include "kernels/kernels.h"

namespace tutti::speculation {

namespace {
constexpr int kNumLengths = 9;
constexpr Kind kMatchKind = 1, kAfterMissKind = kMatchKind + 4 * kNumLengths,
               kSecondAfterMissKind = kAfterMissKind + 1, kNearKind = kSecondAfterMissKind + 1,
               kStaleHintKind = kNearKind + 3;  // and two more
static_assert(kStaleHintKind + 3 == kNumKinds);

// 1, 2, 3, 4-5, 6-7, 8-11, 12-15, 16-31, 32 and more.
int PlaceOfLength(int32_t length) {
  if (length < 4) return std::max(length, 1) - 1;
  if (length >= 32) return 8;
  if (length >= 16) return 7;
  const int octave = std::bit_width(static_cast<uint32_t>(length)) - 3;  // 0: 4-7, 1: 8-15
  return 3 + 2 * octave + ((length >> (octave + 1)) & 1);
}

// Measured over answers that repeat their input (docs/speculation.md), rounded.
constexpr float kOfMatch[4][kNumLengths] = {
    {0.6f, 0.65f, 0.75f, 0.8f, 0.85f, 0.88f, 0.9f, 0.93f, 0.95f},  // kPrompt
    {0.5f, 0.55f, 0.65f, 0.7f, 0.7f, 0.75f, 0.75f, 0.8f, 0.8f},    // kOutput
    {0.2f, 0.15f, 0.2f, 0.5f, 0.55f, 0.65f, 0.75f, 0.8f, 0.9f},    // kContested
    {0.15f, 0.3f, 0.4f, 0.5f, 0.6f, 0.7f, 0.75f, 0.8f, 0.9f},      // kRecentOutputs
};
}  // namespace

Kind KindOfMatch(int32_t length, Source source) {
  return static_cast<Kind>(kMatchKind + static_cast<int>(source) * kNumLengths +
                           PlaceOfLength(length));
}

Kind KindOfNearMatch(int32_t length) {
  return length < 4 ? static_cast<Kind>(kNearKind + length - 1)
                    : KindOfMatch(length, Source::kPrompt);
}

Kind KindAfterMiss(int32_t length) {
  if (length <= 1) return length == 0 ? kAfterMissKind : kSecondAfterMissKind;
  return KindOfMatch(length, Source::kPrompt);
}

Kind KindOfStaleHint(int32_t length) {
  return static_cast<Kind>(kStaleHintKind + std::min(length, 2));
}

bool IsHint(Kind kind) { return kind == kHintKind || kind >= kStaleHintKind; }

float PriorChance(Kind kind) {
  if (kind >= kNearKind && kind < kStaleHintKind) return kind == kNearKind ? 0.3f : 0.5f;
  if (kind >= kStaleHintKind) return 0.3f + 0.2f * static_cast<float>(kind - kStaleHintKind);
  if (kind == kAfterMissKind) return 0.3f;
  if (kind == kSecondAfterMissKind) return 0.6f;
  if (kind == kHintKind) return 0.7f;
  return kOfMatch[(kind - kMatchKind) / kNumLengths][(kind - kMatchKind) % kNumLengths];
}

void Acceptance::Observe(Kind kind, bool hit, float decay) {
  Counts& c = counts_[kind];
  c.tries = c.tries * decay + 1;
  c.hits = c.hits * decay + (hit ? 1.0f : 0.0f);
}

float SequenceOdds::Chance(Kind kind, float elsewhere) const {
  const float odds = (IsHint(kind) ? of_hints_ : of_others_) * elsewhere;
  return odds / (odds + 1 - elsewhere);
}

void SequenceOdds::Observe(Kind kind, bool hit, float chance) {
  constexpr double kStep = 0.3;
  constexpr float kMost = 50;
  float& factor = IsHint(kind) ? of_hints_ : of_others_;
  const double change = kernels::DetExp(kStep * ((hit ? 1.0 : 0.0) - static_cast<double>(chance)));
  factor = std::clamp(factor * static_cast<float>(change), 1 / kMost, kMost);
}

}  // namespace tutti::speculation
