// What the parser takes, what it refuses, and that it does not matter how the bytes are cut.
#include "shared/http/request_parser.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tutti::http {
namespace {

using State = RequestParser::State;

struct Outcome {
  State state;
  int status;
  size_t taken;
  Request request;
  std::string message;
};

// Feeds `bytes` in pieces of `piece` bytes until the request is complete or wrong.
Outcome Parse(std::string_view bytes, size_t piece = SIZE_MAX, const ParserLimits& limits = {}) {
  RequestParser p(limits);
  size_t at = 0;
  while (at < bytes.size() && p.state() != State::kDone && p.state() != State::kError) {
    const std::string_view part = bytes.substr(at, piece);
    at += p.Feed(part);
  }
  return {p.state(), p.status(), at, p.request(), p.message()};
}

std::string Get(const std::string& headers) {
  return "GET / HTTP/1.1\r\nHost: x\r\n" + headers + "\r\n";
}
std::string Post(const std::string& headers, const std::string& body) {
  return "POST /a HTTP/1.1\r\nHost: x\r\n" + headers + "\r\n" + body;
}

TEST(RequestParserTest, ARequestIsReadToItsEndAndNoFurther) {
  struct Case {
    std::string bytes, method, path, query, body;
  };
  const Case cases[] = {
      {Get(""), "GET", "/", "", ""},
      {Get("Content-Length: 0\r\n"), "GET", "/", "", ""},
      {Get("Content-Length: 3\r\n") + "abc", "GET", "/", "", "abc"},  // a GET may have a body
      {Post("Content-Length: 2\r\n", "{}"), "POST", "/a", "", "{}"},
      {Post("Content-Length: 0000000002\r\n", "{}"), "POST", "/a", "", "{}"},
      {Post("", ""), "POST", "/a", "", ""},  // neither length nor chunks: no body
      {Post("Transfer-Encoding: Chunked\r\n", "2\r\n{}\r\n0\r\n\r\n"), "POST", "/a", "", "{}"},
      {Post("Transfer-Encoding: chunked\r\n",
            "1;a=b\r\n{\r\nA ; x=\"y\"\r\n0123456789\r\n0\r\nT: v\r\n\r\n"),
       "POST", "/a", "", "{0123456789"},
      {"\r\n" + Get(""), "GET", "/", "", ""},
      {"GET /a%20b?c=%20d?e HTTP/1.1\r\nHost: x\r\n\r\n", "GET", "/a b", "c=%20d?e", ""},
      {"GET http://y:80/p?q HTTP/1.1\r\nHost: x\r\n\r\n", "GET", "/p", "q", ""},
      {"GET http://y HTTP/1.1\r\nHost: x\r\n\r\n", "GET", "/", "", ""},
      {"GET HTTPS://y?q HTTP/1.1\r\nHost: x\r\n\r\n", "GET", "/", "q", ""},
      {"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", "OPTIONS", "*", "", ""},
      {"M-SEARCH / HTTP/1.1\r\nHost:\r\n\r\n", "M-SEARCH", "/", "", ""},
      {"GET / HTTP/1.0\r\n\r\n", "GET", "/", "", ""},
      {"GET / HTTP/1.9\r\nHost: [::1]:8\r\nX:\t a \t\r\nY:\xc3\xa4\r\n\r\n", "GET", "/", "", ""},
  };
  for (const Case& c : cases) {
    for (size_t piece = 1; piece <= c.bytes.size(); ++piece) {
      const Outcome o = Parse(c.bytes + "GET /next", piece);
      ASSERT_EQ(o.state, State::kDone) << c.bytes << o.message;
      EXPECT_EQ(o.taken, c.bytes.size()) << c.bytes;
      EXPECT_EQ(o.request.method, c.method);
      EXPECT_EQ(o.request.path, c.path);
      EXPECT_EQ(o.request.query, c.query);
      EXPECT_EQ(o.request.body, c.body) << c.bytes;
    }
  }
}

TEST(RequestParserTest, WhatIsMalformedOrAmbiguousIsAnErrorHoweverItIsCut) {
  struct Case {
    std::string bytes;
    int status = 400;
  };
  const std::string te = "Transfer-Encoding: chunked\r\n";
  const Case cases[] = {
      // request line
      {"FOO\r\n\r\n"},
      {"GET /\r\n\r\n"},
      {"GET  / HTTP/1.1\r\nHost: x\r\n\r\n"},
      {"GET / HTTP/1.1 \r\nHost: x\r\n\r\n"},
      {" GET / HTTP/1.1\r\nHost: x\r\n\r\n"},
      {"G(T / HTTP/1.1\r\nHost: x\r\n\r\n"},
      {"GET\t/ HTTP/1.1\r\nHost: x\r\n\r\n"},
      {"GET / http/1.1\r\nHost: x\r\n\r\n"},
      {"GET / HTTP/11\r\nHost: x\r\n\r\n"},
      {"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505},
      {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505},
      {"GET a HTTP/1.1\r\nHost: x\r\n\r\n"},
      {"GET ftp://a/ HTTP/1.1\r\nHost: x\r\n\r\n"},
      {"GET http:///p HTTP/1.1\r\nHost: x\r\n\r\n"},
      {"GET http://u@y/ HTTP/1.1\r\nHost: x\r\n\r\n"},
      {"GET * HTTP/1.1\r\nHost: x\r\n\r\n"},
      {"GET /#f HTTP/1.1\r\nHost: x\r\n\r\n"},
      {"GET /\x7f HTTP/1.1\r\nHost: x\r\n\r\n"},
      {"GET /\xc3\xa4 HTTP/1.1\r\nHost: x\r\n\r\n"},
      {"GET /%zz HTTP/1.1\r\nHost: x\r\n\r\n"},
      {"GET /%00 HTTP/1.1\r\nHost: x\r\n\r\n"},
      {"CONNECT a:1 HTTP/1.1\r\nHost: x\r\n\r\n", 501},
      {"\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n"},
      // line ends
      {"GET / HTTP/1.1\nHost: x\r\n\r\n"},
      {"GET / HTTP/1.1\r\nHost: x\n\r\n"},
      {"GET / HTTP/1.1\r\nHost: x\r\n\n"},
      {"GET / HTTP/1.1\r\nHost: x\r\rA: b\r\n\r\n"},
      {"GET / HTTP/1.1\r\nHost: x\r\nA: b\rc\r\n\r\n"},
      {Get(std::string("A: b\0c\r\n", 8))},
      {std::string("GET /\0 HTTP/1.1\r\n", 17)},
      // headers
      {Get("A : b\r\n")},
      {Get(": b\r\n")},
      {Get("A\r\n")},
      {Get("A b: c\r\n")},
      {Get("A: b\r\n c\r\n")},
      {Get("A: b\r\n\tc\r\n")},
      {"GET / HTTP/1.1\r\n Host: x\r\n\r\n"},
      {Get("A\xc3\xa4: b\r\n")},
      {Get("A: b\x01\r\n")},
      {Get("A: b\x7f\r\n")},
      // Host
      {"GET / HTTP/1.1\r\n\r\n"},
      {Get("Host: x\r\n")},
      {"GET / HTTP/1.1\r\nHost: a b\r\n\r\n"},
      {"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"},
      {"GET / HTTP/1.1\r\nHost: a:b\r\n\r\n"},
      {"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n"},
      {"GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n"},
      // lengths
      {Post("Content-Length: 2\r\nContent-Length: 2\r\n", "{}")},
      {Post("Content-Length: 2\r\nContent-Length: 3\r\n", "{}")},
      {Post("Content-Length: 2, 2\r\n", "{}")},
      {Post("Content-Length: +2\r\n", "{}")},
      {Post("Content-Length: -2\r\n", "{}")},
      {Post("Content-Length: 0x2\r\n", "{}")},
      {Post("Content-Length: 2 2\r\n", "{}")},
      {Post("Content-Length: abc\r\n", "{}")},
      {Post("Content-Length:\r\n", "{}")},
      {Post("Content-Length: 18446744073709551618\r\n", "{}")},
      {Post("Content-Length: 8388609\r\n", "{}"), 413},
      {Post("Content-Length : 2\r\n", "{}")},
      // codings
      {Post(te + "Content-Length: 2\r\n", "2\r\n{}\r\n0\r\n\r\n")},
      {Post("Content-Length: 2\r\n" + te, "2\r\n{}\r\n0\r\n\r\n")},
      {Post(te + te, "2\r\n{}\r\n0\r\n\r\n")},
      {Post("Transfer-Encoding: chunked, chunked\r\n", "")},
      {Post("Transfer-Encoding: gzip, chunked\r\n", ""), 501},
      {Post("Transfer-Encoding: chunked, gzip\r\n", "")},
      {Post("Transfer-Encoding: xchunked\r\n", "")},
      {Post("Transfer-Encoding: \"chunked\"\r\n", "")},
      {Post("Transfer-Encoding: identity\r\n", "")},
      {Post("Transfer-Encoding:\r\n", "")},
      {Post("Transfer-Encoding: chunked;a=b\r\n", "")},
      {Post("Transfer-Encoding: \x0b"
            "chunked\r\n",
            "")},
      {"POST / HTTP/1.0\r\n" + te + "\r\n0\r\n\r\n"},
      // chunks
      {Post(te, "zz\r\n{}\r\n0\r\n\r\n")},
      {Post(te, "\r\n{}\r\n0\r\n\r\n")},
      {Post(te, "0x2\r\n{}\r\n0\r\n\r\n")},
      {Post(te, "-2\r\n{}\r\n0\r\n\r\n")},
      {Post(te, "+2\r\n{}\r\n0\r\n\r\n")},
      {Post(te, " 2\r\n{}\r\n0\r\n\r\n")},
      {Post(te, "2 2\r\n{}\r\n0\r\n\r\n")},
      {Post(te, "2\n{}\r\n0\r\n\r\n")},
      {Post(te, "2\r\n{}\n0\r\n\r\n")},
      {Post(te, "2\r\n{}x\r\n0\r\n\r\n")},
      {Post(te, "1\r\n{}\r\n0\r\n\r\n")},
      {Post(te, "0000000000000002\r\n{}\r\n0\r\n\r\n")},
      {Post(te, "FFFFFFFFFFFFFFFF\r\n{}\r\n0\r\n\r\n")},
      {Post(te, "FFFFFFFFFFFFFFF\r\n{}\r\n0\r\n\r\n"), 413},
      {Post(te, "2;a\x01\r\n{}\r\n0\r\n\r\n")},
      {Post(te, "2;a\n{}\r\n0\r\n\r\n")},
      {Post(te, "2\r\n{}\r\n0\r\nA : b\r\n\r\n")},
      {Post(te, "2\r\n{}\r\n0\r\nA\r\n\r\n")},
      {Post(te, "2\r\n{}\r\n0\r\n A: b\r\n\r\n")},
      {Post(te, "2\r\n{}\r\n0\r\nA: b\n\r\n")},
  };
  for (const Case& c : cases) {
    for (size_t piece = 1; piece <= c.bytes.size(); ++piece) {
      const Outcome o = Parse(c.bytes + "GET /next HTTP/1.1\r\nHost: x\r\n\r\n", piece);
      ASSERT_EQ(o.state, State::kError) << c.bytes;
      ASSERT_EQ(o.status, c.status) << c.bytes << o.message;
      ASSERT_FALSE(o.message.empty());
    }
  }
}

TEST(RequestParserTest, LimitsHaveTheirOwnStatus) {
  const ParserLimits limits = {.line_bytes = 100,
                               .header_bytes = 300,
                               .headers = 5,
                               .body_bytes = 50,
                               .chunk_overhead_bytes = 60};
  const auto status = [&](const std::string& bytes) { return Parse(bytes, 7, limits).status; };
  EXPECT_EQ(status("GET /" + std::string(200, 'a') + " HTTP/1.1\r\nHost: x\r\n\r\n"), 414);
  EXPECT_EQ(status(Get("A: " + std::string(200, 'a') + "\r\n")), 431);
  EXPECT_EQ(status(Get("A: 1\r\nB: 1\r\nC: 1\r\nD: 1\r\nE: 1\r\n")), 431);
  std::string four;
  for (int i = 0; i < 4; ++i) four += "A: " + std::string(80, 'a') + "\r\n";
  EXPECT_EQ(status(Get(four)), 431);
  EXPECT_EQ(status(Post("Content-Length: 51\r\n", "")), 413);
  const std::string te = "Transfer-Encoding: chunked\r\n";
  EXPECT_EQ(status(Post(te, "20\r\n" + std::string(32, 'a') + "\r\n20\r\n")), 413);
  std::string crumbs;
  for (int i = 0; i < 20; ++i) crumbs += "1\r\na\r\n";
  EXPECT_EQ(status(Post(te, crumbs)), 400);
  EXPECT_EQ(status(Post(te, "1;" + std::string(200, 'a') + "\r\n")), 400);
  std::string trailers;
  for (int i = 0; i < 8; ++i) trailers += "A: b\r\n";
  EXPECT_EQ(status(Post(te, "0\r\n" + trailers + "\r\n")), 431);
}

TEST(RequestParserTest, TheConnectionsFateFollowsVersionAndHeader) {
  const auto keep = [](const std::string& bytes) {
    RequestParser p({});
    p.Feed(bytes);
    EXPECT_EQ(p.state(), State::kDone) << bytes;
    return p.keep_alive();
  };
  EXPECT_TRUE(keep(Get("")));
  EXPECT_FALSE(keep(Get("Connection: x, Close\r\n")));
  EXPECT_FALSE(keep("GET / HTTP/1.0\r\n\r\n"));
  EXPECT_TRUE(keep("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"));
  EXPECT_FALSE(keep("GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n"));
}

TEST(MessageTest, HeadersThatTheServerReads) {
  EXPECT_EQ(HttpDate(784111777), "Sun, 06 Nov 1994 08:49:37 GMT");
  EXPECT_EQ(MediaType(" Application/JSON; x=y"), "application/json");
  EXPECT_EQ(MediaType("json"), "");
  EXPECT_EQ(HostName("A.b.:80"), "a.b");
  EXPECT_EQ(HostName("[::1]:80"), "::1");
  EXPECT_EQ(HostName("[::1"), "");
  EXPECT_EQ(HostName("a:b"), "");
  EXPECT_EQ(Credentials("bearer  k ", "Bearer"), "k");
  EXPECT_EQ(Credentials("Bearerk", "Bearer"), "");
  EXPECT_EQ(Credentials("Basic k", "Bearer"), "");
  EXPECT_TRUE(Refuses("application/json;q=0, */*", "application/json"));
  EXPECT_TRUE(Refuses("*/*; q=0.000", "application/json"));
  EXPECT_FALSE(Refuses("*/*;q=0, application/*;q=0.1", "application/json"));
  EXPECT_FALSE(Refuses("text/event-stream", "application/json"));
  EXPECT_FALSE(Refuses("", "application/json"));
  EXPECT_FALSE(AcceptsIdentity("identity;q=0"));
  EXPECT_FALSE(AcceptsIdentity("gzip, *;q=0"));
  EXPECT_TRUE(AcceptsIdentity("*;q=0, identity"));
  EXPECT_TRUE(AcceptsIdentity("gzip"));
  EXPECT_THAT(ListMembers("a, ,\"b,c\" ,d"), ::testing::ElementsAre("a", "\"b,c\"", "d"));
}

}  // namespace
}  // namespace tutti::http
