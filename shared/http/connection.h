// One connection of a client: reads requests, hands them on, writes answers. Internal to the
// server. Thread safety: the loop's thread alone.
#pragma once

#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <string>

#include "shared/http/event_loop.h"
#include "shared/http/exchange_core.h"
#include "shared/http/server.h"
#include "shared/http/socket_stream.h"

namespace tutti::http {

// What the connections of one loop share.
struct LoopShared {
  std::shared_ptr<EventLoop> loop;
  std::list<class Connection*> idle;  // longest idle first
  std::string date;                   // "Date: ...\r\n" of date_s
  int64_t date_s = -1;
  std::function<void(class Connection*)> closed;
};

class Connection final : public EventLoop::Watcher,
                         public std::enable_shared_from_this<Connection> {
 public:
  Connection(Server* server, LoopShared* shared, std::unique_ptr<SocketStream> stream,
             std::string peer, bool loopback);
  ~Connection() override;

  void Start();
  // Tells a connection too many, and closes it.
  void StartRejected();
  // The server stops: closes now if nothing is being asked, else after the answer.
  void Drain();
  void Close();

  void OnEvents(uint32_t events) override;

 private:
  using Clock = EventLoop::Clock;
  enum class State { kReading, kAnswering, kLingering, kClosed };

  void ReadSome();
  void Process(std::string_view bytes);
  void HeadComplete();
  void Dispatch();
  void Refuse(int status, const std::string& message);
  void SendWhole(const Response& response, bool keep_alive);
  void OnNews();
  void AppendHead(const Response& response, bool stream);
  void AppendData(std::string_view data);
  void Flush();
  void AnswerComplete();
  void Linger();
  void OnEnd();      // the client's sending side ended
  void SendProbe();  // a byte that must come anyway, to learn whether the client is still there
  Clock::time_point Deadline() const;  // of what is waited for now
  void OnDeadline();
  void Settle();  // interest and deadline after anything has happened
  void Arm(Clock::time_point when);
  bool TakeBudget(size_t bytes);
  void BecomeIdle(bool idle);

  Server* const server_;
  LoopShared* const shared_;
  const std::unique_ptr<SocketStream> stream_;
  const std::string peer_;
  const bool loopback_;
  State state_ = State::kReading;
  RequestParser parser_;
  bool head_seen_ = false;
  std::optional<Response> refusal_;  // sent when the body has been read over
  std::string input_;                // came behind the request that is being answered
  int num_requests_ = 0;
  size_t budget_held_ = 0;

  std::shared_ptr<ExchangeCore> exchange_;
  uint64_t exchange_number_ = 0;
  bool keep_alive_ = true, head_request_ = false, http10_ = false;
  bool streaming_ = false, chunked_ = false, answer_ended_ = false;
  size_t prefix_sent_ = 0;  // bytes of "HTTP/1.1 " that went as probes

  std::string out_;
  size_t out_at_ = 0;
  bool half_closed_ = false;  // the client's sending side has ended
  uint32_t interest_ = 0;
  size_t lingered_bytes_ = 0;

  Clock::time_point idle_since_, request_began_, body_began_, last_progress_, last_write_,
      next_probe_, linger_until_;
  Clock::time_point armed_ = Clock::time_point::max();
  std::list<Connection*>::iterator idle_at_;
  bool is_idle_ = false;
};

}  // namespace tutti::http
