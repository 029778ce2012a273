#include "shared/shm/connection.h"

#include <gmock/gmock.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>

#include "shared/testing/model_writer.h"

namespace tutti::shm {
namespace {

using ::testing::HasSubstr;

// Waits until one of `fds` is readable.
void Await(std::initializer_list<int> fds) {
  const Fd poll(::epoll_create1(0));
  for (const int fd : fds) {
    epoll_event event{.events = EPOLLIN, .data = {.fd = fd}};
    ASSERT_EQ(::epoll_ctl(poll.get(), EPOLL_CTL_ADD, fd, &event), 0);
  }
  epoll_event event{};
  ASSERT_EQ(::epoll_wait(poll.get(), &event, 1, 10'000), 1) << "nothing came";
}

class ConnectionTest : public ::testing::Test {
 protected:
  // Answers with what it is sent, until the other side goes.
  void Echo() {
    auto listener = *Listener::Listen(path_);
    const Fd bell = *MakeDoorbell();
    Await({listener->socket()});
    auto c = listener->Accept(bell.get());
    Await({c->socket()});
    if (!c->OnSocket().ok()) return;
    for (;;) {
      while (const auto m = c->in().Next()) {
        std::memcpy(c->Reserve(m->size()), m->data(), m->size());
        c->Send();
        c->in().Release();
      }
      c->Flush();
      if (c->has_waiting()) ::usleep(10);
      if (c->has_waiting() || !c->in().PrepareSleep()) continue;
      Await({bell.get(), c->socket()});
      c->in().Awake();
      uint64_t count;
      if (::read(bell.get(), &count, sizeof(count)) < 0 && !c->OnSocket().ok()) return;
    }
  }
  pid_t EchoProcess() {
    const pid_t pid = ::fork();
    if (pid != 0) return pid;
    Echo();
    ::_exit(0);
  }
  std::unique_ptr<Connection> Connect(const ConnectionOptions& options = {}) {
    for (int i = 0; i < 6000; ++i) {
      if (auto c = Connection::Connect(path_, options, bell_.get()); c.ok()) {
        Await({(*c)->socket()});
        EXPECT_TRUE((*c)->OnSocket().ok());
        EXPECT_TRUE((*c)->connected());
        return *std::move(c);
      }
      ::usleep(10'000);
    }
    ADD_FAILURE() << "nobody listens";
    return nullptr;
  }

  const testing::TempDir dir_;
  const std::string path_ = dir_.path() + "/s";
  const Fd bell_ = *MakeDoorbell();
};

TEST_F(ConnectionTest, MessagesGoBetweenProcesses) {
  const pid_t pid = EchoProcess();
  auto c = Connect({.out_bytes = 8192, .in_bytes = 8192});
  for (int i = 0; i < 20'000; ++i) {
    const size_t bytes = sizeof(i) + static_cast<size_t>(i * 7) % 3000;
    std::byte* const at = c->Reserve(bytes);
    std::memset(at, i, bytes);
    std::memcpy(at, &i, sizeof(i));
    c->Send();
    std::optional<std::span<const std::byte>> m;
    while (!(m = c->in().Next())) {
      c->Flush();
      if (!c->has_waiting() && c->in().PrepareSleep()) {
        Await({bell_.get()});
        uint64_t count;
        ASSERT_EQ(::read(bell_.get(), &count, sizeof(count)), 8);
      }
      c->in().Awake();
    }
    ASSERT_EQ(m->size(), bytes);
    ASSERT_EQ(std::memcmp(m->data(), &i, sizeof(i)), 0);
    c->in().Release();
  }
  c.reset();
  int status = -1;
  ::waitpid(pid, &status, 0);
  EXPECT_EQ(status, 0);  // it saw our end
}

// The server's replies do not fit the ring that its client gave, or the client does not read.
TEST_F(ConnectionTest, WhatCanNeverBeSentIsNotKept) {
  for (const bool too_long : {true, false}) {
    auto listener = *Listener::Listen(path_);
    const Fd bell = *MakeDoorbell();
    auto client = *Connection::Connect(path_, {.out_bytes = 4096, .in_bytes = 8192}, bell.get());
    Await({listener->socket()});
    auto server = listener->Accept(bell.get());
    Await({server->socket()});
    ASSERT_TRUE(server->OnSocket().ok());
    ASSERT_EQ(server->max_message(), 8192u / 2 - kLine);
    const size_t bytes = server->max_message() + (too_long ? 1 : 0);
    size_t sent = 0;
    for (; !server->broken() && sent < 100'000; ++sent) {
      std::memset(server->Reserve(bytes), 1, bytes);
      server->Send();
    }
    EXPECT_TRUE(server->broken());
    EXPECT_FALSE(server->has_waiting());
    if (too_long) {
      EXPECT_EQ(sent, 1u);
    } else {
      EXPECT_GT(sent * bytes, Connection::kWaitingBytesMax);
      EXPECT_LT(sent * bytes, 2 * Connection::kWaitingBytesMax);
    }
  }
}

TEST_F(ConnectionTest, AKilledServerIsNoticed) {
  const pid_t pid = EchoProcess();
  auto c = Connect();
  EXPECT_TRUE(c->OnSocket().ok());
  ::kill(pid, SIGKILL);
  Await({c->socket()});
  EXPECT_THAT(c->OnSocket().ToString(), HasSubstr("gone"));
  ::waitpid(pid, nullptr, 0);
  // What it left is no hindrance.
  EXPECT_FALSE(Connection::Connect(path_, {}, bell_.get()).ok());
  EXPECT_TRUE(Listener::Listen(path_).ok());
}

TEST_F(ConnectionTest, OnePathOneListener) {
  auto first = Listener::Listen(path_);
  ASSERT_TRUE(first.ok());
  EXPECT_THAT(Listener::Listen(path_).status().ToString(), HasSubstr("another process"));
  first->reset();
  EXPECT_FALSE(std::filesystem::exists(path_));
  EXPECT_THAT(Listener::Listen(std::string(200, 'x')).status().ToString(), HasSubstr("107 bytes"));
}

TEST_F(ConnectionTest, AClientThatSpeaksNonsenseIsRefused) {
  auto listener = *Listener::Listen(path_);
  for (const size_t bytes : {size_t{1}, size_t{24}, size_t{1000}}) {
    const Fd client(::socket(AF_UNIX, SOCK_SEQPACKET, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path_.data(), path_.size());
    ASSERT_EQ(::connect(client.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    auto c = listener->Accept(bell_.get());
    ASSERT_NE(c, nullptr);
    EXPECT_TRUE(c->OnSocket().ok());  // nothing there yet
    EXPECT_FALSE(c->connected());
    const std::string junk(bytes, 'j');
    ASSERT_EQ(::send(client.get(), junk.data(), junk.size(), 0), static_cast<ssize_t>(bytes));
    EXPECT_THAT(c->OnSocket().ToString(), HasSubstr("another protocol"));
    EXPECT_FALSE(c->connected());
  }
  EXPECT_EQ(listener->Accept(bell_.get()), nullptr);  // nobody waits
}

}  // namespace
}  // namespace tutti::shm
