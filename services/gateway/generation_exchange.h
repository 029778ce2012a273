// One request for a generation: from the router's streams to the client's answer.
#pragma once

#include <memory>
#include <mutex>
#include <string>

#include "services/gateway/gateway.h"
#include "services/gateway/openai_request.h"
#include "services/gateway/openai_response.h"

namespace tutti::gateway {

// Thread safety: all methods. Events of the router (its queue's threads), of the client and of
// timers (io threads) meet here under one lock; none waits.
class GenerationExchange : public std::enable_shared_from_this<GenerationExchange> {
 public:
  GenerationExchange(Gateway* gateway, std::shared_ptr<http::Exchange> exchange, Gateway::Call call,
                     ApiRequest request, bool chat);

  void Start();
  // Ends now, with an error of status 503.
  void Stop();

 private:
  void OnMessage(size_t prompt, const generation::v1::GenerateResponse& message);
  void OnDone(const absl::Status& status);
  void OnClientGone();
  void StartStreamLocked();
  void SendLocked(std::string_view events);
  void EndLocked(int status, const std::string& error);

  Gateway* const gateway_;
  const std::shared_ptr<http::Exchange> exchange_;
  const Gateway::Call call_;
  ApiRequest request_;
  const std::shared_ptr<const void> alive_;  // the gateway waits for it
  std::mutex mutex_;                         // guards what follows
  ResponseBuilder builder_;
  std::shared_ptr<GenerationStreams> streams_;
  double first_token_s_ = -1;
  bool streaming_ = false;  // the headers are out
  bool paused_ = false, ended_ = false;
};

}  // namespace tutti::gateway
