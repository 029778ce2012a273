#include <grpcpp/client_context.h>

#include "shared/rpc/channel.h"
#include "shared/rpc/status.h"
#include "shared/wire/generation.h"
#include "shared/wire/sampling.h"
#include "tools/cli/cancel_watch.h"
#include "tools/cli/generation.h"
#include "tools/cli/terminal.h"
#include "tools/cli/where.h"
#include "tutti/generation/v1/generation.grpc.pb.h"

namespace tutti::cli {
namespace {

namespace pb = generation::v1;

// A router draws the seed, and cuts max_tokens to the context, when they are not the client's.
void ToProto(const router::RequestSpec& spec, pb::GenerateRequest* out) {
  wire::RequestToProto(spec, out);
  if (!spec.has_seed) out->mutable_sampling()->clear_seed();
  if (!spec.has_max_tokens) out->mutable_sampling()->clear_max_tokens();
}

store::Token FromProto(const common::v1::TokenInfo& t) {
  store::Token out;
  out.id = t.token_id();
  if (t.has_logprob()) out.logprob = t.logprob();
  for (const auto& top : t.top()) out.top.push_back({top.token_id(), top.logprob()});
  out.digest = t.digest();
  return out;
}

store::FinishReason FromProto(common::v1::FinishReason r) {
  switch (r) {
    case common::v1::FINISH_REASON_EOS:
      return store::FinishReason::kEos;
    case common::v1::FINISH_REASON_STOP:
      return store::FinishReason::kStop;
    case common::v1::FINISH_REASON_LENGTH:
      return store::FinishReason::kLength;
    case common::v1::FINISH_REASON_CANCELLED:
      return store::FinishReason::kCancelled;
    case common::v1::FINISH_REASON_DEADLINE:
      return store::FinishReason::kDeadline;
    default:
      return store::FinishReason::kError;
  }
}

class RemoteGenerator : public Generator {
 public:
  RemoteGenerator(const std::string& address, const std::shared_ptr<grpc::Channel>& channel)
      : address_(address), stub_(pb::GenerationService::NewStub(channel)) {}

  absl::StatusOr<GenerateResult> Generate(const router::RequestSpec& spec,
                                          const std::function<void(std::string_view)>& on_text,
                                          const std::atomic<bool>* stop) override {
    const int64_t start = NowUs();
    pb::GenerateRequest request;
    ToProto(spec, &request);
    grpc::ClientContext context;
    GenerateResult result;
    bool finished = false;
    grpc::Status grpc_status;
    {
      const CancelWatch watch(stop, [&context] { context.TryCancel(); });
      auto stream = stub_->Generate(&context, request);
      pb::GenerateResponse message;
      while (stream->Read(&message)) {
        result.request_id = message.request_id();
        if (message.has_started()) {
          const auto& s = message.started();
          result.model = s.model();
          result.fingerprint = s.fingerprint();
          result.seed = s.seed();
          result.prompt_ids.assign(s.prompt_ids().begin(), s.prompt_ids().end());
        } else if (message.has_delta()) {
          const auto& d = message.delta();
          if (result.tokens.empty() && d.tokens_size() > 0) result.first_token_us = NowUs() - start;
          for (const auto& t : d.tokens()) result.tokens.push_back(FromProto(t));
          for (const auto& t : d.prompt_tokens()) result.prompt_tokens.push_back(FromProto(t));
          result.text += d.text();
          if (on_text && !d.text().empty()) on_text(d.text());
        } else if (message.has_finished()) {
          finished = true;
          TakeFinished(message.finished(), on_text, &result);
        }
      }
      grpc_status = stream->Finish();
    }
    result.total_us = NowUs() - start;
    if (stop != nullptr && stop->load() && !finished) {
      result.finish = store::FinishReason::kCancelled;
      result.usage.output_tokens = static_cast<int32_t>(result.tokens.size());
      if (!result.tokens.empty()) result.digest = result.tokens.back().digest;
      return result;
    }
    if (!grpc_status.ok()) {
      const absl::Status status = rpc::FromGrpc(grpc_status);
      return result.request_id.empty() && status.code() == absl::StatusCode::kUnavailable
                 ? Annotate(status, "the router at " + address_)
                 : status;
    }
    if (!finished) return absl::InternalError("the router ended the stream without a finish");
    return result;
  }

 private:
  static void TakeFinished(const pb::Finished& f,
                           const std::function<void(std::string_view)>& on_text,
                           GenerateResult* result) {
    result->finish = FromProto(f.reason());
    result->matched_stop = f.matched_stop();
    result->seed = f.seed();
    result->digest = f.digest();
    const auto& u = f.usage();
    result->usage = {u.prompt_tokens(), u.output_tokens(),   u.cached_tokens(),
                     u.preemptions(),   u.queue_us(),        u.prefill_us(),
                     u.decode_us(),     u.proposed_tokens(), u.accepted_tokens()};
    for (const auto& b : f.beams()) {
      result->beams.push_back({{b.token_ids().begin(), b.token_ids().end()}, b.score(), b.text()});
    }
    if (result->beams.empty() || !result->text.empty()) return;
    result->text = result->beams[0].text;
    if (on_text) on_text(result->text);
  }

  const std::string address_;
  std::unique_ptr<pb::GenerationService::Stub> stub_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Generator>> MakeRemoteGenerator(const Endpoint& endpoint) {
  TUTTI_ASSIGN_OR_RETURN(const auto channel,
                         rpc::OpenChannel(endpoint.address, {.tls = endpoint.tls}));
  return std::unique_ptr<Generator>(new RemoteGenerator(endpoint.address, channel));
}

}  // namespace tutti::cli
