#include "tools/cli/http_api.h"

#include <httplib.h>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "shared/base/strings.h"
#include "tools/cli/cancel_watch.h"

namespace tutti::cli {
namespace {

using nlohmann::json;

constexpr size_t kMaxRefusalBytes = 64 << 10;
constexpr size_t kMaxLineBytes = 64 << 20;
constexpr int kReadTimeoutS = 600;

absl::StatusCode CodeOf(int http_status) {
  switch (http_status) {
    case 401:
      return absl::StatusCode::kUnauthenticated;
    case 403:
      return absl::StatusCode::kPermissionDenied;
    case 404:
      return absl::StatusCode::kNotFound;
    case 408:
    case 504:
      return absl::StatusCode::kDeadlineExceeded;
    case 409:
      return absl::StatusCode::kAlreadyExists;
    case 429:
      return absl::StatusCode::kResourceExhausted;
    case 502:
    case 503:
      return absl::StatusCode::kUnavailable;
    default:
      return http_status >= 400 && http_status < 500 ? absl::StatusCode::kInvalidArgument
                                                     : absl::StatusCode::kInternal;
  }
}

// Why there was no answer at all.
absl::Status NoAnswer(const Endpoint& endpoint, httplib::Error error) {
  const char* why = "the connection broke";
  if (error == httplib::Error::Connection || error == httplib::Error::ConnectionTimeout)
    why = "nobody answers there";
  if (error == httplib::Error::SSLConnection) why = "it does not speak TLS, or not with us";
  if (error == httplib::Error::SSLLoadingCerts)
    why = "a file of --tls-ca, --tls-cert or --tls-key cannot be read as PEM";
  if (error == httplib::Error::SSLServerVerification)
    why = "the server's certificate is not trusted; --tls-ca FILE names its authority";
  return absl::UnavailableError(endpoint.address + ": " + why);
}

// The message of {"error":{"message":...,"param":...}}; "" when it is not of that shape.
std::string MessageOf(const json& error) {
  if (!error.is_object() || !error.contains("message") || !error["message"].is_string()) return "";
  std::string message = Printable(error["message"].get_ref<const std::string&>(), 2000);
  if (error.contains("param") && error["param"].is_string()) {
    const std::string param = Printable(error["param"].get_ref<const std::string&>(), 100);
    if (!message.starts_with(param)) message = param + ": " + message;
  }
  return message;
}

absl::Status Refusal(const httplib::Response& r, const std::string& body) {
  const json j = json::parse(body, nullptr, false);
  std::string message = j.is_object() && j.contains("error") ? MessageOf(j["error"]) : "";
  if (message.empty()) message = absl::StrCat("HTTP status ", r.status, ": ", Printable(body, 300));
  absl::Status status(CodeOf(r.status), message);
  int seconds = 0;
  if (absl::SimpleAtoi(r.get_header_value("Retry-After"), &seconds) && seconds >= 0)
    status = WithRetryAfterMs(std::move(status), int64_t{1000} * seconds);
  return status;
}

}  // namespace

void EventLines::Push(std::string_view bytes,
                      const std::function<void(std::string_view)>& on_data) {
  pending_.append(bytes);
  size_t begin = 0;
  for (size_t end; (end = pending_.find('\n', begin)) != pending_.npos; begin = end + 1) {
    std::string_view line = std::string_view(pending_).substr(begin, end - begin);
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (!line.starts_with("data:")) continue;
    line.remove_prefix(5);
    if (line.starts_with(' ')) line.remove_prefix(1);
    on_data(line);
  }
  pending_.erase(0, begin);
}

HttpApi::HttpApi(Endpoint endpoint)
    : endpoint_(std::move(endpoint)),
      client_(endpoint_.tls.cert_file.empty()
                  ? std::make_unique<httplib::Client>(endpoint_.address)
                  : std::make_unique<httplib::Client>(endpoint_.address, endpoint_.tls.cert_file,
                                                      endpoint_.tls.key_file)) {
  client_->set_keep_alive(true);
  client_->set_tcp_nodelay(true);
  client_->set_connection_timeout(10, 0);
  client_->set_read_timeout(kReadTimeoutS, 0);
  if (endpoint_.tls.AsClient()) client_->set_ca_cert_path(endpoint_.tls.ca_file);
  client_->enable_server_certificate_verification(true);
  if (!endpoint_.api_key.empty()) client_->set_bearer_token_auth(endpoint_.api_key);
}
HttpApi::~HttpApi() = default;

absl::StatusOr<json> HttpApi::Parse(const std::string& path, const std::string& body) const {
  json j = json::parse(body, nullptr, false);
  if (j.is_object()) return j;
  return absl::InternalError(absl::StrCat(
      endpoint_.address, path, ": the answer is no JSON object: ", Printable(body, 200)));
}

absl::StatusOr<json> HttpApi::Get(const std::string& path) {
  const auto r = client_->Get(path);
  if (!r) {
    return NoAnswer(endpoint_, r.error());
  }
  if (r->status != 200) return Refusal(*r, r->body);
  return Parse(path, r->body);
}

absl::StatusOr<json> HttpApi::Post(const std::string& path, const json& body,
                                   const std::atomic<bool>* stop) {
  const CancelWatch watch(stop, [this] { client_->stop(); });
  const auto r = client_->Post(path, body.dump(), "application/json");
  if (!r) {
    if (stop != nullptr && stop->load()) return absl::CancelledError("interrupted");
    return NoAnswer(endpoint_, r.error());
  }
  if (r->status != 200) return Refusal(*r, r->body);
  return Parse(path, r->body);
}

absl::Status HttpApi::Stream(const std::string& path, const json& body,
                             const std::function<void(const json&)>& on_event,
                             const std::atomic<bool>* stop) {
  httplib::Request request;
  request.method = "POST";
  request.path = path;
  request.set_header("Content-Type", "application/json");
  request.body = body.dump();
  int status = 0;
  request.response_handler = [&](const httplib::Response& r) {
    status = r.status;
    return true;
  };
  EventLines events;
  std::string refused;
  absl::Status failed;
  bool done = false;
  request.content_receiver = [&](const char* data, size_t size, uint64_t, uint64_t) {
    if (status != 200) {
      refused.append(data, std::min(size, kMaxRefusalBytes - refused.size()));
      return true;
    }
    events.Push({data, size}, [&](std::string_view text) {
      if (text == "[DONE]") {
        done = true;
        return;
      }
      const json j = json::parse(text.begin(), text.end(), nullptr, false);
      if (!j.is_object()) return;
      if (j.contains("error")) {
        failed = absl::InternalError(MessageOf(j["error"]));
      } else {
        on_event(j);
      }
    });
    return events.pending_bytes() <= kMaxLineBytes && (stop == nullptr || !stop->load());
  };
  const CancelWatch watch(stop, [this] { client_->stop(); });
  const auto r = client_->send(request);
  if (stop != nullptr && stop->load() && !done) return absl::CancelledError("interrupted");
  if (!r) {
    return NoAnswer(endpoint_, r.error());
  }
  if (r->status != 200) return Refusal(*r, refused + r->body);
  TUTTI_RETURN_IF_ERROR(failed);
  if (!done)
    return absl::InternalError(endpoint_.address + path + ": the stream ended without [DONE]");
  return absl::OkStatus();
}

absl::StatusOr<std::string> HttpApi::FirstModel() {
  TUTTI_ASSIGN_OR_RETURN(const json j, Get("/v1/models"));
  if (j.contains("data") && j["data"].is_array() && !j["data"].empty() &&
      j["data"][0].is_object() && j["data"][0].contains("id") && j["data"][0]["id"].is_string()) {
    return j["data"][0]["id"].get<std::string>();
  }
  return absl::UnavailableError(endpoint_.address + "/v1/models: no model is listed in " +
                                Printable(j.dump(), 200));
}

}  // namespace tutti::cli
