#include "shared/router/validate.h"

#include <algorithm>

#include "shared/base/strings.h"

namespace tutti::router {
namespace {

absl::Status Bad(std::string message) { return absl::InvalidArgumentError(message); }

absl::Status ValidatePrompt(const Prompt& prompt, const RouterOptions& options) {
  if (std::holds_alternative<std::monostate>(prompt)) {
    return Bad("prompt: missing; give one of text, token_ids, chat");
  }
  const auto check_text = [&](std::string_view text, const char* field) -> absl::Status {
    if (text.size() > static_cast<size_t>(options.max_prompt_bytes)) {
      return Bad(std::string(field) + ": " + std::to_string(text.size()) + " bytes, at most " +
                 std::to_string(options.max_prompt_bytes));
    }
    size_t bad = 0;
    if (!IsValidUtf8(text, &bad))
      return Bad(std::string(field) + ": not UTF-8 at byte " + std::to_string(bad));
    return absl::OkStatus();
  };
  if (const auto* text = std::get_if<std::string>(&prompt)) {
    if (text->empty()) return Bad("text: empty; a prompt needs at least one token");
    return check_text(*text, "text");
  }
  if (const auto* ids = std::get_if<std::vector<int32_t>>(&prompt)) {
    if (ids->empty()) return Bad("token_ids: empty; a prompt needs at least one token");
    return absl::OkStatus();
  }
  const auto& chat = std::get<ChatPrompt>(prompt);
  if (chat.messages_json.empty()) return Bad("chat.messages_json: missing");
  TUTTI_RETURN_IF_ERROR(check_text(chat.messages_json, "chat.messages_json"));
  TUTTI_RETURN_IF_ERROR(check_text(chat.tools_json, "chat.tools_json"));
  return check_text(chat.variables_json, "chat.variables_json");
}

bool AllHex(std::string_view s) {
  return std::all_of(s.begin(), s.end(),
                     [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

}  // namespace

absl::Status ValidateRequestId(std::string_view id) {
  if (id.size() > kMaxRequestIdBytes) {
    return Bad("request_id: " + std::to_string(id.size()) + " bytes, at most " +
               std::to_string(kMaxRequestIdBytes));
  }
  for (size_t i = 0; i < id.size(); ++i) {
    if (id[i] < 0x20 || id[i] > 0x7e) {
      return Bad("request_id: byte " + std::to_string(i) + " is not printable ASCII");
    }
  }
  return absl::OkStatus();
}

bool IsTraceparent(std::string_view s) {
  if (s.size() != 55 || s[2] != '-' || s[35] != '-' || s[52] != '-' || s.substr(0, 2) == "ff")
    return false;
  const std::string_view trace = s.substr(3, 32), span = s.substr(36, 16);
  return AllHex(s.substr(0, 2)) && AllHex(trace) && AllHex(span) && AllHex(s.substr(53)) &&
         trace.find_first_not_of('0') != std::string_view::npos &&
         span.find_first_not_of('0') != std::string_view::npos;
}

absl::Status ValidateRequest(RequestSpec* spec, const RouterOptions& options) {
  TUTTI_RETURN_IF_ERROR(ValidateRequestId(spec->request_id));
  if (spec->model.size() > 256)
    return Bad("model: " + std::to_string(spec->model.size()) + " bytes, at most 256");
  if (spec->client.size() > kMaxClientBytes) {
    return Bad("client: " + std::to_string(spec->client.size()) + " bytes, at most " +
               std::to_string(kMaxClientBytes));
  }
  TUTTI_RETURN_IF_ERROR(ValidatePrompt(spec->prompt, options));
  if (spec->n < 1 || spec->n > kMaxChoices) {
    return Bad("n: " + std::to_string(spec->n) + ", must be 1 to " + std::to_string(kMaxChoices));
  }
  if (spec->first_choice < 0 || spec->first_choice > kMaxChoices - spec->n) {
    return Bad("first_choice: " + std::to_string(spec->first_choice) + ", must be 0 to " +
               std::to_string(kMaxChoices - spec->n) + " with n " + std::to_string(spec->n));
  }
  if (spec->stop.size() > static_cast<size_t>(kMaxStops)) {
    return Bad("stop: " + std::to_string(spec->stop.size()) + " strings, at most " +
               std::to_string(kMaxStops));
  }
  for (size_t i = 0; i < spec->stop.size(); ++i) {
    const std::string& s = spec->stop[i];
    const std::string field = "stop[" + std::to_string(i) + "]";
    if (s.empty() || s.size() > kMaxStopBytes) {
      return Bad(field + ": " + std::to_string(s.size()) + " bytes, must be 1 to " +
                 std::to_string(kMaxStopBytes));
    }
    if (!IsValidUtf8(s)) return Bad(field + ": not UTF-8");
  }
  const sampling::SamplingParams& p = spec->sampling;
  if (spec->has_max_tokens && p.max_tokens < 0) {
    return Bad("sampling.max_tokens: " + std::to_string(p.max_tokens) + ", must be at least 0");
  }
  if (p.stop_ids.size() > limits::kMaxStopIds) {
    return Bad("sampling.stop_ids: " + std::to_string(p.stop_ids.size()) + " ids, at most 64");
  }
  if (p.logit_bias.size() > limits::kMaxLogitBias) {
    return Bad("sampling.logit_bias: " + std::to_string(p.logit_bias.size()) +
               " entries, at most 1024");
  }
  if (p.num_beams > 1) {
    if (spec->n != 1)
      return Bad("n: must be 1 with sampling.num_beams > 1; use sampling.num_return");
    if (!spec->stop.empty()) return Bad("stop: cannot be used with sampling.num_beams > 1");
    if (spec->first_choice != 0)
      return Bad("first_choice: must be 0 with sampling.num_beams > 1, which draws no noise");
  }
  if (!spec->traceparent.empty() && !IsTraceparent(spec->traceparent)) spec->traceparent.clear();
  return absl::OkStatus();
}

absl::Status ValidateForModel(RequestSpec* spec, std::span<const int32_t> prompt_ids,
                              const ModelInfo& model) {
  if (prompt_ids.empty()) return Bad("prompt: has no tokens; a prompt needs at least one");
  for (size_t i = 0; i < prompt_ids.size(); ++i) {
    if (prompt_ids[i] < 0 || prompt_ids[i] >= model.vocab_size) {
      return Bad("token_ids[" + std::to_string(i) + "]: " + std::to_string(prompt_ids[i]) +
                 ", the vocabulary has ids 0 to " + std::to_string(model.vocab_size - 1));
    }
  }
  const int64_t prompt = static_cast<int64_t>(prompt_ids.size());
  const bool scoring = spec->has_max_tokens && spec->sampling.max_tokens == 0;
  if (prompt > model.context_tokens || (prompt == model.context_tokens && !scoring)) {
    // LiteLLM and LangChain look for the first words.
    const bool chat = std::holds_alternative<ChatPrompt>(spec->prompt);
    return WithReason(
        Bad((chat ? "messages: " : "prompt: ") +
            ("This model's maximum context length is " + std::to_string(model.context_tokens)) +
            " tokens, but the prompt has " + std::to_string(prompt) + " tokens" +
            (scoring ? "" : " and the output needs room") + "; shorten it"),
        "CONTEXT_LENGTH_EXCEEDED");
  }
  const int32_t room = model.context_tokens - static_cast<int32_t>(prompt);
  if (!spec->has_max_tokens || spec->sampling.max_tokens > room) spec->sampling.max_tokens = room;
  const absl::Status status = spec->sampling.Validate(model.vocab_size);
  if (status.ok()) return status;
  return absl::Status(status.code(), "sampling." + std::string(status.message()));
}

}  // namespace tutti::router
