#include "shared/speculation/draft.h"

#include <algorithm>
#include <bit>

namespace tutti::speculation {

namespace {
constexpr Kind kOneTokenKind = 17, kAfterMissKind = 18, kSecondAfterMissKind = 19, kNearKind = 20,
               kStaleHintKind = 23;  // and two more of each
}  // namespace

// Lengths 1; 2, 3, 4-5, 6-7, 8-11, 12-15, 16-31, 32 and more.
Kind KindOfMatch(int32_t length, bool in_recent_outputs) {
  if (length <= 1) return kOneTokenKind;
  int place = 0;
  if (length >= 32) {
    place = 7;
  } else if (length >= 16) {
    place = 6;
  } else if (length >= 4) {
    const int octave = std::bit_width(static_cast<uint32_t>(length)) - 3;  // 0: 4-7, 1: 8-15
    place = 2 + 2 * octave + ((length >> (octave + 1)) & 1);
  } else if (length == 3) {
    place = 1;
  }
  return static_cast<Kind>(1 + place + (in_recent_outputs ? 8 : 0));
}

Kind KindOfNearMatch(int32_t length) {
  return length < 4 ? static_cast<Kind>(kNearKind + length - 1) : KindOfMatch(length, false);
}

Kind KindAfterMiss(int32_t length) {
  if (length <= 1) return length == 0 ? kAfterMissKind : kSecondAfterMissKind;
  return KindOfMatch(length, false);
}

Kind KindOfStaleHint(int32_t length) {
  return static_cast<Kind>(kStaleHintKind + std::min(length, 2));
}

bool IsHint(Kind kind) { return kind == kHintKind || kind >= kStaleHintKind; }

float PriorChance(Kind kind) {
  if (kind >= kNearKind && kind < kStaleHintKind) return kind == kNearKind ? 0.3f : 0.5f;
  if (kind >= kStaleHintKind) return 0.3f + 0.2f * static_cast<float>(kind - kStaleHintKind);
  if (kind == kOneTokenKind) return 0.15f;
  if (kind == kAfterMissKind) return 0.3f;
  if (kind == kSecondAfterMissKind) return 0.6f;
  constexpr float kOfMatch[8] = {0.3f, 0.4f, 0.5f, 0.6f, 0.7f, 0.75f, 0.8f, 0.9f};
  return kind == kHintKind ? 0.7f : kOfMatch[(kind - 1) % 8];
}

void Acceptance::Observe(const Draft& draft, std::span<const int32_t> came, float decay) {
  const size_t n = std::min(draft.tokens.size(), came.size());
  for (size_t i = 0; i < n; ++i) {
    Counts& c = counts_[draft.kinds[i]];
    const bool hit = draft.tokens[i] == came[i];
    c.tries = c.tries * decay + 1;
    c.hits = c.hits * decay + (hit ? 1.0f : 0.0f);
    if (!hit) return;
  }
}

}  // namespace tutti::speculation
