#include "tools/cli/held_port.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <string>

namespace tutti::cli {
namespace {

using ::testing::HasSubstr;

constexpr char kHost[] = "127.0.0.1";

class Socket {
 public:
  Socket() : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    const int on = 1;
    ::setsockopt(fd_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  }
  ~Socket() { ::close(fd_); }

  // The only port that the kernel may choose for this socket; needs Linux 6.3.
  bool ChooseOnly(int port) {
    constexpr int kIpLocalPortRange = 51;
    const uint32_t range = static_cast<uint32_t>(port) << 16 | static_cast<uint32_t>(port);
    return ::setsockopt(fd_, IPPROTO_IP, kIpLocalPortRange, &range, sizeof(range)) == 0;
  }
  // 0 or errno.
  int Bind(int port) { return With(&::bind, port); }
  int Connect(int port) { return With(&::connect, port); }
  int Listen() { return ::listen(fd_, 4) == 0 ? 0 : errno; }

 private:
  int With(int (*call)(int, const sockaddr*, socklen_t), int port) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(static_cast<uint16_t>(port));
    return call(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0 ? 0 : errno;
  }
  int fd_;
};

TEST(HeldPortTest, AServerThatNamesItListensAlsoASecondTime) {
  const auto port = HeldPort::Take(kHost, 0);
  ASSERT_TRUE(port.ok()) << port.status();
  ASSERT_GT(port->number(), 0);
  for (int life = 0; life < 2; ++life) {
    Socket server, client;
    EXPECT_EQ(client.Connect(port->number()), ECONNREFUSED);  // held is not listening
    ASSERT_EQ(server.Bind(port->number()), 0);
    ASSERT_EQ(server.Listen(), 0);
    Socket other;
    EXPECT_EQ(other.Connect(port->number()), 0);
  }
}

TEST(HeldPortTest, TheKernelGivesItToNobodyElse) {
  Socket server;
  ASSERT_EQ(server.Bind(0), 0);
  ASSERT_EQ(server.Listen(), 0);
  auto port = HeldPort::Take(kHost, 0);
  ASSERT_TRUE(port.ok()) << port.status();
  const int number = port->number();
  Socket free, connects;
  if (!free.ChooseOnly(number) || !connects.ChooseOnly(number)) GTEST_SKIP() << "needs Linux 6.3";
  EXPECT_EQ(free.Bind(0), EADDRINUSE);
  const auto to = HeldPort::Take(kHost, 0);
  ASSERT_TRUE(to.ok()) << to.status();
  Socket target;
  ASSERT_EQ(target.Bind(to->number()), 0);
  ASSERT_EQ(target.Listen(), 0);
  EXPECT_EQ(connects.Connect(to->number()), EADDRNOTAVAIL);
  // It is this object that keeps it, also after a move.
  HeldPort moved = std::move(*port);
  EXPECT_EQ(moved.number(), number);
  EXPECT_EQ(port->number(), 0);
  EXPECT_EQ(free.Bind(0), EADDRINUSE);
  moved = HeldPort();
  EXPECT_EQ(free.Bind(0), 0);
}

TEST(HeldPortTest, WhatCannotBeHeldIsSaid) {
  const auto port = HeldPort::Take(kHost, 0);
  ASSERT_TRUE(port.ok()) << port.status();
  Socket server;
  ASSERT_EQ(server.Bind(port->number()), 0);
  ASSERT_EQ(server.Listen(), 0);
  const absl::Status taken = HeldPort::Take(kHost, port->number()).status();
  EXPECT_EQ(taken.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(
      std::string(taken.message()),
      HasSubstr("127.0.0.1:" + std::to_string(port->number()) + ": Address already in use"));
  EXPECT_FALSE(HeldPort::Take("192.0.2.1", 80).ok());  // not an address of this machine
  EXPECT_THAT(std::string(HeldPort::Take("no.such.host.invalid", 0).status().message()),
              HasSubstr("neither an address nor a name"));
}

TEST(HeldPortTest, NamesAndIPv6AddressesAreTaken) {
  EXPECT_TRUE(HeldPort::Take("localhost", 0).ok());
  const int v6 = ::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in6 loopback = {};
  loopback.sin6_family = AF_INET6;
  loopback.sin6_addr = in6addr_loopback;
  const bool has_v6 =
      v6 >= 0 && ::bind(v6, reinterpret_cast<sockaddr*>(&loopback), sizeof(loopback)) == 0;
  if (v6 >= 0) ::close(v6);
  if (!has_v6) GTEST_SKIP() << "no IPv6 loopback here";
  for (const char* host : {"::1", "[::1]", "::"}) {
    const auto port = HeldPort::Take(host, 0);
    EXPECT_TRUE(port.ok()) << host << ": " << port.status();
  }
}

}  // namespace
}  // namespace tutti::cli
