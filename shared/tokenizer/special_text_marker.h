// Keeps the text of special tokens in a chat's messages from becoming those tokens.
//
// A template mixes its own control tokens with text of users, tools and documents; afterwards
// nothing tells them apart. So before the template runs, a mark (a symbol that stands nowhere in
// the input) is put behind the first character of each special token's text in the input;
// afterwards marks are taken out, and their places are the breaks of EncodeOptions. Templates see a
// mark as any other character; whole control tokens can come from the template alone. Thread
// safety: one render, one thread. Determinism: exact.
#pragma once

#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "shared/base/status.h"
#include "shared/tokenizer/tokenizer.h"

namespace tutti::tokenizer {

class SpecialTextMarker {
 public:
  // `tokenizer` is borrowed.
  explicit SpecialTextMarker(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  // Marks all strings and keys of the values, in place.
  // Errors: INVALID_ARGUMENT  the input has special tokens' text and every character that could be
  // a mark
  absl::Status Mark(std::initializer_list<nlohmann::ordered_json*> values);

  // Takes the marks out of `text`; appends the byte offsets where they stood.
  void Unmark(std::string* text, std::vector<uint32_t>* breaks) const;

 private:
  void MarkAll(nlohmann::ordered_json* value) const;
  // Empty: nothing in `text` needs a mark.
  std::string Marked(const std::string& text) const;

  const Tokenizer& tokenizer_;
  std::string mark_;  // empty: nothing was marked
};

}  // namespace tutti::tokenizer
