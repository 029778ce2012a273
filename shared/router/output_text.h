// The text of one choice while its tokens arrive.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "shared/router/stop_matcher.h"
#include "shared/tokenizer/tokenizer.h"

namespace tutti::router {

struct TextOptions {
  bool skip_special = true;
  std::vector<std::string> stops;
  bool include_stop = false;
  int32_t min_tokens = 0;  // stop strings may only begin in a token after that many
};

// Copyable. Determinism: exact.
class OutputText {
 public:
  OutputText(std::shared_ptr<const tokenizer::TokenDecoder> decoder, const TextOptions& options);

  struct Piece {
    std::string text;  // what this token releases
    int matched = -1;  // the stop that this token completes, or -1
  };
  // `hidden`: the token has no text (a stop id).
  Piece Push(int32_t id, bool hidden);
  // What was held back; the output has ended without a stop string (or with one in this very tail).
  Piece Flush();

  const std::string& stop(int index) const { return matcher_.stop(index); }

 private:
  tokenizer::StreamDecoder decoder_;
  StopMatcher matcher_;
  bool include_stop_;
  int64_t tokens_before_stops_;
};

}  // namespace tutti::router
