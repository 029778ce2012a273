// The Tokenizer of byte-level BPE vocabularies: GPT-2, Llama 3, Qwen, SmolLM, DeepSeek and their
// kin.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "shared/tokenizer/added_tokens.h"
#include "shared/tokenizer/bpe_model.h"
#include "shared/tokenizer/splitter.h"
#include "shared/tokenizer/tokenizer.h"
#include "shared/tokenizer/unicode.h"

namespace tutti::tokenizer {

// Everything that a file says about such a tokenizer, read and checked for shape.
struct BytePairSpec {
  struct Token {
    std::string text;
    int32_t id;
  };
  std::vector<Token> vocab;                                 // the model's own, any order
  std::vector<std::pair<std::string, std::string>> merges;  // best first
  std::vector<AddedToken> added_tokens;

  std::vector<NormalForm> normalizers;
  std::vector<SplitSpec> splits;
  bool add_prefix_space = false;  // before each stretch of text that does not begin with a space
  std::string unk_token;          // empty: bytes that the vocabulary lacks are dropped
  bool fuse_unk = false;
  bool ignore_merges = false;

  std::vector<int32_t> prefix_ids, suffix_ids;  // what add_special puts around
  bool trim_offsets = false;                    // offsets leave white space at a token's ends out
  bool trim_keeps_first_space = false;
  int32_t bos_id = -1, eos_id = -1;
};

// Errors: INVALID_ARGUMENT  names the field
absl::StatusOr<std::shared_ptr<const Tokenizer>> MakeBytePairTokenizer(BytePairSpec spec);

}  // namespace tutti::tokenizer
