// What the names in a GGUF's tokenizer.ggml.pre stand for.
#pragma once

#include <string_view>
#include <vector>

#include "shared/base/status.h"

namespace tutti::tokenizer {

struct GgufPreTokenizer {
  std::vector<std::string_view> patterns;  // applied one after the other, matches isolated
  bool ignore_merges = false;
  bool add_bos = false;  // when the file does not say
};

// Errors: UNIMPLEMENTED  names the pre-tokenizer
absl::StatusOr<GgufPreTokenizer> FindGgufPreTokenizer(std::string_view name);

}  // namespace tutti::tokenizer
