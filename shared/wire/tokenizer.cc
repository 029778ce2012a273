#include "shared/wire/tokenizer.h"

#include <nlohmann/json.hpp>

#include "shared/base/json_text.h"
#include "shared/base/strings.h"

namespace tutti::wire {
namespace {

using nlohmann::ordered_json;

constexpr int kMaxVocab = 1 << 24;
constexpr size_t kMaxVocabBytes = 64 << 20;  // of all tokens; the largest known are 3 MB

absl::Status CheckUtf8(const std::string& field, const std::string& text) {
  size_t offset = 0;
  if (IsValidUtf8(text, &offset)) return absl::OkStatus();
  return absl::InvalidArgumentError(field + ": not UTF-8 at byte " + std::to_string(offset));
}

absl::Status CheckSize(const std::string& field, size_t bytes) {
  if (bytes <= kMaxTextBytes) return absl::OkStatus();
  return absl::InvalidArgumentError(field + ": " + std::to_string(bytes) + " bytes; at most " +
                                    std::to_string(kMaxTextBytes));
}

absl::StatusOr<ordered_json> ParseJson(const std::string& field, const std::string& text) {
  TUTTI_RETURN_IF_ERROR(CheckSize(field, text.size()));
  TUTTI_RETURN_IF_ERROR(CheckUtf8(field, text));
  JsonFault fault;
  absl::StatusOr<ordered_json> json = ParseJsonText(text, {}, &fault);
  if (json.ok()) return json;
  const bool in_array = fault.path.starts_with("[");
  return absl::InvalidArgumentError(
      field + (fault.path.empty() || in_array ? "" : ".") + fault.path + ": " +
      (fault.kind == JsonFault::Kind::kSyntax ? "not JSON: " : "") + fault.message);
}

absl::StatusOr<ordered_json> ParseArray(const std::string& field, const std::string& text) {
  TUTTI_ASSIGN_OR_RETURN(ordered_json json, ParseJson(field, text));
  if (!json.is_array()) {
    return absl::InvalidArgumentError(field + ": must be an array, is " +
                                      std::string(json.type_name()));
  }
  for (size_t i = 0; i < json.size(); ++i) {
    if (!json[i].is_object()) {
      return absl::InvalidArgumentError(field + "[" + std::to_string(i) +
                                        "]: must be an object, is " +
                                        std::string(json[i].type_name()));
    }
  }
  return json;
}

}  // namespace

void EncodeInputToProto(const EncodeInput& input, tokenizer::v1::EncodeRequest* proto) {
  proto->Clear();
  if (input.chat.has_value()) {
    auto* chat = proto->mutable_chat();
    chat->set_messages_json(input.chat->messages_json);
    chat->set_tools_json(input.chat->tools_json);
    chat->set_variables_json(input.chat->variables_json);
    chat->set_add_generation_prompt(input.chat->add_generation_prompt);
    chat->set_continue_final_message(input.chat->continue_final_message);
  } else {
    proto->set_text(input.text);
  }
  proto->set_parse_special(input.parse_special);
  proto->set_add_special(input.add_special);
  proto->set_with_offsets(input.with_offsets);
  proto->set_request_id(input.request_id);
}

absl::Status CheckEncodeRequest(const tokenizer::v1::EncodeRequest& proto) {
  switch (proto.input_case()) {
    case tokenizer::v1::EncodeRequest::kText:
      TUTTI_RETURN_IF_ERROR(CheckSize("text", proto.text().size()));
      return CheckUtf8("text", proto.text());
    case tokenizer::v1::EncodeRequest::kChat:
      return absl::OkStatus();
    default:
      return absl::InvalidArgumentError("input: one of text and chat is needed");
  }
}

absl::StatusOr<tutti::tokenizer::TemplateInput> TemplateInputFromProto(
    const tokenizer::v1::ChatInput& proto) {
  tutti::tokenizer::TemplateInput out;
  TUTTI_ASSIGN_OR_RETURN(out.messages, ParseArray("messages_json", proto.messages_json()));
  if (out.messages.empty()) {
    return absl::InvalidArgumentError("messages_json: at least one message is needed");
  }
  for (size_t i = 0; i < out.messages.size(); ++i) {
    const auto role = out.messages[i].find("role");
    if (role == out.messages[i].end() || !role->is_string()) {
      return absl::InvalidArgumentError("messages_json[" + std::to_string(i) +
                                        "].role: must be a string");
    }
  }
  if (!proto.tools_json().empty()) {
    TUTTI_ASSIGN_OR_RETURN(out.tools, ParseArray("tools_json", proto.tools_json()));
    if (out.tools.empty()) out.tools = nullptr;
  }
  if (!proto.variables_json().empty()) {
    TUTTI_ASSIGN_OR_RETURN(out.variables, ParseJson("variables_json", proto.variables_json()));
    if (!out.variables.is_object()) {
      return absl::InvalidArgumentError("variables_json: must be an object, is " +
                                        std::string(out.variables.type_name()));
    }
  }
  out.add_generation_prompt = proto.add_generation_prompt();
  out.continue_final_message = proto.continue_final_message();
  return out;
}

absl::StatusOr<EncodeResult> EncodeResultFromProto(const tokenizer::v1::EncodeResponse& proto) {
  if (proto.offsets_size() != 0 && proto.offsets_size() != 2 * proto.ids_size()) {
    return absl::DataLossError("offsets: " + std::to_string(proto.offsets_size()) +
                               " numbers for " + std::to_string(proto.ids_size()) + " tokens");
  }
  EncodeResult out;
  out.encoding.ids.assign(proto.ids().begin(), proto.ids().end());
  for (int i = 0; i + 1 < proto.offsets_size(); i += 2) {
    out.encoding.offsets.emplace_back(proto.offsets(i), proto.offsets(i + 1));
  }
  out.rendered = proto.rendered();
  return out;
}

absl::Status VocabularyReader::Add(const tokenizer::v1::GetVocabularyResponse& piece) {
  if (size_ < 0) {
    if (piece.vocab_size() < 1 || piece.vocab_size() > kMaxVocab) {
      return absl::DataLossError("vocab_size: " + std::to_string(piece.vocab_size()) +
                                 " is not in [1, 2^24]");
    }
    size_ = piece.vocab_size();
    vocabulary_.fingerprint = piece.fingerprint();
    vocabulary_.bos_id = piece.bos_id();
    vocabulary_.eos_id = piece.eos_id();
    vocabulary_.has_chat_template = piece.has_chat_template();
  }
  auto& table = vocabulary_.table;
  if (piece.fingerprint() != vocabulary_.fingerprint || piece.vocab_size() != size_) {
    return absl::DataLossError("a piece of another vocabulary");
  }
  if (piece.first_id() != static_cast<int32_t>(table.bytes.size()) ||
      piece.special_size() != piece.token_bytes_size() ||
      piece.token_bytes_size() > size_ - piece.first_id()) {
    return absl::DataLossError("first_id: piece of " + std::to_string(piece.token_bytes_size()) +
                               " tokens at " + std::to_string(piece.first_id()) + ", expected at " +
                               std::to_string(table.bytes.size()));
  }
  for (const std::string& token : piece.token_bytes()) bytes_ += token.size();
  if (bytes_ > kMaxVocabBytes) {
    return absl::DataLossError("vocabulary: more than " + std::to_string(kMaxVocabBytes) +
                               " bytes");
  }
  for (int i = 0; i < piece.token_bytes_size(); ++i) {
    table.bytes.push_back(piece.token_bytes(i));
    table.special.push_back(piece.special(i));
  }
  return absl::OkStatus();
}

absl::StatusOr<Vocabulary> VocabularyReader::Finish() && {
  if (size_ < 0 || vocabulary_.table.bytes.size() != static_cast<size_t>(size_)) {
    return absl::DataLossError("vocabulary: " + std::to_string(vocabulary_.table.bytes.size()) +
                               " of " + std::to_string(std::max(size_, 0)) + " tokens came");
  }
  return std::move(vocabulary_);
}

}  // namespace tutti::wire
