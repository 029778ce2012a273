// Tokens of a GGUF that are known by their names, as llama.cpp knows them: many files name one end
// of a generation in their metadata and have several (an end of text and an end of a turn).
// Thread safety: pure functions. Determinism: exact.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "shared/weights/model_files.h"

namespace tutti::weights {

// The numbers in tokenizer.ggml.token_type.
enum class GgufTokenType : int64_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6,
};

// Whether a token of this name and type ends a generation. Names that no text has ("<|im_end|>")
// count whatever the type, as old converters wrote them as normal tokens; names that text may have
// ("</s>", "<EOT>") count for control tokens alone.
bool EndsGeneration(std::string_view name, GgufTokenType type);

// The type a tokenizer takes for it: an end by name is a control token, whatever the file says.
GgufTokenType EffectiveType(std::string_view name, GgufTokenType type);

// The ids of such tokens in ascending order; empty without a vocabulary. Where a file's ends are
// <|return|> and <|call|> (or <|calls|> and <|flush|>), <|end|> ends a message and not the
// generation; beside <|tool_response>, </s> is none.
std::vector<int32_t> EndsByName(const ModelFiles& files);

}  // namespace tutti::weights
