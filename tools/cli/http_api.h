// A client of an OpenAI-compatible API over one kept connection: Tutti's gateway or any other
// server.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "shared/base/status.h"
#include "tools/cli/where.h"

namespace httplib {
class Client;
}

namespace tutti::cli {

// Takes the events of a text/event-stream out of its bytes.
class EventLines {
 public:
  // The data of each event that `bytes` completes, without the field's name; comments and other
  // fields are dropped.
  void Push(std::string_view bytes, const std::function<void(std::string_view)>& on_data);
  // Of a line whose end has not come.
  size_t pending_bytes() const { return pending_.size(); }

 private:
  std::string pending_;
};

// Thread safety: one call at a time.
class HttpApi {
 public:
  // REQUIRES: endpoint.http. Connects when first used.
  explicit HttpApi(Endpoint endpoint);
  ~HttpApi();

  // The JSON object that the server answers. Errors: UNAVAILABLE  nobody answers there; CANCELLED
  // `stop` (may be null) became true; a refusal of the server with the status that belongs to its
  // HTTP code, its message, and Retry-After (WithRetryAfterMs)
  absl::StatusOr<nlohmann::json> Get(const std::string& path);
  absl::StatusOr<nlohmann::json> Post(const std::string& path, const nlohmann::json& body,
                                      const std::atomic<bool>* stop = nullptr);
  // Posts and hands on each event that is a JSON object, until the end mark.
  // Errors: as Post; INTERNAL  the stream ended without its mark; an error that came as an event
  absl::Status Stream(const std::string& path, const nlohmann::json& body,
                      const std::function<void(const nlohmann::json&)>& on_event,
                      const std::atomic<bool>* stop = nullptr);
  // The id of the first model that the server lists.
  absl::StatusOr<std::string> FirstModel();

 private:
  absl::StatusOr<nlohmann::json> Parse(const std::string& path, const std::string& body) const;

  const Endpoint endpoint_;
  std::unique_ptr<httplib::Client> client_;
};

}  // namespace tutti::cli
