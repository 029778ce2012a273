// Processes that are not what they say, against a real router with real workers: they are refused,
// and nothing that is known or answered changes.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <mutex>
#include <thread>

#include "shared/rpc/channel.h"
#include "shared/rpc/server.h"
#include "tests/cluster/answers.h"
#include "tests/cluster/processes.h"
#include "tutti/decoder/v1/decoder.grpc.pb.h"
#include "tutti/fleet/v1/fleet.grpc.pb.h"
#include "tutti/tokenizer/v1/tokenizer.grpc.pb.h"

namespace tutti::cluster {
namespace {

using fleet::v1::FleetService;
using fleet::v1::GetFleetResponse;
using fleet::v1::WorkerReport;
using generation::v1::GenerateRequest;
using generation::v1::GenerationService;
using ::testing::HasSubstr;

constexpr int64_t kPatienceMs = 60'000;

GenerateRequest Story(int tokens) {
  GenerateRequest r;
  r.set_text("Once upon a time, in a quiet village");
  r.mutable_sampling()->set_seed(11);
  r.mutable_sampling()->set_max_tokens(tokens);
  r.mutable_sampling()->set_ignore_eos(true);
  return r;
}

// Joins with reports of its own making until the router ends the stream, or Leave.
class Joined {
 public:
  Joined(const std::shared_ptr<grpc::Channel>& channel, const WorkerReport& report)
      : stub_(FleetService::NewStub(channel)) {
    rpc::SetDeadlineMs(&context_, 4 * kPatienceMs);
    stream_ = stub_->Join(&context_);
    stream_->Write(report);
    reader_ = std::thread([this] {
      fleet::v1::FleetDirective directive;
      while (stream_->Read(&directive)) ++directives_;
      ended_ = true;
    });
    writer_ = std::thread([this, report] {
      while (!ended_ && !leaving_) {
        stream_->Write(report);
        std::this_thread::sleep_for(std::chrono::milliseconds(100));
      }
    });
  }
  ~Joined() { Leave(); }
  bool ended() const { return ended_; }
  bool WaitUntilTold() {
    for (int i = 0; i < kPatienceMs / 10 && directives_ == 0 && !ended_; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    return directives_ > 0;
  }
  grpc::Status WaitForEnd() {
    for (int i = 0; i < kPatienceMs / 10 && !ended_; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    return Leave();
  }
  grpc::Status Leave() {
    if (!reader_.joinable()) return status_;
    leaving_ = true;
    if (!ended_) context_.TryCancel();
    reader_.join();
    writer_.join();
    return status_ = stream_->Finish();
  }

 private:
  std::unique_ptr<FleetService::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<WorkerReport, fleet::v1::FleetDirective>> stream_;
  std::atomic<int> directives_{0};
  std::atomic<bool> ended_{false}, leaving_{false};
  std::thread reader_, writer_;
  grpc::Status status_;
};

// A tokenizer that answers every text with the same ids, and gives any vocabulary it is told.
class FalseTokenizer final : public tokenizer::v1::TokenizerService::Service {
 public:
  grpc::Status Encode(grpc::ServerContext*, const tokenizer::v1::EncodeRequest*,
                      tokenizer::v1::EncodeResponse* response) override {
    ++encodes;
    for (int i = 0; i < 5; ++i) response->add_ids(1000 + i);
    return grpc::Status::OK;
  }
  grpc::Status GetVocabulary(
      grpc::ServerContext*, const tokenizer::v1::GetVocabularyRequest*,
      grpc::ServerWriter<tokenizer::v1::GetVocabularyResponse>* writer) override {
    ++asked;
    tokenizer::v1::GetVocabularyResponse piece;
    piece.set_fingerprint(fingerprint);
    piece.set_vocab_size(49152);
    for (int i = 0; i < 49152; ++i) {
      piece.add_token_bytes("PWNED ");
      piece.add_special(false);
    }
    piece.set_bos_id(1);
    piece.set_eos_id(2);
    writer->Write(piece);
    return grpc::Status::OK;
  }
  uint64_t fingerprint = 0;
  std::atomic<int> encodes{0}, asked{0};
};

// A target that describes itself as it is told, and whose tokens must never be asked for.
class FalseTarget final : public decoder::v1::DecoderService::Service {
 public:
  grpc::Status GetModel(grpc::ServerContext*, const decoder::v1::GetModelRequest*,
                        decoder::v1::GetModelResponse* response) override {
    std::lock_guard lock(mutex);
    *response = model;
    ++asked;
    return grpc::Status::OK;
  }
  grpc::Status DecodeMany(grpc::ServerContext*,
                          grpc::ServerReaderWriter<decoder::v1::DecodeManyReply,
                                                   decoder::v1::DecodeManyRequest>*) override {
    ++decodes;
    return grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "go away");
  }
  std::mutex mutex;
  decoder::v1::GetModelResponse model;  // guarded, while the server runs
  std::atomic<int> asked{0}, decodes{0};
};

class ImpostorTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (ModelPath().empty()) return;
    LocalClusterOptions options;
    options.num_targets = 1;
    auto local = LocalCluster::Start(std::move(options));
    ASSERT_TRUE(local.ok()) << local.status();
    cluster_ = std::move(*local);
  }
  static void TearDownTestSuite() { cluster_.reset(); }
  void SetUp() override {
    if (cluster_ == nullptr) GTEST_SKIP() << "no model: set TUTTI_MODEL";
    client_ = GenerationService::NewStub(cluster_->Connect());
    operator_ = FleetService::NewStub(cluster_->ConnectAsWorker());
    before_ = Generate(client_.get(), Story(16));
    ASSERT_TRUE(before_.status.ok()) << before_.status.error_message();
  }
  GetFleetResponse View() {
    grpc::ClientContext context;
    rpc::SetDeadlineMs(&context, kPatienceMs);
    GetFleetResponse view;
    EXPECT_TRUE(operator_->GetFleet(&context, {}, &view).ok());
    return view;
  }
  WorkerReport Real(fleet::v1::WorkerKind kind) {
    const GetFleetResponse view = View();
    for (const WorkerReport& w : view.workers()) {
      if (w.kind() == kind) return w;
    }
    ADD_FAILURE() << "no such worker";
    return {};
  }
  // What everybody can know of a real worker, for another process at `address`.
  WorkerReport Like(fleet::v1::WorkerKind kind, const std::string& address) {
    WorkerReport r = Real(kind);
    r.set_worker_id("impostor");
    r.set_address(address);
    r.set_process_nonce("sixteen bytes...");
    return r;
  }
  bool WaitUntil(const std::function<bool()>& condition) {
    for (int i = 0; i < kPatienceMs / 20; ++i) {
      if (condition()) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    return false;
  }
  std::string RefusalOf(const std::string& id) {
    const GetFleetResponse view = View();
    for (const WorkerReport& w : view.workers()) {
      if (w.worker_id() == id) return w.refused();
    }
    return "";
  }
  void ExpectNothingChanged() {
    for (int i = 0; i < 6; ++i) {
      const Answer after = Generate(client_.get(), Story(16));
      ASSERT_TRUE(after.status.ok()) << after.status.error_message();
      EXPECT_EQ(after.choices.at(0).ids, before_.choices.at(0).ids);
      EXPECT_EQ(after.choices.at(0).text, before_.choices.at(0).text);
      EXPECT_EQ(after.choices.at(0).digests, before_.choices.at(0).digests);
    }
  }
  template <typename Service>
  std::unique_ptr<rpc::Server> Serve(Service* service, const std::string& name) {
    rpc::ServiceOptions options;
    options.listen = {"unix:" + cluster_->folder() + "/" + name};
    options.drain_grace_s = 0;
    auto server = rpc::Server::Start(options, {service});
    EXPECT_TRUE(server.ok()) << server.status();
    return std::move(*server);
  }

  static std::unique_ptr<LocalCluster> cluster_;
  std::unique_ptr<GenerationService::Stub> client_;
  std::unique_ptr<FleetService::Stub> operator_;
  Answer before_;
};
std::unique_ptr<LocalCluster> ImpostorTest::cluster_;

TEST_F(ImpostorTest, ClientsCannotJoinNorSeeNorPinOnTheirListener) {
  const auto channel = cluster_->Connect();
  const grpc::Status joined =
      Joined(channel, Like(fleet::v1::WORKER_KIND_TARGET, "unix:/nowhere")).WaitForEnd();
  EXPECT_EQ(joined.error_code(), grpc::StatusCode::UNIMPLEMENTED) << joined.error_message();
  const auto stub = FleetService::NewStub(channel);
  grpc::ClientContext one, two;
  GetFleetResponse view;
  EXPECT_EQ(stub->GetFleet(&one, {}, &view).error_code(), grpc::StatusCode::UNIMPLEMENTED);
  fleet::v1::PinExpertsResponse pins;
  EXPECT_EQ(stub->PinExperts(&two, {}, &pins).error_code(), grpc::StatusCode::UNIMPLEMENTED);
  // Nor can workers' listener be used as a client's.
  const auto as_worker = GenerationService::NewStub(cluster_->ConnectAsWorker());
  EXPECT_EQ(Generate(as_worker.get(), Story(2)).status.error_code(),
            grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_EQ(View().workers_size(), 2);
}

TEST_F(ImpostorTest, AProcessWithTheNameOfARealWorkerIsSentAwayAndTheRealOneStays) {
  WorkerReport r = Like(fleet::v1::WORKER_KIND_TARGET, "unix:/nowhere");
  const WorkerReport real = Real(fleet::v1::WORKER_KIND_TARGET);
  EXPECT_EQ(real.process_nonce(), "") << "views do not tell";
  r.set_worker_id(real.worker_id());
  const grpc::Status s = Joined(cluster_->ConnectAsWorker(), r).WaitForEnd();
  EXPECT_EQ(s.error_code(), grpc::StatusCode::ALREADY_EXISTS) << s.error_message();
  EXPECT_EQ(Real(fleet::v1::WORKER_KIND_TARGET).address(), real.address());
  ExpectNothingChanged();
}

TEST_F(ImpostorTest, ATokenizerWithAnotherVocabularyIsRefusedAndShown) {
  FalseTokenizer liar;
  liar.fingerprint = Real(fleet::v1::WORKER_KIND_TOKENIZER).tokenizer_fingerprint();
  const auto server = Serve(&liar, "liar");
  WorkerReport r = Like(fleet::v1::WORKER_KIND_TOKENIZER, server->advertised());
  r.clear_vocabulary_digest();  // does not say what it will give
  {
    Joined impostor(cluster_->ConnectAsWorker(), r);
    ASSERT_TRUE(WaitUntil([&] { return !RefusalOf("impostor").empty(); }));
    EXPECT_THAT(RefusalOf("impostor"), HasSubstr("not what the model's targets read"));
    ExpectNothingChanged();
    EXPECT_FALSE(impostor.ended());
  }
  // Reports without a fingerprint, or with a digest that is not that of what it gives.
  r.set_tokenizer_fingerprint(0);
  {
    Joined impostor(cluster_->ConnectAsWorker(), r);
    ASSERT_TRUE(impostor.WaitUntilTold());
    ExpectNothingChanged();
  }
  r.set_tokenizer_fingerprint(liar.fingerprint);
  r.set_vocabulary_digest("something else");
  {
    Joined impostor(cluster_->ConnectAsWorker(), r);
    ASSERT_TRUE(WaitUntil([&] { return !RefusalOf("impostor").empty(); }));
    ExpectNothingChanged();
  }
  EXPECT_GE(liar.asked, 2);
  EXPECT_EQ(liar.encodes, 0);
  ExpectNothingChanged();
}

TEST_F(ImpostorTest, ATargetThatSaysOtherThingsOfTheModelGetsNoWork) {
  const WorkerReport real = Real(fleet::v1::WORKER_KIND_TARGET);
  FalseTarget liar;
  liar.model.set_name(real.model());
  liar.model.set_fingerprint(real.fingerprint());
  liar.model.set_tokenizer_fingerprint(real.tokenizer_fingerprint());
  liar.model.set_vocab_size(49152);
  liar.model.set_context_tokens(2048);
  liar.model.add_eos_ids(2);
  const auto server = Serve(&liar, "false-target");
  WorkerReport r = Like(fleet::v1::WORKER_KIND_TARGET, server->advertised());
  const auto refused = [&](const char* what) {
    Joined impostor(cluster_->ConnectAsWorker(), r);
    ASSERT_TRUE(WaitUntil([&] { return !RefusalOf("impostor").empty(); })) << what;
    EXPECT_THAT(RefusalOf("impostor"), HasSubstr(what));
    ExpectNothingChanged();
  };
  r.set_vocabulary_digest("other words");
  refused("vocabulary_digest");
  r.clear_vocabulary_digest();
  refused("vocabulary_digest");
  r = Like(fleet::v1::WORKER_KIND_TARGET, server->advertised());
  const auto with_model = [&](int32_t vocab_size, uint64_t fingerprint) {
    std::lock_guard lock(liar.mutex);
    liar.model.set_vocab_size(vocab_size);
    liar.model.set_fingerprint(fingerprint);
  };
  with_model(10, real.fingerprint());
  refused("vocab_size");
  with_model(49152, 77);
  refused("GetModel");
  EXPECT_EQ(liar.decodes, 0);
}

TEST_F(ImpostorTest, ThousandFingerprintsPushNothingOut) {
  FalseTarget liar;
  liar.model.set_vocab_size(10);
  liar.model.set_context_tokens(10);
  liar.model.set_tokenizer_fingerprint(1);
  const auto server = Serve(&liar, "many");
  WorkerReport r = Like(fleet::v1::WORKER_KIND_TARGET, server->advertised());
  r.set_tokenizer_fingerprint(1);
  // In one stream: what a worker is does not change.
  {
    const auto stub = FleetService::NewStub(cluster_->ConnectAsWorker());
    grpc::ClientContext context;
    rpc::SetDeadlineMs(&context, kPatienceMs);
    auto stream = stub->Join(&context);
    for (uint64_t i = 0; i < 1000; ++i) {
      r.set_fingerprint(~uint64_t{0} - i);
      if (!stream->Write(r)) break;
    }
    fleet::v1::FleetDirective directive;
    while (stream->Read(&directive)) {
    }
    const grpc::Status s = stream->Finish();
    EXPECT_EQ(s.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << s.error_message();
  }
  // In many streams, each of which is asked for its model.
  for (uint64_t i = 0; i < 40; ++i) {
    r.set_fingerprint(~uint64_t{0} - i);
    {
      std::lock_guard lock(liar.mutex);
      liar.model.set_fingerprint(r.fingerprint());
    }
    const int asked = liar.asked;
    Joined impostor(cluster_->ConnectAsWorker(), r);
    ASSERT_TRUE(WaitUntil([&] { return liar.asked > asked || impostor.ended(); }));
  }
  ExpectNothingChanged();
  grpc::ClientContext context;
  generation::v1::ListModelsResponse models;
  ASSERT_TRUE(client_->ListModels(&context, {}, &models).ok());
  EXPECT_LE(models.models_size(), 17);
}

TEST_F(ImpostorTest, AShardThatClaimsExpertsThatNoModelHasCostsNothing) {
  WorkerReport r = Like(fleet::v1::WORKER_KIND_TARGET, "unix:/nowhere");
  r.set_kind(fleet::v1::WORKER_KIND_EXPERT);
  r.mutable_experts()->set_num_layers(2048);
  r.mutable_experts()->set_experts_per_layer(2048);
  const auto resident_kb = [&] {
    std::ifstream status("/proc/" + std::to_string(cluster_->router().pid()) + "/status");
    for (std::string line; std::getline(status, line);) {
      if (line.rfind("VmRSS:", 0) == 0) return std::stol(line.substr(6));
    }
    return 0L;
  };
  const long before = resident_kb();
  for (int i = 0; i < 6; ++i) {
    r.set_worker_id("big" + std::to_string(i));
    r.set_fingerprint(1000 + static_cast<uint64_t>(i));
    Joined shard(cluster_->ConnectAsWorker(), r);
    ASSERT_TRUE(shard.WaitUntilTold());
    EXPECT_EQ(View().placements_size(), 0);
  }
  EXPECT_LT(resident_kb() - before, 20 << 10) << "kilobytes more than " << before;
  ExpectNothingChanged();
}

TEST(ClusterTokenTest, WorkersOverTcpNeedTheTokenOnBothSides) {
  if (ModelPath().empty()) GTEST_SKIP() << "no model: set TUTTI_MODEL";
  const std::string folder = ::testing::TempDir() + "/cluster-token-" + std::to_string(getpid());
  std::filesystem::create_directories(folder);
  std::ofstream(folder + "/token") << "0123456789abcdef-right\n";
  std::ofstream(folder + "/wrong") << "0123456789abcdef-wrong\n";
  const std::string bin = TUTTI_BIN_DIR "/";
  // Without a secret nothing of the cluster starts on TCP, loopback included.
  const auto refused = [&](const std::string& name, std::vector<std::string> argv) {
    argv.insert(argv.begin(), bin + name);
    auto child = Child::Start(name + "-open", folder, argv);
    ASSERT_TRUE(child.ok());
    EXPECT_EQ((*child)->Wait(kPatienceMs), 2);
    std::ifstream log((*child)->log());
    const std::string text((std::istreambuf_iterator<char>(log)), {});
    EXPECT_THAT(text, HasSubstr("--cluster-token-file"));
  };
  refused("tutti-router", {"--listen", "127.0.0.1:0", "--cluster-listen", "127.0.0.1:0"});
  for (const char* worker : {"tutti-tokenizer", "tutti-target", "tutti-expert"})
    refused(worker, {"--model", ModelPath(), "--listen", "127.0.0.1:0"});

  const std::string clients = "unix:" + folder + "/router";
  auto router = Child::Start("router", folder,
                             {bin + "tutti-router", "--listen", clients, "--cluster-listen",
                              "127.0.0.1:0", "--cluster-token-file", folder + "/token"});
  ASSERT_TRUE(router.ok());
  // The log tells the port.
  std::string cluster;
  for (int i = 0; i < kPatienceMs / 20 && cluster.empty(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    std::ifstream log((*router)->log());
    const std::string text((std::istreambuf_iterator<char>(log)), {});
    const size_t at = text.find("cluster_address=");
    if (at != text.npos && text.find_first_of(" \n", at) != text.npos)
      cluster = text.substr(at + 16, text.find_first_of(" \n", at) - at - 16);
  }
  ASSERT_FALSE(cluster.empty());
  std::erase(cluster, '"');
  const auto call = [&](const std::string& address, const std::string& token) {
    rpc::ChannelOptions channel{.own_connection = true};
    channel.tls.cluster_token = token;
    const auto stub = FleetService::NewStub(*rpc::OpenChannel(address, channel));
    grpc::ClientContext context;
    rpc::SetDeadlineMs(&context, kPatienceMs);
    context.set_wait_for_ready(true);
    GetFleetResponse view;
    return stub->GetFleet(&context, {}, &view).error_code();
  };
  EXPECT_EQ(call(cluster, ""), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(call(cluster, "0123456789abcdef-wrong"), grpc::StatusCode::UNAUTHENTICATED);
  std::vector<std::unique_ptr<Child>> workers;
  for (const char* kind : {"tokenizer", "target"}) {
    for (const char* token : {"wrong", "token"}) {
      auto child =
          Child::Start(std::string(kind) + "-" + token, folder,
                       {bin + "tutti-" + kind, "--listen", "127.0.0.1:0", "--join", cluster,
                        "--model", ModelPath(), "--cluster-token-file", folder + "/" + token,
                        "--worker-id", std::string(kind) + "-" + token});
      ASSERT_TRUE(child.ok());
      workers.push_back(std::move(*child));
    }
  }
  const auto stub = GenerationService::NewStub(*rpc::OpenChannel(clients));
  Answer a;
  for (int i = 0; i < kPatienceMs / 100; ++i) {
    a = Generate(stub.get(), Story(4), nullptr, kPatienceMs);
    if (a.status.ok()) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  EXPECT_TRUE(a.status.ok()) << a.status.error_message();
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace tutti::cluster
