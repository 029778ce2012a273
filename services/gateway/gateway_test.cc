// The gateway over real sockets, in front of a scripted router: what the wire carries, and what
// happens when either side fails. Answers of a real model are tested in tests/cluster.
#include "services/gateway/gateway.h"

#include <gmock/gmock.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <gtest/gtest.h>
#include <httplib.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>

#include "services/gateway/json_fields.h"
#include "shared/rpc/channel.h"
#include "shared/rpc/status.h"

namespace tutti::gateway {
namespace {

using generation::v1::GenerateRequest;
using generation::v1::GenerateResponse;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;

// Answers by the prompt's text: "fail:<code>", "slow" (tokens until cancelled), "late-fail", else
// an echo of it, a token per word.
class FakeRouter final : public generation::v1::GenerationService::Service {
 public:
  grpc::Status Generate(grpc::ServerContext* context, const GenerateRequest* request,
                        grpc::ServerWriter<GenerateResponse>* writer) override {
    last_label = request->label();
    const auto trace = context->client_metadata().find("traceparent");
    if (trace != context->client_metadata().end()) {
      last_traceparent = std::string(trace->second.data(), trace->second.size());
    }
    const std::string prompt =
        request->has_chat() ? request->chat().messages_json() : request->text();
    if (prompt == "fail:full") {
      return rpc::ToGrpc(WithReason(absl::ResourceExhaustedError("queues are full"), "QUEUE_FULL"));
    }
    if (prompt == "fail:arg")
      return rpc::ToGrpc(absl::InvalidArgumentError("sampling.top_p: wrong"));
    if (prompt == "fail:model") return rpc::ToGrpc(absl::NotFoundError("no such model"));
    if (prompt == "fail:down") return rpc::ToGrpc(absl::UnavailableError("no decoder"));
    if (prompt == "fail:silent") return grpc::Status::OK;
    if (prompt == "fail:path") {
      return rpc::ToGrpc(absl::UnavailableError(
          "target[1]: failed to connect to all addresses; last error: UNKNOWN: "
          "unix:/secret/run/target.sock: No such file"));
    }
    GenerateResponse m;
    m.mutable_started()->set_model("fake");
    m.mutable_started()->set_seed(request->sampling().seed());
    writer->Write(m);
    ++running;
    int n = 0;
    if (prompt == "silent") {
      while (!context->IsCancelled()) std::this_thread::sleep_for(std::chrono::milliseconds(5));
      --running;
      ++cancelled;
      return grpc::Status::CANCELLED;
    }
    if (prompt == "a while") std::this_thread::sleep_for(std::chrono::milliseconds(300));
    if (prompt == "dies") {
      seeds.push_back(request->sampling().seed());
      if (deaths-- > 0) {
        WriteToken(writer, 0);
        WriteToken(writer, 1);
        --running;
        if (drains) {
          return rpc::ToGrpc(WithReason(absl::UnavailableError("router: draining"), "DRAINING"));
        }
        return grpc::Status(grpc::StatusCode::UNAVAILABLE, "Socket closed");
      }
    }
    if (prompt == "slow") {
      while (!context->IsCancelled()) {
        WriteToken(writer, n++);
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
      }
      --running;
      ++cancelled;
      return grpc::Status::CANCELLED;
    }
    for (; n < 3; ++n) WriteToken(writer, n);
    --running;
    if (prompt == "late-fail") return rpc::ToGrpc(absl::InternalError("NaN in layer 3"));
    GenerateResponse f;
    f.mutable_finished()->set_reason(common::v1::FINISH_REASON_EOS);
    f.mutable_finished()->set_output_tokens(3);
    f.mutable_finished()->set_digest(0xd1);
    f.mutable_finished()->set_seed(request->sampling().seed());
    writer->Write(f);
    return grpc::Status::OK;
  }

  grpc::Status ListModels(grpc::ServerContext*, const generation::v1::ListModelsRequest*,
                          generation::v1::ListModelsResponse* response) override {
    auto* m = response->add_models();
    m->set_name("org/fake");
    m->set_context_tokens(99);
    m->set_ready_decoders(ready_decoders);
    return grpc::Status::OK;
  }

  grpc::Status Tokenize(grpc::ServerContext*, const generation::v1::TokenizeRequest* request,
                        generation::v1::TokenizeResponse* response) override {
    for (const char c : request->text()) {
      response->add_ids(c);
      response->add_token_bytes(std::string(1, c));
    }
    return grpc::Status::OK;
  }

  grpc::Status Detokenize(grpc::ServerContext*, const generation::v1::DetokenizeRequest* request,
                          generation::v1::DetokenizeResponse* response) override {
    for (const int32_t id : request->ids())
      response->mutable_text()->push_back(static_cast<char>(id));
    return grpc::Status::OK;
  }

  std::atomic<int> running{0}, cancelled{0}, ready_decoders{1};
  std::atomic<int> deaths{0};       // of "dies", before its third token
  std::atomic<bool> drains{false};  // these deaths are ends of a drain
  std::vector<uint64_t> seeds;      // of "dies"
  std::string last_label, last_traceparent;

 private:
  static void WriteToken(grpc::ServerWriter<GenerateResponse>* writer, int n) {
    GenerateResponse m;
    m.mutable_delta()->set_text("t" + std::to_string(n) + " ");
    m.mutable_delta()->add_tokens()->set_token_id(n);
    writer->Write(m);
  }
};

class GatewayTest : public ::testing::Test {
 protected:
  void SetUp() override { Start({}); }
  void TearDown() override { StopAll(); }

  void StopAll() {
    client_.reset();
    if (gateway_ != nullptr) gateway_->CancelAll();
    server_.reset();
    gateway_.reset();
    grpc_.reset();
  }

  void Start(GatewayOptions options, http::Limits limits = {}) {
    limits.parser.body_bytes = kMaxBodyBytes;
    StopAll();
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(&router_);
    grpc_ = builder.BuildAndStart();
    ASSERT_NE(grpc_, nullptr);
    auto channel = rpc::OpenChannel("127.0.0.1:" + std::to_string(port), {.own_connection = true});
    ASSERT_TRUE(channel.ok());
    metrics_ = std::make_unique<telemetry::Metrics>();
    gateway_ = std::make_unique<Gateway>(
        options, generation::v1::GenerationService::NewStub(*channel), metrics_.get());
    server_ = gateway_->MakeServer(limits);
    ASSERT_TRUE(server_->Bind("127.0.0.1:0").ok());
    server_->Start();
    const std::string address = server_->address();
    http_port_ = std::stoi(address.substr(address.rfind(':') + 1));
    client_ = std::make_unique<httplib::Client>("127.0.0.1", http_port_);
    client_->set_read_timeout(20);
  }

  httplib::Result Post(const std::string& path, const std::string& body,
                       httplib::Headers headers = {}) {
    return client_->Post(path, headers, body, "application/json");
  }
  static Json Body(const httplib::Result& r) {
    return r ? Json::parse(r->body, nullptr, false) : Json();
  }

  // A connection of our own, for what no HTTP client would do.
  int Connect() const {
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in a{};
    a.sin_family = AF_INET;
    a.sin_port = htons(static_cast<uint16_t>(http_port_));
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&a), sizeof a), 0);
    return fd;
  }
  static void Send(int fd, const std::string& text) { (void)!write(fd, text.data(), text.size()); }
  static std::string ReadSome(int fd, int ms = 5000) {
    timeval t{ms / 1000, ms % 1000 * 1000};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
    char buffer[65536];
    const ssize_t n = read(fd, buffer, sizeof buffer);
    return n > 0 ? std::string(buffer, static_cast<size_t>(n)) : "";
  }
  static std::string RawPost(const std::string& body) {
    return "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: "
           "application/json\r\nContent-Length: " +
           std::to_string(body.size()) + "\r\n\r\n" + body;
  }
  bool Eventually(const std::function<bool()>& condition) {
    for (int i = 0; i < 3000; ++i) {
      if (condition()) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    return false;
  }

  FakeRouter router_;
  std::unique_ptr<telemetry::Metrics> metrics_;
  std::unique_ptr<grpc::Server> grpc_;
  std::unique_ptr<Gateway> gateway_;
  std::unique_ptr<http::Server> server_;
  std::unique_ptr<httplib::Client> client_;
  int http_port_ = 0;
};

TEST_F(GatewayTest, ACompletionComesBackWhole) {
  const auto r = Post("/v1/completions", R"({"prompt":"x","seed":5})");
  ASSERT_TRUE(r);
  EXPECT_EQ(r->status, 200);
  EXPECT_EQ(Body(r)["choices"][0]["text"], "t0 t1 t2 ");
  EXPECT_EQ(Body(r)["choices"][0]["seed"], 5);
  EXPECT_THAT(r->get_header_value("X-Request-Id"), MatchesRegex("req-[0-9a-f]{32}"));
  EXPECT_EQ(router_.last_label, r->get_header_value("X-Request-Id"));
}

TEST_F(GatewayTest, AnIdempotencyKeyGivesTheSeedOfARequestThatHasNone) {
  const auto seed = [&](const httplib::Headers& headers, const char* body = R"({"prompt":"x"})") {
    return Body(Post("/v1/completions", body, headers))["choices"][0]["seed"].get<uint64_t>();
  };
  const uint64_t first = seed({{"Idempotency-Key", "order 66"}});
  EXPECT_EQ(seed({{"Idempotency-Key", "order 66"}}), first) << "sent again: the same answer";
  EXPECT_NE(seed({{"Idempotency-Key", "order 67"}}), first);
  EXPECT_NE(seed({{"Idempotency-Key", "order 66"}, {"Authorization", "Bearer other-client"}}),
            first)
      << "another client's keys are its own";
  EXPECT_LT(first, uint64_t{1} << 53);
  EXPECT_EQ(seed({{"Idempotency-Key", "order 66"}}, R"({"prompt":"x","seed":5})"), 5u);
  // Prompts of one request have seeds of their own, as without the key.
  const Json two = Body(Post("/v1/completions", R"({"prompt":["x","x"]})",
                             {{"Idempotency-Key", "order 66"}}))["choices"];
  EXPECT_EQ(two[0]["seed"], first);
  EXPECT_NE(two[1]["seed"], first);
  for (const std::string& odd : {std::string(256, 'a'), std::string("caf\xc3\xa9")}) {
    const auto r = Post("/v1/completions", R"({"prompt":"x"})", {{"Idempotency-Key", odd}});
    EXPECT_EQ(r->status, 400);
    EXPECT_EQ(Body(r)["error"]["param"], "Idempotency-Key");
  }
}

TEST_F(GatewayTest, AStreamComesInEventsAsTheyAreMade) {
  std::string first;
  const int fd = Connect();
  Send(fd, RawPost(R"({"prompt":"slow","stream":true})"));
  std::string got;
  ASSERT_TRUE(Eventually([&] {
    got += ReadSome(fd);
    return got.find("t2 ") != std::string::npos;
  })) << got;
  EXPECT_EQ(router_.running, 1);  // it is still being made
  EXPECT_THAT(got, HasSubstr("text/event-stream"));
  EXPECT_THAT(got, HasSubstr("data: {"));
  close(fd);
  EXPECT_TRUE(Eventually([&] { return router_.cancelled == 1; }));
}

TEST_F(GatewayTest, AClientThatGoesCancelsWhatItAskedFor) {
  for (const char* body : {R"({"prompt":"slow"})", R"({"prompt":"slow","stream":true})",
                           R"({"prompt":["slow","slow"]})"}) {
    const int before = router_.cancelled;
    const int want = std::strchr(body, '[') != nullptr ? 2 : 1;
    const int fd = Connect();
    Send(fd, RawPost(body));
    ASSERT_TRUE(Eventually([&] { return router_.running == want; })) << body;
    close(fd);
    EXPECT_TRUE(Eventually([&] { return router_.cancelled == before + want; })) << body;
  }
  EXPECT_THAT(metrics_->Text(), HasSubstr("tutti_gateway_clients_gone_total 3"));
}

TEST_F(GatewayTest, ErrorsOfTheRouterGetTheirHttpStatus) {
  const struct {
    const char* prompt;
    int status;
    const char* code;
  } cases[] = {{"fail:full", 429, "queue_full"},       {"fail:arg", 400, "invalid_value"},
               {"fail:model", 404, "model_not_found"}, {"fail:down", 503, "unavailable"},
               {"fail:silent", 500, nullptr},          {"late-fail", 500, nullptr}};
  for (const auto& c : cases) {
    const auto r = Post("/v1/completions", Json{{"prompt", c.prompt}}.dump());
    ASSERT_TRUE(r) << c.prompt;
    EXPECT_EQ(r->status, c.status) << c.prompt;
    const Json e = Body(r)["error"];
    EXPECT_EQ(e["code"], c.code == nullptr ? Json() : Json(c.code)) << e;
    EXPECT_EQ(r->has_header("Retry-After"), c.status == 429 || c.status == 503) << c.prompt;
  }
  EXPECT_EQ(Body(Post("/v1/completions", R"({"prompt":"fail:arg"})"))["error"]["param"], "top_p");
}

TEST_F(GatewayTest, AnErrorBeforeTheFirstTokenOfAStreamHasAStatusAndALaterOneAnEvent) {
  const auto early = Post("/v1/completions", R"({"prompt":"fail:full","stream":true})");
  ASSERT_TRUE(early);
  EXPECT_EQ(early->status, 429);
  const auto late = Post("/v1/completions", R"({"prompt":"late-fail","stream":true})");
  ASSERT_TRUE(late);
  EXPECT_EQ(late->status, 200);
  EXPECT_THAT(late->body, HasSubstr("t0 "));
  EXPECT_THAT(late->body, HasSubstr("NaN in layer 3"));
  EXPECT_THAT(late->body, ::testing::Not(HasSubstr("[DONE]")));
}

TEST_F(GatewayTest, TheClientsRequestIdAndTraceTravelOn) {
  const std::string trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
  const auto r = Post("/v1/completions", R"({"prompt":"x"})",
                      {{"X-Request-Id", "mine-1"}, {"traceparent", trace}});
  ASSERT_TRUE(r);
  EXPECT_EQ(r->get_header_value("X-Request-Id"), "mine-1");
  EXPECT_EQ(router_.last_label, "mine-1");
  EXPECT_EQ(router_.last_traceparent.substr(0, 36), trace.substr(0, 36));
  // It is a label: one that cannot stand in logs is replaced.
  for (const std::string& odd : {std::string("a b"), std::string(300, 'x')}) {
    const auto r2 = Post("/v1/completions", R"({"prompt":"x"})", {{"X-Request-Id", odd}});
    ASSERT_TRUE(r2);
    EXPECT_EQ(r2->status, 200);
    EXPECT_THAT(r2->get_header_value("X-Request-Id"), MatchesRegex("req-[0-9a-f]{32}"));
  }
}

TEST_F(GatewayTest, SmallRoutesAnswer) {
  const auto models = client_->Get("/v1/models");
  ASSERT_TRUE(models);
  EXPECT_EQ(Body(models)["data"][0]["id"], "org/fake");
  EXPECT_EQ(Body(client_->Get("/v1/models/org/fake"))["max_model_len"], 99);
  EXPECT_EQ(client_->Get("/v1/models/nix")->status, 404);
  EXPECT_EQ(client_->Get("/health")->status, 200);
  router_.ready_decoders = 0;
  EXPECT_EQ(client_->Get("/health")->status, 503);
  router_.ready_decoders = 1;
  EXPECT_EQ(
      Body(Post("/tokenize", R"({"prompt":"AB","return_token_strs":true})")),
      (Json{
          {"count", 2}, {"max_model_len", 99}, {"tokens", {65, 66}}, {"token_strs", {"A", "B"}}}));
  EXPECT_EQ(Body(Post("/detokenize", R"({"tokens":[65,66]})")), (Json{{"prompt", "AB"}}));
  EXPECT_THAT(client_->Get("/metrics")->body,
              HasSubstr("tutti_gateway_requests_total{code=\"200\",route=\"/tokenize\"} 1"));
  EXPECT_THAT(client_->Get("/")->body, HasSubstr("<title>Tutti</title>"));
  const auto none = client_->Get("/nix");
  EXPECT_EQ(none->status, 404);
  EXPECT_THAT(std::string(Body(none)["error"]["message"]), HasSubstr("GET /nix"));
}

TEST_F(GatewayTest, BodiesThatAreTooLargeOrOfAnotherTypeAreRefused) {
  const auto large = Post("/v1/completions", std::string(kMaxBodyBytes + 10, ' '));
  if (large) {  // the connection may close before the client has read the answer
    EXPECT_EQ(large->status, 413);
  }
  client_ = std::make_unique<httplib::Client>("127.0.0.1", http_port_);
  const auto form = client_->Post("/v1/completions", R"({"prompt":"x"})", "text/plain");
  ASSERT_TRUE(form);
  EXPECT_EQ(form->status, 400);
  EXPECT_EQ(Body(form)["error"]["param"], "Content-Type");
}

TEST_F(GatewayTest, WithKeysTheApiAsksForOne) {
  Start({.policy = {.api_keys = {"secret-key-1", "secret-key-2"}}});
  EXPECT_EQ(Post("/v1/completions", R"({"prompt":"x"})")->status, 401);
  EXPECT_EQ(
      Post("/v1/completions", R"({"prompt":"x"})", {{"Authorization", "Bearer wrong"}})->status,
      401);
  EXPECT_EQ(
      Post("/v1/completions", R"({"prompt":"x"})", {{"Authorization", "bEARER  secret-key-2"}})
          ->status,
      200);
  EXPECT_EQ(Post("/v1/completions", R"({"prompt":"x"})", {{"Authorization", "Bearer "}})->status,
            401);
  EXPECT_EQ(client_->Get("/v1/models")->status, 401);
  EXPECT_EQ(client_->Get("/health")->status, 200);
}

TEST_F(GatewayTest, PagesOfOtherSitesMayAskOnlyWhenToldSo) {
  EXPECT_FALSE(client_->Get("/v1/models")->has_header("Access-Control-Allow-Origin"));
  Start({.policy = {.cors_origin = "https://a.example, https://b.example"}});
  const auto get = [&](const std::string& origin) {
    return client_->Get("/v1/models", {{"Origin", origin}});
  };
  EXPECT_EQ(get("https://b.example")->get_header_value("Access-Control-Allow-Origin"),
            "https://b.example");
  EXPECT_EQ(get("https://b.example")->get_header_value("Access-Control-Allow-Credentials"), "true");
  EXPECT_THAT(get("https://b.example")->get_header_value("Access-Control-Expose-Headers"),
              HasSubstr("X-Request-Id"));
  EXPECT_EQ(get("https://b.example")->get_header_value("Vary"), "Origin");
  EXPECT_FALSE(get("https://c.example")->has_header("Access-Control-Allow-Origin"));
  // An error is for the page as well.
  const auto wrong = Post("/v1/completions", "{", {{"Origin", "https://a.example"}});
  EXPECT_EQ(wrong->get_header_value("Access-Control-Allow-Origin"), "https://a.example");
}

TEST_F(GatewayTest, APreflightAllowsTheHeadersThatItAsksFor) {
  Start({.policy = {.cors_origin = "*"}});
  const auto r = client_->Options(
      "/v1/chat/completions",
      {{"Origin", "http://localhost:5173"},
       {"Access-Control-Request-Method", "POST"},
       {"Access-Control-Request-Headers", "authorization,x-stainless-lang, bad header"}});
  ASSERT_TRUE(r);
  EXPECT_EQ(r->status, 204);
  EXPECT_EQ(r->get_header_value("Access-Control-Allow-Origin"), "*");
  EXPECT_EQ(r->get_header_value("Access-Control-Allow-Headers"), "authorization, x-stainless-lang");
  EXPECT_EQ(r->get_header_value("Access-Control-Allow-Methods"), "POST, OPTIONS");
  EXPECT_TRUE(r->has_header("Access-Control-Max-Age"));
  EXPECT_FALSE(r->has_header("Access-Control-Allow-Credentials"));  // never with "*"
}

TEST_F(GatewayTest, AnotherMethodOfAPathIs405WithThoseThatItHas) {
  const auto r = client_->Get("/v1/completions");
  ASSERT_TRUE(r);
  EXPECT_EQ(r->status, 405);
  EXPECT_EQ(r->get_header_value("Allow"), "POST, OPTIONS");
  EXPECT_EQ(client_->Delete("/v1/models")->get_header_value("Allow"), "GET, HEAD, OPTIONS");
  EXPECT_EQ(client_->Head("/v1/models")->status, 200);
  EXPECT_EQ(client_->Options("/nix")->status, 404);
}

TEST_F(GatewayTest, TypesAndRefusalsAreReadAsTheGrammarSays) {
  const auto with = [&](const char* type, const httplib::Headers& headers) {
    return client_->Post("/v1/completions", headers, R"({"prompt":"x"})", type)->status;
  };
  EXPECT_EQ(with("Application/JSON ; charset=utf-8", {}), 200);
  EXPECT_EQ(with("application/jsonx", {}), 400);
  EXPECT_EQ(with("application/json", {{"Accept", "text/event-stream"}}), 200);
  EXPECT_EQ(with("application/json", {{"Accept", "*/*, application/json;q=0"}}), 406);
  EXPECT_EQ(with("application/json", {{"Accept-Encoding", "gzip"}}), 200);
  EXPECT_EQ(with("application/json", {{"Accept-Encoding", "gzip, identity;q=0"}}), 406);
}

TEST_F(GatewayTest, OnLoopbackWithoutKeysOnlyLocalNamesAreServed) {
  const auto host = [&](const std::string& name, const char* path = "/v1/models") {
    return client_->Get(path, {{"Host", name}})->status;
  };
  for (const char* good :
       {"localhost", "LOCALHOST:80", "127.0.0.1:1", "[::1]:80", "tutti", "a.localhost"})
    EXPECT_EQ(host(good), 200) << good;
  EXPECT_EQ(host("evil.example"), 403);
  EXPECT_EQ(host("evil.example:80"), 403);
  EXPECT_EQ(host("127.0.0.1.evil.example"), 403);
  EXPECT_EQ(host("evil.example", "/health"), 200);
  EXPECT_EQ(host("evil.example", "/"), 403);
  Start({.policy = {.api_keys = {"secret-key-1"}}});  // a page without the key gets nowhere
  EXPECT_EQ(host("evil.example"), 401);
  Start({.policy = {.allowed_hosts = {"api.example", "*.b.example"}}});
  EXPECT_EQ(host("API.example"), 200);
  EXPECT_EQ(host("x.b.example"), 200);
  EXPECT_EQ(host("b.example"), 403);
  EXPECT_EQ(host("tutti"), 403);
}

TEST_F(GatewayTest, GenerationsPastTheLimitAreToldAtOnce) {
  Start({.generations = 1});
  const int busy = Connect();
  Send(busy, RawPost(R"({"prompt":"slow"})"));
  ASSERT_TRUE(Eventually([&] { return router_.running == 1; }));
  const auto r = Post("/v1/completions", R"({"prompt":"x"})");
  ASSERT_TRUE(r);
  EXPECT_EQ(r->status, 503);
  EXPECT_TRUE(r->has_header("Retry-After"));
  EXPECT_EQ(client_->Get("/health")->status, 200);
  close(busy);
  ASSERT_TRUE(Eventually([&] {
    const auto again = Post("/v1/completions", R"({"prompt":"x"})");
    return again && again->status == 200;
  }));
}

TEST_F(GatewayTest, AStreamsHeadersComeBeforeItsFirstToken) {
  Start({.headers_ms = 20}, {.filler_ms = 50});
  const int fd = Connect();
  Send(fd, RawPost(R"({"prompt":"silent","stream":true})"));
  std::string got;
  ASSERT_TRUE(Eventually([&] {
    got += ReadSome(fd);
    return got.find(": \n\n") != std::string::npos;  // and a comment while it is silent
  })) << got;
  EXPECT_THAT(got, HasSubstr("200 OK"));
  EXPECT_THAT(got, ::testing::Not(HasSubstr("data:")));
  close(fd);
  EXPECT_TRUE(Eventually([&] { return router_.cancelled == 1; }));
}

TEST_F(GatewayTest, AClientThatOnlySendsNoMoreIsAnswered) {
  for (const char* body :
       {R"({"prompt":"x"})", R"({"prompt":"x","stream":true})", R"({"prompt":"a while"})"}) {
    const int fd = Connect();
    Send(fd, RawPost(body));
    shutdown(fd, SHUT_WR);
    std::string got;
    for (std::string some; !(some = ReadSome(fd, 60000)).empty();) got += some;
    EXPECT_THAT(got, ::testing::StartsWith("HTTP/1.1 200 OK\r\n")) << body;
    EXPECT_THAT(got, HasSubstr("t2 ")) << body;
    close(fd);
  }
}

TEST_F(GatewayTest, ALostRouterIsAskedAgainAndTheClientSeesOneAnswer) {
  // The router answers two tokens, and its connection dies or it drains; the answer goes on where
  // it stopped.
  for (const bool stream : {false, true}) {
    router_.deaths = 1;
    router_.drains = stream;
    const Json body = {{"prompt", "dies"}, {"stream", stream}};
    const auto r = Post("/v1/completions", body.dump());
    ASSERT_TRUE(r);
    EXPECT_EQ(r->status, 200);
    std::string text;
    if (stream) {
      EXPECT_THAT(r->body, HasSubstr("[DONE]"));
      for (size_t at = 0; (at = r->body.find("data: {", at)) != std::string::npos; ++at) {
        const std::string line = r->body.substr(at + 6, r->body.find('\n', at) - at - 6);
        const Json j = Json::parse(line, nullptr, false);
        if (!j["choices"].empty()) text += j["choices"][0]["text"].get<std::string>();
      }
    } else {
      text = Body(r)["choices"][0]["text"];
    }
    EXPECT_EQ(text, "t0 t1 t2 ") << r->body;
    EXPECT_EQ(router_.seeds.size(), 2u);
    EXPECT_EQ(router_.seeds[0], router_.seeds[1]);
    EXPECT_THAT(
        client_->Get("/metrics")->body,
        HasSubstr(stream ? "tutti_gateway_resends_total 2" : "tutti_gateway_resends_total 1"));
    router_.seeds.clear();
  }
}

TEST_F(GatewayTest, AnErrorNamesNoPathOfTheMachine) {
  const auto r = Post("/v1/completions", R"({"prompt":"fail:path"})");
  ASSERT_TRUE(r);
  EXPECT_EQ(r->status, 503);
  EXPECT_THAT(r->body, ::testing::Not(HasSubstr("/secret")));
  EXPECT_THAT(r->body, HasSubstr("target[1]"));
  Start({.resend_ms = 0});
  grpc_->Shutdown();
  const auto lost = Post("/v1/completions", R"({"prompt":"x"})");
  ASSERT_TRUE(lost);
  EXPECT_EQ(lost->status, 503);
  EXPECT_THAT(lost->body, HasSubstr("the router cannot be reached"));
}

TEST_F(GatewayTest, ARequestThatDribblesInIsCutOff) {
  Start({}, {.header_ms = 300});
  const int fd = Connect();
  Send(fd, "POST /v1/completions HTTP/1.1\r\n");
  std::string got;
  ASSERT_TRUE(Eventually([&] {
    (void)send(fd, "X", 1, MSG_NOSIGNAL);
    char c[4096];
    const ssize_t n = recv(fd, c, sizeof c, MSG_DONTWAIT);
    if (n > 0) got.append(c, static_cast<size_t>(n));
    return n == 0 || (n < 0 && errno == ECONNRESET);
  }));
  EXPECT_THAT(got, HasSubstr("408"));
  close(fd);
}

TEST_F(GatewayTest, StoppingEndsRunningRequestsWhenTold) {
  const int fd = Connect();
  Send(fd, RawPost(R"({"prompt":"slow","stream":true})"));
  ASSERT_TRUE(Eventually([&] { return router_.running == 1; }));
  gateway_->Drain();
  EXPECT_EQ(client_->Get("/health")->status, 503);
  std::thread stop([&] { server_->Stop(); });
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  EXPECT_EQ(router_.running, 1);  // it has its grace
  gateway_->CancelAll();
  stop.join();
  EXPECT_TRUE(Eventually([&] { return router_.cancelled == 1; }));
  close(fd);
}

TEST_F(GatewayTest, TwoServersDoNotShareAPort) {
  http::Server second({}, {});
  const absl::Status status = second.Bind(server_->address());
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_EQ(second.Bind("nonsense").code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(second.Bind("127.0.0.1:99999").code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace tutti::gateway
