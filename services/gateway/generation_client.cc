#include "services/gateway/generation_client.h"

#include <grpcpp/client_context.h>
#include <grpcpp/completion_queue.h>

#include <chrono>

#include "shared/rpc/channel.h"
#include "shared/rpc/status.h"
#include "shared/telemetry/trace.h"

namespace tutti::gateway {
namespace {

using generation::v1::GenerateRequest;
using generation::v1::GenerateResponse;
using Stub = generation::v1::GenerationService::StubInterface;

void Prepare(const CallContext& call, grpc::ClientContext* context) {
  if (!call.traceparent.empty()) context->AddMetadata(telemetry::kTraceparentKey, call.traceparent);
  if (call.deadline_ms > 0) rpc::SetDeadlineMs(context, call.deadline_ms);
}

enum Op : uintptr_t { kStart, kRead, kFinish };

}  // namespace

struct GenerationStreams::Stream {
  grpc::ClientContext context;
  std::unique_ptr<grpc::ClientAsyncReaderInterface<GenerateResponse>> reader;
  GenerateResponse message;
  grpc::Status end;
  bool ended = false;
};

GenerationStreams::GenerationStreams(Stub* stub, const std::vector<GenerateRequest>& requests,
                                     const CallContext& context)
    : queue_(std::make_unique<grpc::CompletionQueue>()), live_(requests.size()) {
  for (size_t i = 0; i < requests.size(); ++i) {
    auto s = std::make_unique<Stream>();
    Prepare(context, &s->context);
    s->reader = stub->PrepareAsyncGenerate(&s->context, requests[i], queue_.get());
    s->reader->StartCall(reinterpret_cast<void*>(i << 2 | kStart));
    streams_.push_back(std::move(s));
  }
}

GenerationStreams::~GenerationStreams() {
  Cancel();
  while (live_ > 0) {
    // Every stream comes to its kFinish; only messages in between are dropped.
    if (Next(-1) == Event::kDone) break;
  }
  queue_->Shutdown();
  void* tag = nullptr;
  bool ok = false;
  while (queue_->Next(&tag, &ok)) {
  }
}

const GenerateResponse& GenerationStreams::message() const { return streams_[current_]->message; }

void GenerationStreams::Cancel() {
  for (const auto& s : streams_) {
    if (!s->ended) s->context.TryCancel();
  }
}

GenerationStreams::Event GenerationStreams::Next(int wait_ms) {
  if (read_next_) {
    Stream& s = *streams_[current_];
    s.reader->Read(&s.message, reinterpret_cast<void*>(current_ << 2 | kRead));
    read_next_ = false;
  }
  while (live_ > 0) {
    void* tag = nullptr;
    bool ok = false;
    if (wait_ms < 0) {
      if (!queue_->Next(&tag, &ok)) return Event::kDone;
    } else {
      const auto until = std::chrono::system_clock::now() + std::chrono::milliseconds(wait_ms);
      const auto got = queue_->AsyncNext(&tag, &ok, until);
      if (got == grpc::CompletionQueue::TIMEOUT) return Event::kIdle;
      if (got == grpc::CompletionQueue::SHUTDOWN) return Event::kDone;
    }
    const uintptr_t number = reinterpret_cast<uintptr_t>(tag);
    const size_t index = number >> 2;
    Stream& s = *streams_[index];
    switch (static_cast<Op>(number & 3)) {
      case kStart:
      case kRead:
        if (!ok) {
          s.reader->Finish(&s.end, reinterpret_cast<void*>(index << 2 | kFinish));
        } else if ((number & 3) == kStart) {
          s.reader->Read(&s.message, reinterpret_cast<void*>(index << 2 | kRead));
        } else {
          current_ = index;
          read_next_ = true;
          return Event::kMessage;
        }
        break;
      case kFinish:
        s.ended = true;
        --live_;
        if (!s.end.ok()) {
          current_ = index;
          status_ = rpc::FromGrpc(s.end);
          return Event::kFailed;
        }
        break;
    }
  }
  return Event::kDone;
}

template <typename Request, typename Response>
absl::StatusOr<Response> CallRouter(Stub* stub,
                                    grpc::Status (Stub::*method)(grpc::ClientContext*,
                                                                 const Request&, Response*),
                                    const Request& request, const CallContext& context) {
  grpc::ClientContext client;
  Prepare(context, &client);
  Response response;
  const grpc::Status status = (stub->*method)(&client, request, &response);
  if (!status.ok()) return rpc::FromGrpc(status);
  return response;
}

#define TUTTI_INSTANTIATE(name)                                                          \
  template absl::StatusOr<generation::v1::name##Response> CallRouter(                    \
      Stub*,                                                                             \
      grpc::Status (Stub::*)(grpc::ClientContext*, const generation::v1::name##Request&, \
                             generation::v1::name##Response*),                           \
      const generation::v1::name##Request&, const CallContext&)
TUTTI_INSTANTIATE(ListModels);
TUTTI_INSTANTIATE(Tokenize);
TUTTI_INSTANTIATE(Detokenize);
#undef TUTTI_INSTANTIATE

}  // namespace tutti::gateway
