// What the feed-forward layers of a model read when it reads texts, and how a mixture divides them.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "shared/base/status.h"
#include "shared/model/transformer.h"

namespace tutti::upcycle {

// One kind of text.
struct Text {
  std::string name;  // for people
  std::vector<int32_t> ids;
};

// A text is read in windows of so many tokens (or the context). The first token of a window counts
// nowhere: it is the same or has seen nothing, and models keep a large constant there.
inline constexpr int kWindowTokens = 512;

// Gets tokens read and in all, and ends the run with false.
using TokensDone = std::function<bool(int64_t done, int64_t total)>;

// [layer][rows * hidden]: rows of all texts in order, as the layers' FFN reads them (normalised).
// Takes over the model's ffn observer.
// Errors: INVALID_ARGUMENT  a text has no 2 tokens, or an id that the model does not have
//         CANCELLED         on_tokens returned false
// Determinism: exact. Memory: layers * tokens * hidden floats.
absl::StatusOr<std::vector<std::vector<float>>> CollectFfnInputs(model::Transformer* model,
                                                                 std::span<const Text> texts,
                                                                 const TokensDone& on_tokens);

// How the load of one mixture layer is spread.
struct LayerLoad {
  int layer = 0;
  std::vector<double> share;  // [experts] of all choices; sums to 1
  // Switch's auxiliary loss over these rows (moe::LoadBalancingLoss); top_k when all is even.
  double balancing_loss = 0;
  double dropped = 0;  // share of all choices that were left out (moe/drops.h)
  // What the best expert of a row tells of the kind of its text: the mutual information, as a share
  // of what there is to know (0: nothing, 1: all).
  double told = 0;
  std::vector<std::vector<double>> text_share;  // [texts][experts] of the text's choices
};

// Runs the texts through a mixture. Takes over the model's routing observer. Errors as above.
absl::StatusOr<std::vector<LayerLoad>> MeasureLoad(model::Transformer* model,
                                                   std::span<const Text> texts,
                                                   const TokensDone& on_tokens);

}  // namespace tutti::upcycle
