// A draft: tokens that may come next, and how often such tokens did come.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

namespace tutti::speculation {

// Why a token is proposed. Tokens of one kind are taken to be right equally often.
using Kind = uint8_t;
inline constexpr Kind kHintKind = 0;  // a peer said so
inline constexpr int kNumKinds = 45;
// Where the end of the text was found again. Contested: in several places of the text, and they go
// on differently.
enum class Source : uint8_t { kPrompt, kOutput, kContested, kRecentOutputs };
// The token after a match of that many tokens.
Kind KindOfMatch(int32_t length, Source source);
// The token after a match near the end of the last passage that was copied.
Kind KindOfNearMatch(int32_t length);
// The token of a copied passage that many tokens after one that differed.
Kind KindAfterMiss(int32_t length);
// The token of a peer's guess that many tokens after one that came otherwise.
Kind KindOfStaleHint(int32_t length);
// A peer said so, whatever came of what it had said before.
bool IsHint(Kind kind);

struct Draft {
  std::vector<int32_t> tokens;
  std::vector<Kind> kinds;  // of each token, if those before it are right

  void Clear() {
    tokens.clear();
    kinds.clear();
  }
};

// How often a kind was right, lately, in all sequences: decaying counts of tokens that were tried,
// and of hits. A token is tried when the ones before it were right, whether or not anybody ran its
// row: a draft that was not verified is compared with what came, too, so it costs nothing to learn
// that drafts would pay.
class Acceptance {
 public:
  // What was seen before is weighed `decay`.
  void Observe(Kind kind, bool hit, float decay);

  // The chance of a kind, as if `weight` tries had given `prior`.
  float Chance(Kind kind, float prior, float weight) const {
    const Counts& c = counts_[kind];
    return (c.hits + weight * prior) / (c.tries + weight);
  }

 private:
  struct Counts {
    float hits = 0, tries = 0;
  };
  std::array<Counts, kNumKinds> counts_;
};

// How much likelier guesses are right in one sequence than elsewhere, as a factor of the odds: one
// for hints, one for all other kinds, because a text that repeats its input does so all over.
// Learned by gradient steps on the logarithmic loss. A text counts as a poor one until it shows.
//
// Thread safety: none.
class SequenceOdds {
 public:
  // What a chance elsewhere is in this sequence.
  float Chance(Kind kind, float elsewhere) const;
  // `chance`: what Chance said of the token that came (hit) or not.
  void Observe(Kind kind, bool hit, float chance);

 private:
  float of_hints_ = 1, of_others_ = 0.45f;
};

// Before anything was seen.
float PriorChance(Kind kind);

}  // namespace tutti::speculation
