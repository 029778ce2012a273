#include "shared/rpc/server.h"

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <thread>

#include "grpc/health/v1/health.grpc.pb.h"
#include "shared/rpc/channel.h"
#include "shared/rpc/cluster_auth.h"
#include "shared/rpc/health.h"
#include "shared/rpc/status.h"
#include "tutti/tokenizer/v1/tokenizer.grpc.pb.h"

namespace tutti::rpc {
namespace {

using grpc::health::v1::Health;
using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;
using ::testing::HasSubstr;
using tokenizer::v1::TokenizerService;
using namespace std::chrono_literals;

// Holds every Decode call until Release (or its cancellation), then answers "done".
class HoldingService final : public TokenizerService::CallbackService {
 public:
  grpc::ServerUnaryReactor* Decode(grpc::CallbackServerContext*,
                                   const tokenizer::v1::DecodeRequest*,
                                   tokenizer::v1::DecodeResponse* response) override {
    struct Reactor final : grpc::ServerUnaryReactor {
      explicit Reactor(HoldingService* s) : service(s) {}
      void OnCancel() override {
        ++service->cancelled;
        if (service->Take(this)) Finish(grpc::Status::CANCELLED);
      }
      void OnDone() override { delete this; }
      HoldingService* service;
    };
    auto* reactor = new Reactor(this);
    std::lock_guard lock(mutex);
    response->set_text("done");
    held.push_back(reactor);
    return reactor;
  }
  bool Take(grpc::ServerUnaryReactor* reactor) {
    std::lock_guard lock(mutex);
    return std::erase(held, reactor) > 0;
  }
  void Release() {
    std::vector<grpc::ServerUnaryReactor*> all;
    {
      std::lock_guard lock(mutex);
      all.swap(held);
    }
    for (auto* reactor : all) reactor->Finish(grpc::Status::OK);
  }
  size_t num_held() {
    std::lock_guard lock(mutex);
    return held.size();
  }

  std::mutex mutex;
  std::vector<grpc::ServerUnaryReactor*> held;
  std::atomic<int> cancelled{0};
};

class ServerTest : public ::testing::Test {
 protected:
  ServerTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "tutti-XXXXXX").string();
    folder_ = mkdtemp(pattern.data());
    options_.listen = {"127.0.0.1:0", "unix:" + folder_ + "/s"};
    options_.drain_grace_s = 5;
  }
  ~ServerTest() override { std::filesystem::remove_all(folder_); }

  std::unique_ptr<Server> Start() {
    auto server = Server::Start(options_, {&service_});
    EXPECT_TRUE(server.ok()) << server.status();
    return server.ok() ? std::move(*server) : nullptr;
  }
  static std::string Check(const std::string& address, const std::string& name = "",
                           const ChannelOptions& channel_options = {}) {
    auto channel = OpenChannel(address, channel_options);
    if (!channel.ok()) return channel.status().ToString();
    grpc::ClientContext context;
    SetDeadlineMs(&context, 60000);
    HealthCheckRequest request;
    request.set_service(name);
    HealthCheckResponse response;
    const grpc::Status status = Health::NewStub(*channel)->Check(&context, request, &response);
    return status.ok() ? HealthCheckResponse::ServingStatus_Name(response.status())
                       : FromGrpc(status).ToString();
  }
  bool Run(const std::string& command) {
    const int rc = std::system(("cd " + folder_ + " && (" + command + ") >log 2>&1").c_str());
    return WIFEXITED(rc) && WEXITSTATUS(rc) == 0;
  }
  template <typename F>
  static bool Eventually(F condition) {
    const auto until = std::chrono::steady_clock::now() + 60s;
    while (!condition() && std::chrono::steady_clock::now() < until)
      std::this_thread::sleep_for(5ms);
    return condition();
  }

  std::string folder_;
  ServiceOptions options_;
  HoldingService service_;
};

TEST_F(ServerTest, AnswersHealthOnEveryAddressNotServingUntilTold) {
  auto server = Start();
  server->health().Register("tutti.tokenizer.v1.TokenizerService");
  ASSERT_EQ(server->addresses().size(), 2u);
  EXPECT_EQ(server->advertised(), server->addresses()[0]);
  for (const std::string& address : server->addresses()) {
    EXPECT_EQ(Check(address), "NOT_SERVING") << address;
  }
  server->SetServing(true);
  for (const std::string& address : server->addresses()) {
    EXPECT_EQ(Check(address), "SERVING") << address;
    EXPECT_EQ(Check(address, "tutti.tokenizer.v1.TokenizerService"), "SERVING");
    EXPECT_THAT(Check(address, "no.such"), HasSubstr("NOT_FOUND"));
  }
}

TEST_F(ServerTest, WatchersSeeEveryChangeAndTheEnd) {
  auto server = Start();
  auto stub = Health::NewStub(*OpenChannel(server->addresses()[0]));
  grpc::ClientContext context;
  SetDeadlineMs(&context, 60000);
  auto stream = stub->Watch(&context, HealthCheckRequest());
  HealthCheckResponse response;
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::NOT_SERVING);
  server->SetServing(true);
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::SERVING);
  std::thread drain([&] { server->Drain(); });
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::NOT_SERVING);
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  drain.join();
}

TEST_F(ServerTest, ADrainLetsRunningCallsFinishAndTakesNoNewOnes) {
  auto server = Start();
  server->SetServing(true);
  bool told = false;
  server->OnDrain([&] { told = true; });
  const std::string address = server->addresses()[1];
  auto channel = *OpenChannel(address);
  grpc::Status status;
  tokenizer::v1::DecodeResponse response;
  std::thread call([&] {
    grpc::ClientContext context;
    SetDeadlineMs(&context, 120000);
    status = TokenizerService::NewStub(channel)->Decode(&context, {}, &response);
  });
  ASSERT_TRUE(Eventually([&] { return service_.num_held() == 1; }));
  std::thread drain([&] { server->Drain(); });
  ASSERT_TRUE(Eventually([&] { return told; }));
  ASSERT_TRUE(Eventually([&] {
    ChannelOptions own;
    own.own_connection = true;
    return Check(address, "", own).find("UNAVAILABLE") != std::string::npos;
  }));
  EXPECT_EQ(service_.num_held(), 1u);
  service_.Release();
  call.join();
  drain.join();
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.text(), "done");
  EXPECT_EQ(service_.cancelled, 0);
}

TEST_F(ServerTest, AfterTheGraceRunningCallsAreCancelled) {
  options_.drain_grace_s = 0.2;
  auto server = Start();
  auto channel = *OpenChannel(server->addresses()[0]);
  grpc::Status status;
  std::thread call([&] {
    grpc::ClientContext context;
    SetDeadlineMs(&context, 120000);
    tokenizer::v1::DecodeResponse response;
    status = TokenizerService::NewStub(channel)->Decode(&context, {}, &response);
  });
  ASSERT_TRUE(Eventually([&] { return service_.num_held() == 1; }));
  const auto start = std::chrono::steady_clock::now();
  server->Drain();
  const auto took = std::chrono::steady_clock::now() - start;
  call.join();
  EXPECT_GE(took, 150ms);
  EXPECT_FALSE(status.ok());
  EXPECT_NE(status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED) << "the call's own end";
  EXPECT_EQ(service_.cancelled, 1);
}

TEST_F(ServerTest, ATakenPortIsAnErrorThatNamesIt) {
  auto first = Start();
  ServiceOptions second = options_;
  second.listen = {first->addresses()[0]};
  HoldingService other;
  const auto result = Server::Start(second, {&other});
  EXPECT_EQ(result.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(result.status().message()), HasSubstr(first->addresses()[0]));
}

TEST_F(ServerTest, ASocketFileLeftByADeadProcessIsNoObstacle) {
  const pid_t child = fork();
  if (child == 0) {
    HoldingService service;
    auto server = Server::Start(options_, {&service});
    _exit(server.ok() ? 0 : 1);  // without unlinking: as after kill -9
  }
  int status = 0;
  waitpid(child, &status, 0);
  ASSERT_EQ(status, 0);
  ASSERT_TRUE(std::filesystem::exists(folder_ + "/s"));
  auto server = Start();
  ASSERT_NE(server, nullptr);
  EXPECT_EQ(Check("unix:" + folder_ + "/s"), "NOT_SERVING");
}

TEST_F(ServerTest, BadTlsFilesAndLongSocketPathsAreNamed) {
  const auto message = [&](auto change) {
    ServiceOptions options = options_;
    change(options);
    HoldingService service;
    const auto result = Server::Start(options, {&service});
    EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(result.status().message());
  };
  EXPECT_THAT(message([](auto& o) { o.tls.cert_file = o.tls.key_file = "/no/such"; }),
              HasSubstr("--tls-cert: cannot read \"/no/such\""));
  EXPECT_THAT(message([](auto& o) { o.tls.cert_file = o.tls.key_file = "/proc/self/stat"; }),
              HasSubstr("is not a PEM file"));
  EXPECT_THAT(message([](auto& o) { o.listen = {"unix:/" + std::string(200, 'x')}; }),
              HasSubstr("1 to 107"));
}

TEST_F(ServerTest, MutualTlsLetsInOnlyClientsOfTheAuthority) {
  // given: an authority, a server certificate for localhost, a client certificate, and a stranger's
  const std::string sign =
      " && openssl x509 -req -in $N.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 "
      "-extfile ext -out $N.pem";
  const std::string make =
      "openssl req -newkey rsa:2048 -nodes -keyout $N.key -out $N.csr -subj /CN=$N";
  if (!Run("openssl version")) GTEST_SKIP() << "no openssl here";
  ASSERT_TRUE(
      Run("echo 'subjectAltName=DNS:localhost,IP:127.0.0.1' > ext && "
          "openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 "
          "-subj /CN=test-authority && N=server && " +
          make + sign + " && N=client && " + make + sign +
          " && openssl req -x509 -newkey rsa:2048 -nodes -keyout stranger.key -out "
          "stranger.pem -days 2 -subj /CN=stranger"))
      << "openssl failed, see " << folder_ << "/log";
  const std::string f = folder_ + "/";
  options_.tls = {
      .cert_file = f + "server.pem", .key_file = f + "server.key", .ca_file = f + "ca.pem"};
  auto server = Start();
  ASSERT_NE(server, nullptr);
  server->SetServing(true);
  const std::string tcp = server->addresses()[0];

  // then: the authority's client gets through, over TCP; the unix socket stays plain
  ChannelOptions good{.tls = {f + "client.pem", f + "client.key", f + "ca.pem", ""}};
  EXPECT_EQ(Check(tcp, "", good), "SERVING");
  EXPECT_EQ(Check(server->addresses()[1], "", good), "SERVING");
  EXPECT_EQ(Check(server->addresses()[1]), "SERVING");
  // and: without certificate, with a stranger's, without TLS, or when the server's name is wrong:
  // not
  ChannelOptions none{.tls = {"", "", f + "ca.pem", ""}};
  EXPECT_THAT(Check(tcp, "", none), HasSubstr("UNAVAILABLE"));
  ChannelOptions stranger{.tls = {f + "stranger.pem", f + "stranger.key", f + "ca.pem", ""}};
  EXPECT_THAT(Check(tcp, "", stranger), HasSubstr("UNAVAILABLE"));
  EXPECT_THAT(Check(tcp), HasSubstr("UNAVAILABLE"));
  ChannelOptions misnamed{.tls = {f + "client.pem", f + "client.key", f + "ca.pem", "elsewhere"}};
  EXPECT_THAT(Check(tcp, "", misnamed), HasSubstr("UNAVAILABLE"));
}

TEST_F(ServerTest, AClusterListenerOnTcpAsksForTheTokenAndAUnixSocketDoesNot) {
  options_.cluster_listener = true;
  options_.tls.cluster_token = "0123456789abcdef";
  auto server = Start();
  server->SetServing(true);
  const std::string tcp = server->addresses()[0], unix_address = server->addresses()[1];
  const auto call = [&](const std::string& address, const std::string& token) {
    ChannelOptions channel{.own_connection = true};
    channel.tls.cluster_token = token;
    auto stub = TokenizerService::NewStub(*OpenChannel(address, channel));
    grpc::ClientContext context, stream_context;
    SetDeadlineMs(&context, 60'000);
    SetDeadlineMs(&stream_context, 60'000);
    tokenizer::v1::EncodeResponse response;
    const grpc::Status unary = stub->Encode(&context, {}, &response);
    auto stream = stub->GetVocabulary(&stream_context, {});
    tokenizer::v1::GetVocabularyResponse piece;
    while (stream->Read(&piece)) {
    }
    EXPECT_EQ(stream->Finish().error_code(), unary.error_code());
    return unary;
  };
  // The service has neither method: what reaches it is UNIMPLEMENTED.
  EXPECT_EQ(call(tcp, "0123456789abcdef").error_code(), grpc::StatusCode::UNIMPLEMENTED);
  const int64_t before = NumTokenRefusals();
  for (const char* wrong : {"", "0123456789abcdeg", "0123456789abcde", "0123456789abcdef0"}) {
    const grpc::Status s = call(tcp, wrong);
    EXPECT_EQ(s.error_code(), grpc::StatusCode::UNAUTHENTICATED) << wrong;
    EXPECT_THAT(s.error_message(), HasSubstr("--cluster-token-file"));
  }
  EXPECT_EQ(NumTokenRefusals() - before, 8);
  EXPECT_EQ(Check(tcp), "SERVING") << "probes need no secret";
  EXPECT_EQ(call(unix_address, "").error_code(), grpc::StatusCode::UNIMPLEMENTED);
  const auto mode = std::filesystem::status(unix_address.substr(5)).permissions();
  EXPECT_EQ(static_cast<unsigned>(mode & std::filesystem::perms::mask), 0600u);
}

TEST_F(ServerTest, AClusterListenerWithTlsAsksForTheTokenToo) {
  ASSERT_TRUE(
      Run("openssl req -x509 -newkey rsa:2048 -nodes -keyout k.pem -out c.pem -days 2 -subj "
          "/CN=localhost -addext subjectAltName=DNS:localhost"));
  options_.cluster_listener = true;
  options_.tls.cert_file = folder_ + "/c.pem";
  options_.tls.key_file = folder_ + "/k.pem";
  options_.tls.cluster_token = "0123456789abcdef";
  auto server = Start();
  const auto call = [&](const std::string& token) {
    ChannelOptions channel{.own_connection = true};
    channel.tls.ca_file = folder_ + "/c.pem";
    channel.tls.server_name = "localhost";
    channel.tls.cluster_token = token;
    grpc::ClientContext context;
    SetDeadlineMs(&context, 60'000);
    tokenizer::v1::EncodeResponse response;
    return TokenizerService::NewStub(*OpenChannel(server->addresses()[0], channel))
        ->Encode(&context, {}, &response)
        .error_code();
  };
  EXPECT_EQ(call("0123456789abcdef"), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_EQ(call("another token, wrong"), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(call(""), grpc::StatusCode::UNAUTHENTICATED);
}

TEST_F(ServerTest, AClusterListenerOnTcpWithoutASecretDoesNotStart) {
  options_.cluster_listener = true;
  const absl::Status s = Server::Start(options_, {&service_}).status();
  EXPECT_EQ(s.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(s.message()), HasSubstr("--cluster-token-file"));
  // TLS of the server alone does not say who the callers are.
  options_.tls.cert_file = options_.tls.key_file = "x";
  EXPECT_FALSE(options_.Validate().ok());
  options_.tls.ca_file = "x";
  EXPECT_TRUE(options_.Validate().ok());
  options_.tls = {};
  options_.insecure_cluster = true;
  EXPECT_TRUE(options_.Validate().ok());
  options_.insecure_cluster = false;
  options_.listen = {"unix:" + folder_ + "/s"};
  EXPECT_TRUE(options_.Validate().ok());
}

TEST_F(ServerTest, ARequestOverTheSizeLimitIsRefusedAndTheServerGoesOn) {
  ServerLimits limits;
  limits.max_message_bytes = 1000;
  auto server = Server::Start(options_, {&service_}, limits);
  ASSERT_TRUE(server.ok());
  auto stub = TokenizerService::NewStub(*OpenChannel((*server)->addresses()[0]));
  grpc::ClientContext context;
  SetDeadlineMs(&context, 60000);
  tokenizer::v1::DecodeRequest request;
  for (int i = 0; i < 2000; ++i) request.add_ids(i);
  tokenizer::v1::DecodeResponse response;
  EXPECT_EQ(stub->Decode(&context, request, &response).error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(Check((*server)->addresses()[0]), "NOT_SERVING");
}

TEST(DeadlineTest, AnOnwardCallGetsTheRestMinusAMargin) {
  using Clock = std::chrono::system_clock;
  constexpr int64_t kRounding = 1000;  // µs: gRPC keeps deadlines in steps of its own
  // `remaining` of `whole`, where both ends of the time in between are known.
  const auto expect_rest = [](int64_t remaining, int64_t whole_us, Clock::time_point since) {
    const int64_t gone =
        std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - since).count();
    EXPECT_LE(remaining, whole_us + kRounding);
    EXPECT_GE(remaining, whole_us - gone - kRounding);
  };
  const auto now = Clock::now();
  EXPECT_EQ(RemainingUs(now - 1s), 0);
  EXPECT_EQ(RemainingUs(Clock::time_point::max()), INT64_MAX);
  expect_rest(RemainingUs(now + 1h), 3'600'000'000, now);
  grpc::ClientContext context;
  PropagateDeadline(now + 1h, 0, &context);
  expect_rest(RemainingUs(context.deadline()), 3'600'000'000 - 20'000, now);
  grpc::ClientContext bounded;
  const auto then = Clock::now();
  PropagateDeadline(Clock::time_point::max(), 300'000, &bounded);
  expect_rest(RemainingUs(bounded.deadline()), 300'000'000, then);
}

// The child says over a pipe (its end is in the environment) that it serves.
constexpr char kReadyFd[] = "TUTTI_TEST_READY_FD";

TEST(SignalTest, SigtermDrainsAndEndsTheProcessCleanly) {
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  setenv(kReadyFd, std::to_string(ready[1]).c_str(), 1);
  const pid_t child = fork();
  if (child == 0) {
    execl("/proc/self/exe", "self", "--gtest_filter=SignalTest.DISABLED_Child",
          "--gtest_also_run_disabled_tests", nullptr);
    _exit(99);
  }
  close(ready[1]);
  char byte = 0;
  ASSERT_EQ(read(ready[0], &byte, 1), 1) << "the child never served";
  close(ready[0]);
  kill(child, SIGTERM);
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_TRUE(WIFEXITED(status)) << status;
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST(SignalTest, DISABLED_Child) {
  BlockShutdownSignals();
  ServiceOptions options;
  options.listen = {"127.0.0.1:0"};
  HoldingService service;
  auto server = Server::Start(options, {&service});
  ASSERT_TRUE(server.ok());
  const char* fd = std::getenv(kReadyFd);
  ASSERT_NE(fd, nullptr);
  ASSERT_EQ(write(std::stoi(fd), "r", 1), 1);
  EXPECT_EQ((*server)->RunUntilSignal(), SIGTERM);
}

}  // namespace
}  // namespace tutti::rpc
