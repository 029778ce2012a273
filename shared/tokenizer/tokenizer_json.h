// Reading a Hugging Face tokenizer.json.
#pragma once

#include <string_view>

#include <nlohmann/json_fwd.hpp>

#include "shared/base/status.h"
#include "shared/tokenizer/byte_pair_tokenizer.h"

namespace tutti::tokenizer {

// `config`: the tokenizer_config.json, or null.
// Errors: INVALID_ARGUMENT  "tokenizer.json: <field>: ..."
//         UNIMPLEMENTED     names the model, normalizer, pre_tokenizer, post_processor or decoder
//         type
absl::StatusOr<BytePairSpec> ReadTokenizerJson(std::string_view text, const nlohmann::json* config);

}  // namespace tutti::tokenizer
