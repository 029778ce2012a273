// What a connection and a handler share of one exchange: the connection takes what the handler
// gives. Internal to the server.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "shared/http/event_loop.h"
#include "shared/http/message.h"

namespace tutti::http {

// Bytes of request bodies held by all connections of a server, and their bound. Thread-safe.
class BodyBudget {
 public:
  explicit BodyBudget(size_t max) : max_(max) {}
  bool Take(size_t bytes) {
    if (used_.fetch_add(bytes) + bytes <= max_) return true;
    used_ -= bytes;
    return false;
  }
  void Give(size_t bytes) { used_ -= bytes; }
  size_t used() const { return used_; }

 private:
  const size_t max_;
  std::atomic<size_t> used_{0};
};

class ExchangeCore {
 public:
  // `news` runs in the loop's thread after the handler gave something; several gifts may share one.
  ExchangeCore(std::shared_ptr<EventLoop> loop, Request request, std::shared_ptr<BodyBudget> budget,
               size_t body_bytes, std::function<void()> news)
      : loop_(std::move(loop)),
        request_(std::move(request)),
        budget_(std::move(budget)),
        body_bytes_(body_bytes),
        news_(std::move(news)) {}
  ~ExchangeCore() { budget_->Give(body_bytes_); }

  const Request& request() const { return request_; }

  // --- the handler's side, any thread ---
  void Respond(Response response, bool stream, std::string filler);
  void Write(std::string_view piece);
  void End(bool complete);
  void HandlerGone();
  size_t unsent() const { return unsent_; }
  bool gone() const { return gone_; }
  void OnDrained(std::function<void()> drained);
  void OnGone(std::function<void()> gone);

  // --- the connection's side, the loop's thread ---
  struct News {
    std::optional<Response> head;  // once
    bool stream = false;           // of head
    std::string data;
    bool ended = false, broken = false;
  };
  News Take();
  bool HasEnded() const;
  std::string filler() const;
  // The client has gone; what the handler still gives is dropped.
  void ClientGone();

  const EventLoop::Clock::time_point start = EventLoop::Clock::now();

 private:
  void Notify(std::unique_lock<std::mutex> lock);

  const std::shared_ptr<EventLoop> loop_;
  const Request request_;
  const std::shared_ptr<BodyBudget> budget_;
  const size_t body_bytes_;
  std::atomic<size_t> unsent_{0};
  std::atomic<bool> gone_{false};
  mutable std::mutex mutex_;  // guards what follows
  std::function<void()> news_;
  std::optional<Response> head_;
  bool answered_ = false, stream_ = false, ended_ = false, broken_ = false, notified_ = false;
  std::string data_, filler_;
  std::function<void()> on_drained_, on_gone_;
};

}  // namespace tutti::http
