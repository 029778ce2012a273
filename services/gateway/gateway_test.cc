// The gateway over real sockets, in front of a scripted router: what the wire carries, and what
// happens when either side fails. Answers of a real model are tested in tests/cluster.
#include "services/gateway/gateway.h"

#include <gmock/gmock.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>

#include "services/gateway/http_server.h"
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
    last_request_id = request->request_id();
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
    GenerateResponse m;
    m.mutable_started()->set_model("fake");
    m.mutable_started()->set_seed(request->sampling().seed());
    writer->Write(m);
    ++running;
    int n = 0;
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
  std::string last_request_id, last_traceparent;

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

  void Start(GatewayOptions options, HttpLimits limits = {}) {
    server_.reset();
    gateway_.reset();
    grpc_.reset();
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
    server_ = std::make_unique<HttpServer>(limits);
    gateway_->Mount(server_.get());
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
    for (int i = 0; i < 300; ++i) {
      if (condition()) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    return false;
  }

  FakeRouter router_;
  std::unique_ptr<telemetry::Metrics> metrics_;
  std::unique_ptr<grpc::Server> grpc_;
  std::unique_ptr<Gateway> gateway_;
  std::unique_ptr<HttpServer> server_;
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
  EXPECT_EQ(router_.last_request_id, r->get_header_value("X-Request-Id"));
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
  } cases[] = {{"fail:full", 429, "queue_full"},       {"fail:arg", 400, nullptr},
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
  EXPECT_EQ(router_.last_request_id, "mine-1");
  EXPECT_EQ(router_.last_traceparent.substr(0, 36), trace.substr(0, 36));
  const auto bad = Post("/v1/completions", R"({"prompt":"x"})", {{"X-Request-Id", "a b"}});
  ASSERT_TRUE(bad);
  EXPECT_EQ(bad->status, 400);
  EXPECT_EQ(Body(bad)["error"]["param"], "X-Request-Id");
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
  Start({.api_keys = {"secret-key-1", "secret-key-2"}});
  EXPECT_EQ(Post("/v1/completions", R"({"prompt":"x"})")->status, 401);
  EXPECT_EQ(
      Post("/v1/completions", R"({"prompt":"x"})", {{"Authorization", "Bearer wrong"}})->status,
      401);
  EXPECT_EQ(Post("/v1/completions", R"({"prompt":"x"})", {{"Authorization", "Bearer secret-key-2"}})
                ->status,
            200);
  EXPECT_EQ(client_->Get("/v1/models")->status, 401);
  EXPECT_EQ(client_->Get("/health")->status, 200);
}

TEST_F(GatewayTest, PagesOfOtherSitesMayAskOnlyWhenToldSo) {
  EXPECT_FALSE(client_->Get("/v1/models")->has_header("Access-Control-Allow-Origin"));
  Start({.cors_origin = "https://a.example"});
  EXPECT_EQ(client_->Get("/v1/models")->get_header_value("Access-Control-Allow-Origin"),
            "https://a.example");
  EXPECT_EQ(client_->Options("/v1/chat/completions")->status, 204);
}

TEST_F(GatewayTest, ConnectionsPastTheQueueAreToldAtOnce) {
  Start({}, {.threads = 1, .queue = 1});
  const int busy = Connect();
  Send(busy, RawPost(R"({"prompt":"slow"})"));
  ASSERT_TRUE(Eventually([&] { return router_.running == 1; }));
  const int waiting = Connect();
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  const int refused = Connect();
  Send(refused, RawPost(R"({"prompt":"x"})"));
  EXPECT_THAT(ReadSome(refused), HasSubstr("503 Service Unavailable"));
  EXPECT_EQ(server_->rejected(), 1);
  close(refused);
  close(waiting);
  close(busy);
  EXPECT_TRUE(Eventually([&] { return router_.cancelled >= 1; }));
  ASSERT_TRUE(Eventually([&] {
    const auto r = Post("/v1/completions", R"({"prompt":"x"})");
    return r && r->status == 200;
  }));
}

TEST_F(GatewayTest, ARequestThatDribblesInIsCutOff) {
  Start({}, {.receive_ms = 300});
  const int fd = Connect();
  const auto start = std::chrono::steady_clock::now();
  Send(fd, "POST /v1/completions HTTP/1.1\r\n");
  std::string got = "x";
  for (int i = 0; i < 30; ++i) {
    if (send(fd, "X", 1, MSG_NOSIGNAL) < 0) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    char c;
    if (recv(fd, &c, 1, MSG_DONTWAIT) == 0) break;
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(1400));
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
  HttpServer second({});
  const absl::Status status = second.Bind(server_->address());
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_EQ(second.Bind("nonsense").code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(second.Bind("127.0.0.1:99999").code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace tutti::gateway
