// One request and the way to answer it, from any thread, whole or piece by piece.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include "shared/http/message.h"

namespace tutti::http {

// What the connection and the handler share of one exchange. Of the server.
class ExchangeCore;

// The handler's side. An exchange that goes away without an answer is answered 500; a stream
// without an end is broken off. Thread safety: all methods, from any thread. None blocks, none
// calls back inside the call.
class Exchange {
 public:
  explicit Exchange(std::shared_ptr<ExchangeCore> core);
  ~Exchange();
  Exchange(const Exchange&) = delete;
  Exchange& operator=(const Exchange&) = delete;

  const Request& request() const;
  std::chrono::steady_clock::time_point start() const;  // when the request was complete

  // The whole answer. Only the first of Respond and StartStream counts.
  void Respond(Response response);

  // An answer in pieces: status and headers go to the client at once (response.body is its first
  // piece). `filler` is text that means nothing in such a stream (": \n\n" of server-sent events):
  // the server sends it while the stream is silent, between two pieces, so that the client and what
  // stands between know that the answer lives, and a client that has gone is noticed.
  void StartStream(Response response, std::string filler = "");
  void Write(std::string_view piece);
  void Finish();  // the stream is complete
  // The stream cannot be completed: the connection is cut, so that the client does not take what it
  // has for the whole.
  void Break();

  // Bytes of the stream that the client's connection has not taken yet. Who writes should pause
  // while they are many, until OnDrained. The function is called once, when they are few, or when
  // the client has gone.
  size_t unsent() const;
  void OnDrained(std::function<void()> drained);

  // The client has gone: the answer has no reader. The function is called once, as soon as that is
  // known; at once (from the loop's thread) when it is known already.
  bool gone() const;
  void OnGone(std::function<void()> gone);

 private:
  const std::shared_ptr<ExchangeCore> core_;
};

}  // namespace tutti::http
