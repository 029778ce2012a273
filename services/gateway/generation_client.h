// Calls to the router.
#pragma once

#include <grpcpp/channel.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "shared/base/status.h"
#include "tutti/generation/v1/generation.grpc.pb.h"

namespace tutti::gateway {

// What travels beside a request.
struct CallContext {
  std::string traceparent;
  int64_t deadline_ms = 0;  // from now; 0: none
};

// Several Generate streams, read by one thread. Not thread-safe. Going away cancels what still
// runs.
class GenerationStreams {
 public:
  GenerationStreams(generation::v1::GenerationService::StubInterface* stub,
                    const std::vector<generation::v1::GenerateRequest>& requests,
                    const CallContext& context);
  ~GenerationStreams();
  GenerationStreams(const GenerationStreams&) = delete;
  GenerationStreams& operator=(const GenerationStreams&) = delete;

  enum class Event {
    kMessage,  // message() came on stream prompt()
    kFailed,   // stream prompt() ended with status(), which is not OK
    kIdle,     // nothing within the time
    kDone,     // all streams ended well
  };
  Event Next(int wait_ms);

  size_t prompt() const { return current_; }
  const generation::v1::GenerateResponse& message() const;
  const absl::Status& status() const { return status_; }

  // Streams end soon, with CANCELLED.
  void Cancel();

 private:
  struct Stream;
  std::unique_ptr<grpc::CompletionQueue> queue_;
  std::vector<std::unique_ptr<Stream>> streams_;
  size_t current_ = 0;
  bool read_next_ = false;  // streams_[current_] awaits its next Read
  size_t live_ = 0;
  absl::Status status_;
};

// Unary calls, as functions. `Method` is one of the stub's.
template <typename Request, typename Response>
absl::StatusOr<Response> CallRouter(
    generation::v1::GenerationService::StubInterface* stub,
    grpc::Status (generation::v1::GenerationService::StubInterface::*method)(grpc::ClientContext*,
                                                                             const Request&,
                                                                             Response*),
    const Request& request, const CallContext& context);

}  // namespace tutti::gateway
