#include "services/gateway/api_error.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "shared/base/strings.h"

namespace tutti::gateway {
namespace {

constexpr char kParamUrl[] = "tutti/param";
constexpr char kCodeUrl[] = "tutti/code";

std::string Payload(const absl::Status& status, const char* url) {
  const auto payload = status.GetPayload(url);
  return payload.has_value() ? std::string(*payload) : "";
}

// Fields of GenerateRequest as the HTTP API names them; "" when it is none.
std::string HttpName(std::string_view field) {
  static constexpr std::pair<std::string_view, std::string_view> kNames[] = {
      {"text", "prompt"},
      {"token_ids", "prompt"},
      {"prompt", "prompt"},
      {"ids", "tokens"},
      {"chat", "messages"},
      {"messages", "messages"},
      {"messages_json", "messages"},
      {"tools", "tools"},
      {"tools_json", "tools"},
      {"variables_json", "chat_template_kwargs"},
      {"chat.messages_json", "messages"},
      {"chat.tools_json", "tools"},
      {"chat.variables_json", "chat_template_kwargs"},
      {"sampling.stop_ids", "stop_token_ids"},
      {"sampling.num_return", "n"},
      {"sampling.prompt_logprobs", "logprobs"},
      {"model", "model"},
      {"n", "n"},
      {"stop", "stop"},
      {"request_id", "X-Request-Id"},
  };
  const std::string_view base = field.substr(0, field.find('['));
  for (const auto& [ours, theirs] : kNames) {
    if (base == ours) return std::string(theirs) + std::string(field.substr(base.size()));
  }
  // A place inside: "messages_json[0].content", "variables_json.a".
  for (const std::string_view ours :
       {"messages", "messages_json", "tools_json", "variables_json"}) {
    if (!field.starts_with(ours) || field.find(' ') != field.npos) continue;
    const std::string_view rest = field.substr(ours.size());
    if (rest.starts_with('.') || rest.starts_with('[')) return HttpName(ours) + std::string(rest);
  }
  if (field.starts_with("sampling.") && field.find(' ') == std::string_view::npos) {
    return std::string(field.substr(9));
  }
  return "";
}

// Without the names of the hops that a bad request went through ("router: tokenizer[x]: ..."): to
// its sender they are no path.
void DropHops(ApiError* error) {
  for (bool again = true; again;) {
    again = false;
    for (const std::string_view hop : {"router", "tokenizer", "target", "draft"}) {
      std::string_view rest = error->message;
      if (!rest.starts_with(hop)) continue;
      rest.remove_prefix(hop.size());
      if (rest.starts_with("[")) rest.remove_prefix(std::min(rest.find(']') + 1, rest.size()));
      if (!rest.starts_with(": ")) continue;
      error->message = std::string(rest.substr(2));
      again = true;
    }
  }
}

// Moves the field's name from the front of the message into `param`.
void SplitField(ApiError* error) {
  // "sampling.top_p: ..." or "sampling.top_p is ..."
  const bool sampling = error->message.starts_with("sampling.");
  const size_t end = sampling ? error->message.find_first_of(": ") : error->message.find(": ");
  if (end == std::string::npos) return;
  const std::string name = HttpName(std::string_view(error->message).substr(0, end));
  if (name.empty()) return;
  error->param = name;
  error->message = name + error->message.substr(end);
}

std::string Lower(std::string s) {
  std::transform(s.begin(), s.end(), s.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  return s;
}

}  // namespace

absl::Status BadParam(std::string_view param, std::string_view message, std::string_view code) {
  absl::Status status = absl::InvalidArgumentError(
      (param.empty() ? "" : std::string(param) + ": ") + std::string(message));
  if (!param.empty()) status.SetPayload(kParamUrl, absl::Cord(ToAbsl(param)));
  if (!code.empty()) status.SetPayload(kCodeUrl, absl::Cord(ToAbsl(code)));
  return status;
}

ApiError ErrorFromStatus(const absl::Status& status) {
  ApiError e;
  e.message = std::string(status.message());
  e.param = Payload(status, kParamUrl);
  e.code = Payload(status, kCodeUrl);
  if (e.code.empty()) e.code = Lower(ReasonOf(status));
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
      e.http_status = 400;
      e.type = "invalid_request_error";
      break;
    case absl::StatusCode::kUnauthenticated:
      e.http_status = 401;
      e.type = "invalid_request_error";
      if (e.code.empty()) e.code = "invalid_api_key";
      break;
    case absl::StatusCode::kPermissionDenied:
      e.http_status = 403;
      e.type = "permission_error";
      break;
    case absl::StatusCode::kNotFound:
      e.http_status = 404;
      e.type = "invalid_request_error";
      break;
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kAborted:
      e.http_status = 409;
      e.type = "invalid_request_error";
      break;
    case absl::StatusCode::kResourceExhausted:
      e.http_status = 429;
      e.type = "rate_limit_error";
      e.retry_after_s = 1;
      if (e.code.empty()) e.code = "overloaded";
      break;
    case absl::StatusCode::kUnavailable:
      e.http_status = 503;
      e.type = "server_error";
      e.retry_after_s = 1;
      if (e.code.empty()) e.code = "unavailable";
      break;
    case absl::StatusCode::kDeadlineExceeded:
      e.http_status = 504;
      e.type = "server_error";
      if (e.code.empty()) e.code = "timeout";
      break;
    case absl::StatusCode::kCancelled:
      e.http_status = 499;
      e.type = "server_error";
      if (e.code.empty()) e.code = "cancelled";
      break;
    case absl::StatusCode::kUnimplemented:
      e.http_status = 501;
      e.type = "server_error";
      break;
    default:
      e.http_status = 500;
      e.type = "server_error";
      break;
  }
  if (e.http_status == 400) DropHops(&e);
  if (e.param.empty() && e.http_status < 500) SplitField(&e);
  if (e.http_status == 400 && !e.param.empty() && e.code.empty()) e.code = "invalid_value";
  // A template's own refusal, its limits and its errors are about the messages.
  if (e.param.empty() && e.message.starts_with("template:") && e.code.empty())
    e.code = "template_error";
  if (e.param.empty() && e.code.starts_with("template_")) e.param = "messages";
  if (const int64_t ms = RetryAfterMs(status); ms >= 0 && e.http_status != 400) {
    e.retry_after_s = static_cast<int>(std::clamp<int64_t>((ms + 999) / 1000, 1, 3600));
  }
  return e;
}

std::string ErrorJson(const ApiError& error) {
  const auto or_null = [](const std::string& s) {
    return s.empty() ? nlohmann::ordered_json(nullptr) : nlohmann::ordered_json(s);
  };
  const nlohmann::ordered_json j = {{"error",
                                     {{"message", error.message},
                                      {"type", error.type},
                                      {"param", or_null(error.param)},
                                      {"code", or_null(error.code)}}}};
  return j.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace tutti::gateway
