// The server over real sockets: what the wire carries whatever a client does.
#include "shared/http/server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <regex>
#include <thread>

namespace tutti::http {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

// Routes by path: "/echo" the body, "/hold" until Release, "/stream" three pieces, "/big" many,
// "/hidden" counts itself; anything else its own path.
class ServerTest : public ::testing::Test {
 protected:
  void Start(Limits limits = {}) {
    server_ = std::make_unique<Server>(
        limits,
        Server::Callbacks{.handle = [this](std::shared_ptr<Exchange> e) { Handle(std::move(e)); },
                          .check_head = [](const Request& q) -> std::optional<Response> {
                            if (q.path != "/refused") return std::nullopt;
                            Response r;
                            r.status = 403;
                            return r;
                          }});
    ASSERT_TRUE(server_->Bind("127.0.0.1:0").ok());
    server_->Start();
    port_ = std::stoi(server_->address().substr(server_->address().rfind(':') + 1));
  }
  void TearDown() override {
    Release();
    for (const int fd : fds_) close(fd);
    server_.reset();
  }

  void Handle(std::shared_ptr<Exchange> e) {
    const std::string& path = e->request().path;
    ++requests_;
    if (path == "/hidden") ++hidden_;
    Response r;
    r.headers.Add("Content-Type", "text/plain");
    if (path == "/hold") {
      e->OnGone([this] { ++gone_; });
      std::lock_guard lock(mutex_);
      held_.push_back(std::move(e));
      return;
    }
    if (path == "/stream" || path == "/silent") {
      e->OnGone([this] { ++gone_; });
      e->StartStream(r, ":\n");
      if (path == "/silent") {
        std::lock_guard lock(mutex_);
        held_.push_back(std::move(e));
        return;
      }
      for (const char* piece : {"one ", "two ", "three"}) e->Write(piece);
      return e->Finish();
    }
    if (path == "/big") {
      e->StartStream(r);
      More(std::move(e), 0);
      return;
    }
    if (path == "/nothing") return;  // the handler forgets it
    r.body = path == "/echo" ? e->request().body : path;
    r.headers.Add("X-Odd", "a\r\nInjected: b");
    e->Respond(std::move(r));
  }
  // 64 pieces of 1 MB, no more than one of them waiting.
  void More(std::shared_ptr<Exchange> e, int i) {
    if (e->gone()) {
      ++gone_;
      return;
    }
    if (i == 64) return e->Finish();
    e->Write(std::string(1 << 20, 'x'));
    unsent_max_ = std::max(unsent_max_.load(), e->unsent());
    e->OnDrained([this, e, i] { More(e, i + 1); });
  }
  void Release() {
    std::vector<std::shared_ptr<Exchange>> held;
    {
      std::lock_guard lock(mutex_);
      held.swap(held_);
    }
    for (const auto& e : held) e->Respond({.body = "released"});
  }
  size_t held() {
    std::lock_guard lock(mutex_);
    return held_.size();
  }

  int Connect(int receive_buffer = 0) {
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (receive_buffer > 0)
      setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer);
    sockaddr_in a{};
    a.sin_family = AF_INET;
    a.sin_port = htons(static_cast<uint16_t>(port_));
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&a), sizeof a), 0);
    timeval t{60, 0};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
    fds_.push_back(fd);
    return fd;
  }
  void CloseNow(int fd) {
    std::erase(fds_, fd);
    close(fd);
  }
  static void Send(int fd, std::string_view text) {
    while (!text.empty()) {
      const ssize_t n = send(fd, text.data(), text.size(), MSG_NOSIGNAL);
      if (n <= 0) return;
      text.remove_prefix(static_cast<size_t>(n));
    }
  }
  // Until the server ends the connection.
  static std::string ReadAll(int fd) {
    std::string got;
    char buffer[65536];
    for (ssize_t n; (n = recv(fd, buffer, sizeof buffer, 0)) > 0;)
      got.append(buffer, static_cast<size_t>(n));
    return got;
  }
  static std::string ReadUntil(int fd, const std::string& what) {
    std::string got;
    char c;
    while (got.find(what) == got.npos && recv(fd, &c, 1, 0) == 1) got += c;
    return got;
  }
  static std::vector<int> Statuses(const std::string& bytes) {
    std::vector<int> out;
    for (size_t at = 0; (at = bytes.find("HTTP/1.1 ", at)) != bytes.npos; ++at)
      if (const int status = std::atoi(bytes.c_str() + at + 9); status > 0) out.push_back(status);
    return out;
  }
  bool Eventually(const std::function<bool()>& condition) {
    for (int i = 0; i < 12000; ++i) {
      if (condition()) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return false;
  }

  std::atomic<int> requests_{0}, hidden_{0}, gone_{0};
  std::atomic<size_t> unsent_max_{0};
  std::mutex mutex_;
  std::vector<std::shared_ptr<Exchange>> held_;
  std::vector<int> fds_;
  std::unique_ptr<Server> server_;
  int port_ = 0;
};

constexpr char kHidden[] = "GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n";

TEST_F(ServerTest, WhatStandsBehindAMalformedRequestIsNeverRun) {
  Start();
  const std::string post = "POST /echo HTTP/1.1\r\nHost: x\r\n";
  const std::string te = post + "Transfer-Encoding: chunked\r\n";
  const std::pair<std::string, int> cases[] = {
      {"FOO\r\n\r\n", 400},
      {"GET / HTTP/3.0\r\n\r\n", 505},
      {"GET / HTTP/1.1\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\nHost : x\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n", 400},
      {"GET / HTTP/1.1\nHost: x\n\n", 400},
      {post + "Content-Length: 2\r\nContent-Length: 40\r\n\r\n{}", 400},
      {post + "Content-Length: abc\r\n\r\n", 400},
      {post + "Content-Length: 99999999\r\n\r\n", 413},
      {te + "Content-Length: 4\r\n\r\n0\r\n\r\n", 400},
      {te + "\r\nzz\r\n{}\r\n0\r\n\r\n", 400},
      {te + "\r\n1\r\n{}\r\n0\r\n\r\n", 400},
      {te + "\r\n0\r\nbad trailer\r\n\r\n", 400},
      {post + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501},
      {post + "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400},
      {"POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
      {"GET /" + std::string(20000, 'a') + " HTTP/1.1\r\nHost: x\r\n\r\n", 414},
      {"GET / HTTP/1.1\r\nHost: x\r\nA: " + std::string(20000, 'a') + "\r\n\r\n", 431},
      {post + "Expect: 200-ok\r\nContent-Length: 0\r\n\r\n", 417},
      // Refused by the handler's side, with a body that the client may or may not send.
      {"POST /refused HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
       403},
      {"POST /refused HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", 403},
  };
  for (const auto& [bytes, status] : cases) {
    const int fd = Connect();
    Send(fd, bytes + kHidden);
    const std::string got = ReadAll(fd);  // the server closes
    EXPECT_THAT(Statuses(got), ElementsAre(status)) << bytes.substr(0, 300);
    EXPECT_THAT(got, HasSubstr("Connection: close")) << bytes.substr(0, 300);
    EXPECT_THAT(got, HasSubstr("\r\nDate: ")) << bytes.substr(0, 300);
    CloseNow(fd);
  }
  EXPECT_EQ(hidden_, 0);
}

TEST_F(ServerTest, ABodyBelongsToItsRequestWhateverTheMethod) {
  Start();
  for (const std::string method : {"GET", "HEAD", "OPTIONS", "DELETE", "POST", "PUT", "X"}) {
    const int fd = Connect();
    Send(fd, method + " /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: " +
                 std::to_string(sizeof kHidden - 1) + "\r\n\r\n" + kHidden);
    EXPECT_THAT(Statuses(ReadAll(fd)), ElementsAre(200)) << method;
    CloseNow(fd);
  }
  EXPECT_EQ(hidden_, 0);
}

TEST_F(ServerTest, RequestsInOnePieceAreAnsweredInTheirOrder) {
  Start();
  const int fd = Connect();
  std::string all;
  for (int i = 0; i < 500; ++i) {
    all += "GET /n" + std::to_string(i) + " HTTP/1.1\r\nHost: x\r\n\r\n";
    if (i % 3 == 0) all += "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}";
  }
  Send(fd, all + "GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  const std::string got = ReadAll(fd);
  EXPECT_EQ(Statuses(got).size(), 668u);
  size_t at = 0;
  for (int i = 0; i < 500; ++i) {
    at = got.find("\r\n\r\n/n" + std::to_string(i) + "HTTP", at);
    ASSERT_NE(at, got.npos) << i;
  }
  EXPECT_THAT(got, ::testing::EndsWith("/last"));
}

TEST_F(ServerTest, VersionsAndMethodsGetTheFramingThatTheyUnderstand) {
  Start();
  const auto ask = [&](const std::string& request) {
    const int fd = Connect();
    Send(fd, request);
    return ReadAll(fd);
  };
  const std::string close = "Host: x\r\nConnection: close\r\n\r\n";
  EXPECT_THAT(ask("GET /stream HTTP/1.1\r\n" + close),
              ::testing::AllOf(HasSubstr("Transfer-Encoding: chunked"),
                               ::testing::EndsWith("\r\n\r\nd\r\none two three\r\n0\r\n\r\n")));
  const std::string old = ask("GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
  EXPECT_THAT(old, ::testing::AllOf(Not(HasSubstr("chunked")), HasSubstr("Connection: close"),
                                    ::testing::EndsWith("\r\n\r\none two three")));
  EXPECT_THAT(ask("GET /a HTTP/1.0\r\n\r\n"), HasSubstr("Content-Length: 2"));
  const std::string head = ask("HEAD /abc HTTP/1.1\r\n" + close);
  EXPECT_THAT(head,
              ::testing::AllOf(HasSubstr("Content-Length: 4"), ::testing::EndsWith("\r\n\r\n")));
  EXPECT_THAT(ask("HEAD /stream HTTP/1.1\r\n" + close), ::testing::EndsWith("\r\n\r\n"));
  EXPECT_THAT(ask("GET /nothing HTTP/1.1\r\n" + close), StartsWith("HTTP/1.1 500 "));
  // A header's value never ends its line.
  EXPECT_THAT(ask("GET /a HTTP/1.1\r\n" + close), Not(HasSubstr("\r\nInjected")));
}

TEST_F(ServerTest, ABodyIsAskedForBeforeItIsRead) {
  Start();
  const int fd = Connect();
  Send(fd, "POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-Continue\r\nContent-Length: 2\r\n\r\n");
  EXPECT_EQ(ReadUntil(fd, "\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
  Send(fd, "{}");
  EXPECT_THAT(ReadUntil(fd, "{}"), StartsWith("HTTP/1.1 200 OK"));
  // Small bodies of refused requests are read over: the connection goes on.
  Send(fd,
       "POST /refused HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}" + std::string(kHidden));
  EXPECT_THAT(ReadUntil(fd, "/hidden"), HasSubstr("403"));
  EXPECT_EQ(hidden_, 1);
}

TEST_F(ServerTest, AClientThatOnlySendsNoMoreIsAnsweredAndOneThatHasGoneIsNoticed) {
  Start({.filler_ms = 60'000});
  for (const char* path : {"/hold", "/silent"}) {
    const int before = gone_;
    const std::string request = "GET " + std::string(path) + " HTTP/1.1\r\nHost: x\r\n\r\n";
    // Closed: no write of a handler tells, the probe does.
    const int fd = Connect();
    Send(fd, request);
    ASSERT_TRUE(Eventually([&] { return held() == 1; }));
    if (std::string_view(path) == "/silent") ReadUntil(fd, "\r\n\r\n");
    CloseNow(fd);
    EXPECT_TRUE(Eventually([&] { return gone_ == before + 1; })) << path;
    Release();
  }
  const int fd = Connect();
  Send(fd, "GET /hold HTTP/1.1\r\nHost: x\r\n\r\nGET /second HTTP/1.1\r\nHost: x\r\n\r\n");
  ASSERT_TRUE(Eventually([&] { return held() == 1; }));
  shutdown(fd, SHUT_WR);
  char first[2] = {};
  ASSERT_EQ(recv(fd, first, 1, MSG_WAITALL), 1);  // a probe: the answer's own beginning
  EXPECT_EQ(held(), 1u);
  Release();
  const std::string got = first + ReadAll(fd);
  EXPECT_THAT(got, StartsWith("HTTP/1.1 200 OK\r\n"));
  EXPECT_THAT(got, HasSubstr("released"));
  EXPECT_THAT(Statuses(got), ElementsAre(200, 200));
  EXPECT_THAT(got, ::testing::EndsWith("/second"));
}

TEST_F(ServerTest, ASilentStreamSendsItsFiller) {
  Start({.filler_ms = 30});
  const int fd = Connect();
  Send(fd, "GET /silent HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_THAT(ReadUntil(fd, "2\r\n:\n\r\n2\r\n:\n\r\n"), StartsWith("HTTP/1.1 200 OK"));
}

TEST_F(ServerTest, ASlowReaderHoldsTheWriterBackAndNotMemory) {
  Start();
  const int fd = Connect(64 << 10);
  Send(fd, "GET /big HTTP/1.0\r\n\r\n");
  size_t total = 0;
  char buffer[65536];
  for (ssize_t n; (n = recv(fd, buffer, sizeof buffer, 0)) > 0;) total += static_cast<size_t>(n);
  EXPECT_GT(total, size_t{64} << 20);
  EXPECT_LE(unsent_max_, size_t{1} << 20);  // a piece is written when the last is gone
  const int slow = Connect(4096);
  Send(slow, "GET /big HTTP/1.0\r\n\r\n");
  ReadUntil(slow, "xxxx");
  CloseNow(slow);
  EXPECT_TRUE(Eventually([&] { return gone_ == 1; }));
}

TEST_F(ServerTest, WhatComesTooSlowlyIsCutOff) {
  Start({.idle_ms = 50, .header_ms = 50, .body_ms = 50, .write_ms = 100});
  const int silent = Connect();
  EXPECT_EQ(ReadAll(silent), "");  // closed without a word
  const int head = Connect();
  Send(head, "GET / HTTP/1.1\r\nHo");
  EXPECT_THAT(ReadAll(head), StartsWith("HTTP/1.1 408 "));
  const int body = Connect();
  Send(body, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{");
  EXPECT_THAT(ReadAll(body), StartsWith("HTTP/1.1 408 "));
  const int cut = Connect();
  Send(cut, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{");
  shutdown(cut, SHUT_WR);
  EXPECT_THAT(ReadAll(cut), StartsWith("HTTP/1.1 400 "));
  const int reader = Connect(4096);  // that does not read
  Send(reader, "GET /big HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_TRUE(Eventually([&] { return gone_ == 1; }));
}

TEST_F(ServerTest, BodiesAreBoundedTogether) {
  Start({.body_bytes_total = 3 << 20});
  const std::string post = "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2097152\r\n\r\n";
  const int first = Connect();
  Send(first, post + "x");
  ASSERT_TRUE(Eventually([&] { return server_->body_bytes() > 0; }));
  const int second = Connect();
  Send(second, post + "x");
  const std::string got = ReadAll(second);
  EXPECT_THAT(got, StartsWith("HTTP/1.1 503 "));
  EXPECT_THAT(got, HasSubstr("Retry-After"));
  CloseNow(first);
  EXPECT_TRUE(Eventually([&] { return server_->body_bytes() == 0; }));
}

TEST_F(ServerTest, AtTheLimitIdleConnectionsGiveWayAndThenNewOnesAreTold) {
  Start({.io_threads = 1, .connections = 2});
  const int idle = Connect(), busy = Connect();
  Send(busy, "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
  ASSERT_TRUE(Eventually([&] { return held() == 1; }));
  const int third = Connect();
  Send(third, "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_EQ(ReadAll(idle), "");
  ASSERT_TRUE(Eventually([&] { return held() == 2; }));
  const int fourth = Connect();
  EXPECT_THAT(ReadAll(fourth), StartsWith("HTTP/1.1 503 "));
  EXPECT_EQ(server_->rejected(), 1);
}

TEST_F(ServerTest, ManyIdleConnectionsAndStreamsHoldNobodyBack) {
  Start();
  for (int i = 0; i < 300; ++i) Connect();
  for (int i = 0; i < 300; ++i) Send(Connect(), "GET /silent HTTP/1.1\r\nHost: x\r\n\r\n");
  ASSERT_TRUE(Eventually([&] { return held() == 300; }));
  const int fd = Connect();
  Send(fd, "GET /a HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_THAT(ReadUntil(fd, "/a"), StartsWith("HTTP/1.1 200 OK"));
}

TEST_F(ServerTest, StopWaitsForAnswersAndForNothingElse) {
  Start();
  Connect();  // idle
  const int fd = Connect();
  Send(fd, "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
  ASSERT_TRUE(Eventually([&] { return held() == 1; }));
  std::thread stop([&] { server_->Stop(); });
  EXPECT_TRUE(Eventually([&] { return server_->connections() == 1; }));
  Release();
  const std::string got = ReadAll(fd);
  EXPECT_THAT(got, HasSubstr("released"));
  EXPECT_THAT(got, HasSubstr("Connection: close"));
  CloseNow(fd);
  stop.join();
}

}  // namespace
}  // namespace tutti::http
