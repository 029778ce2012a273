// A tokenizer.json as it is parsed: the two long lists go straight into vectors, the small rest
// becomes a JSON value. So a file of 20 MB needs no tree of half a million nodes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "shared/base/status.h"
#include "shared/tokenizer/byte_pair_tokenizer.h"

namespace tutti::tokenizer {

struct TokenizerJsonParts {
  nlohmann::json rest;  // everything but model.vocab and model.merges
  std::vector<BytePairSpec::Token> vocab;
  std::vector<std::pair<std::string, std::string>> merges;
  bool vocab_is_list = false;  // [[text, score], ...], as Unigram has it; not kept
};

// Errors: INVALID_ARGUMENT  not JSON (with the byte offset), nested too deeply, a wrong vocab or
// merges
absl::StatusOr<TokenizerJsonParts> ParseTokenizerJson(std::string_view text);

}  // namespace tutti::tokenizer
