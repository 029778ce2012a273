// tutti.tokenizer.v1 <-> structs.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "shared/base/limits.h"
#include "shared/base/status.h"
#include "shared/tokenizer/chat_template.h"
#include "shared/tokenizer/tokenizer.h"
#include "tutti/tokenizer/v1/tokenizer.pb.h"

namespace tutti::wire {

using limits::kMaxTextBytes;

// A chat in OpenAI's shape, still as JSON text.
struct ChatText {
  std::string messages_json, tools_json, variables_json;  // the last two may be empty
  bool add_generation_prompt = true;
  bool continue_final_message = false;
};

// One of text and chat.
struct EncodeInput {
  std::string text;
  std::optional<ChatText> chat;
  bool parse_special = false, add_special = false, with_offsets = false;
  std::string request_id;
};
void EncodeInputToProto(const EncodeInput& input, tokenizer::v1::EncodeRequest* proto);

// Errors: INVALID_ARGUMENT: neither text nor chat; not UTF-8 ("text: not UTF-8 at byte 17"); over
// kMaxTextBytes.
absl::Status CheckEncodeRequest(const tokenizer::v1::EncodeRequest& proto);

// Errors: INVALID_ARGUMENT "messages_json: ..." with the place of a syntax error; not an array of
// objects with a role; past a limit of shared/base/limits.h; likewise tools_json and
// variables_json.
absl::StatusOr<tutti::tokenizer::TemplateInput> TemplateInputFromProto(
    const tokenizer::v1::ChatInput& proto);

struct EncodeResult {
  tutti::tokenizer::Encoding encoding;
  std::string rendered;
};
absl::StatusOr<EncodeResult> EncodeResultFromProto(const tokenizer::v1::EncodeResponse& proto);

// The table that a router detokenises with.
struct Vocabulary {
  uint64_t fingerprint = 0;
  tutti::tokenizer::DecoderTable table;
  int32_t bos_id = -1, eos_id = -1;
  bool has_chat_template = false;
};

// Puts the pieces of GetVocabulary together.
class VocabularyReader {
 public:
  // Errors: DATA_LOSS  a piece out of order, of another vocabulary, or over the announced size
  absl::Status Add(const tokenizer::v1::GetVocabularyResponse& piece);
  // Errors: DATA_LOSS  pieces are missing
  absl::StatusOr<Vocabulary> Finish() &&;

 private:
  Vocabulary vocabulary_;
  int32_t size_ = -1;
  size_t bytes_ = 0;  // of tokens so far
};

}  // namespace tutti::wire
