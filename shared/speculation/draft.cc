#include "shared/speculation/draft.h"

#include <algorithm>
#include <bit>

namespace tutti::speculation {

// Lengths 2, 3, 4-5, 6-7, 8-11, 12-15, 16-31, 32 and more.
Kind KindOfMatch(int32_t length, bool in_recent_outputs) {
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

float PriorChance(Kind kind) {
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
