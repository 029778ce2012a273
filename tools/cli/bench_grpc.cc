// The gRPC side of `tutti bench`: all clients on one completion queue and one thread, so that the
// load costs as little as it can of the cores that the server under test may share with it.
#include <grpcpp/completion_queue.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "shared/rpc/channel.h"
#include "shared/rpc/status.h"
#include "tools/cli/bench.h"
#include "tools/cli/terminal.h"
#include "tutti/generation/v1/generation.grpc.pb.h"

namespace tutti::cli {
namespace {

namespace pb = generation::v1;

// One client: a connection of its own, as it would have, and one request after the other on it. At
// most one operation is under way, so the client itself is the tag of all of them.
class GrpcClient {
 public:
  static absl::StatusOr<std::unique_ptr<GrpcClient>> Connect(const BenchOptions& options) {
    rpc::ChannelOptions channel_options;
    channel_options.own_connection = true;
    channel_options.tls = options.endpoint.tls;
    TUTTI_ASSIGN_OR_RETURN(auto channel,
                           rpc::OpenChannel(options.endpoint.address, channel_options));
    return std::unique_ptr<GrpcClient>(new GrpcClient(options, std::move(channel)));
  }

  void Begin(int index, grpc::CompletionQueue* queue) {
    pb::GenerateRequest request;
    request.set_model(options_.model);
    request.set_text(BenchPrompt(options_, index));
    auto* s = request.mutable_sampling();
    s->set_seed(options_.seed + static_cast<uint64_t>(index));
    s->set_temperature(static_cast<float>(options_.temperature));
    s->set_max_tokens(options_.max_tokens);
    s->set_ignore_eos(options_.ignore_eos);
    figures_ = {};
    finished_ = false;
    start_us_ = NowUs();
    context_ = std::make_unique<grpc::ClientContext>();
    reader_ = stub_->PrepareAsyncGenerate(context_.get(), request, queue);
    reader_->StartCall(this);
    state_ = State::kStarting;
  }

  // The operation under way ended. True when the request is over: see figures().
  bool Advance(bool ok) {
    switch (state_) {
      case State::kStarting:
      case State::kReading:
        if (ok && state_ == State::kReading) Take();
        state_ = ok ? State::kReading : State::kFinishing;
        if (ok) {
          reader_->Read(&message_, this);
        } else {
          figures_.end_s = Since();
          reader_->Finish(&status_, this);
        }
        return false;
      case State::kFinishing:
        reader_.reset();
        return true;
    }
    return true;
  }

  absl::StatusOr<RequestFigures> figures() const {
    TUTTI_RETURN_IF_ERROR(rpc::FromGrpc(status_));
    if (!finished_) return absl::InternalError("the stream ended without a finish");
    return figures_;
  }

 private:
  enum class State { kStarting, kReading, kFinishing };

  GrpcClient(const BenchOptions& options, std::shared_ptr<grpc::Channel> channel)
      : options_(options), stub_(pb::GenerationService::NewStub(std::move(channel))) {}

  double Since() const { return static_cast<double>(NowUs() - start_us_) / 1e6; }

  void Take() {
    if (message_.has_delta() && message_.delta().tokens_size() > 0)
      figures_.arrivals.push_back({Since(), message_.delta().tokens_size()});
    if (message_.has_finished()) {
      finished_ = true;
      figures_.prompt_tokens = message_.finished().usage().prompt_tokens();
      figures_.output_tokens = message_.finished().usage().output_tokens();
    }
  }

  const BenchOptions& options_;
  std::unique_ptr<pb::GenerationService::Stub> stub_;
  std::unique_ptr<grpc::ClientContext> context_;
  std::unique_ptr<grpc::ClientAsyncReader<pb::GenerateResponse>> reader_;
  pb::GenerateResponse message_;
  grpc::Status status_;
  State state_ = State::kStarting;
  RequestFigures figures_;
  bool finished_ = false;
  int64_t start_us_ = 0;
};

}  // namespace

absl::Status RunGrpcLoad(const BenchOptions& options, BenchTally* tally,
                         const std::function<void(int done)>& on_progress,
                         const std::atomic<bool>& stop) {
  grpc::CompletionQueue queue;
  std::vector<std::unique_ptr<GrpcClient>> clients;
  for (int c = 0; c < std::min(options.clients, options.requests); ++c) {
    TUTTI_ASSIGN_OR_RETURN(auto client, GrpcClient::Connect(options));
    clients.push_back(std::move(client));
  }
  int next = 0, running = 0;
  for (const auto& client : clients) {
    client->Begin(next++, &queue);
    ++running;
  }
  void* tag = nullptr;
  bool ok = false;
  while (running > 0 && queue.Next(&tag, &ok)) {
    auto* client = static_cast<GrpcClient*>(tag);
    if (!client->Advance(ok)) continue;
    tally->Add(client->figures());
    on_progress(tally->done());
    if (next < options.requests && !stop.load()) {
      client->Begin(next++, &queue);
    } else {
      --running;
    }
  }
  queue.Shutdown();
  while (queue.Next(&tag, &ok)) {
  }
  return absl::OkStatus();
}

}  // namespace tutti::cli
