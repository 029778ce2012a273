// Calls to the router, answered on threads of a completion queue: nobody waits.
#pragma once

#include <grpcpp/completion_queue.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "shared/base/status.h"
#include "tutti/generation/v1/generation.grpc.pb.h"

namespace tutti::gateway {

using RouterStub = generation::v1::GenerationService::StubInterface;

// A completion queue and the threads that answer its events. Not gRPC's callback API: its threads
// sleep for 100 ms after each second without an event, which a request that comes then must wait.
class RouterQueue {
 public:
  class Event {
   public:
    virtual ~Event() = default;
    virtual void OnEvent(bool ok) = 0;
  };

  explicit RouterQueue(int threads = 2);
  ~RouterQueue();  // REQUIRES: no call is under way
  grpc::CompletionQueue* get() { return &queue_; }

 private:
  grpc::CompletionQueue queue_;
  std::vector<std::thread> threads_;
};

// What travels beside a request.
struct CallContext {
  std::string traceparent;
  int64_t deadline_ms = 0;  // from now; 0: none
  // A call that the router's death or drain ends is sent again until so long after its first
  // failure. 0: never.
  int64_t resend_ms = 0;
  // Calls a function after some ms, for resends. REQUIRED when resend_ms > 0.
  std::function<void(int64_t ms, std::function<void()>)> after;
  std::shared_ptr<const void> alive;  // held until the call is over
};

// What the router said, as clients may read it: an error of the connection says that the router
// cannot be reached, and no message names a socket's path.
absl::Status FromRouter(const grpc::Status& status);
// The connection to the router failed; the router itself did not answer.
bool IsConnectionFailure(const grpc::Status& status);
// The router lives, but ends (ErrorInfo DRAINING): the next one takes the request.
bool IsDraining(const grpc::Status& status);

// Drops what a client has already: of each choice, so many tokens and bytes of text. A request that
// is sent again with its seed makes the same tokens and the same text from the start.
class Replay {
 public:
  // What a client has had. In the order of the stream.
  void Count(const generation::v1::GenerateResponse& message);
  // The stream begins again: what was counted comes once more.
  void Restart();
  // Takes from a message of the new stream what was counted. False: nothing is left of it.
  bool Trim(generation::v1::GenerateResponse* message);

 private:
  struct Choice {
    uint64_t tokens = 0, text = 0, prompt_tokens = 0;                 // the client has
    uint64_t skip_tokens = 0, skip_text = 0, skip_prompt_tokens = 0;  // still to be dropped
    bool finished = false;
  };
  Choice& At(uint32_t index);
  bool started_ = false, skip_started_ = false;
  std::vector<Choice> choices_;
};

// Several Generate streams of one request.
// Thread safety: all methods. The callbacks run on the queue's threads, one at a time, never inside
// a method; after `done` none runs. Lives as long as a stream does.
class GenerationStreams : public std::enable_shared_from_this<GenerationStreams> {
 public:
  struct Callbacks {
    std::function<void(size_t call, const generation::v1::GenerateResponse&)> message;
    // Once: OK after all streams ended well, else the first error, when the others are cancelled.
    std::function<void(const absl::Status&)> done;
  };

  // `requests` each have a seed, if they are to be sent again.
  static std::shared_ptr<GenerationStreams> Start(
      RouterStub* stub, RouterQueue* queue,
      std::shared_ptr<const std::vector<generation::v1::GenerateRequest>> requests,
      const CallContext& context, Callbacks callbacks);

  // Reads no further messages (a slow client), until Resume. One message of each stream may still
  // come.
  void Pause();
  void Resume();
  // Streams end soon; `done` says CANCELLED.
  void Cancel();
  int resends() const { return resends_; }

 private:
  class Stream;
  GenerationStreams(RouterStub* stub, RouterQueue* queue,
                    std::shared_ptr<const std::vector<generation::v1::GenerateRequest>> requests,
                    const CallContext& context, Callbacks callbacks);
  void Begin(size_t call);
  void OnMessage(size_t call, generation::v1::GenerateResponse* message);
  void OnEnd(size_t call, const grpc::Status& status);
  void End(const absl::Status& status);

  RouterStub* const stub_;
  RouterQueue* const queue_;
  const std::shared_ptr<const std::vector<generation::v1::GenerateRequest>> requests_;
  const CallContext context_;
  const int64_t begin_ms_;
  std::mutex delivery_;  // held while a callback runs; taken before mutex_
  Callbacks callbacks_;
  std::vector<Replay> replays_;  // guarded by delivery_

  std::mutex mutex_;  // guards what follows
  std::vector<std::shared_ptr<Stream>> streams_;
  std::vector<bool> waiting_;  // a stream that has a message to ask for when Resume comes
  size_t live_ = 0;
  bool paused_ = false, cancelled_ = false, over_ = false;
  int64_t first_failure_ms_ = -1, backoff_ms_ = 50;
  int resends_ = 0;
};

// One unary call. `method` is one of the stub's PrepareAsync...; `done` runs on one of the queue's
// threads.
template <typename Request, typename Response>
void CallRouter(RouterStub* stub, RouterQueue* queue,
                std::unique_ptr<grpc::ClientAsyncResponseReaderInterface<Response>> (
                    RouterStub::*method)(grpc::ClientContext*, const Request&,
                                         grpc::CompletionQueue*),
                const Request& request, const CallContext& context,
                std::function<void(absl::StatusOr<Response>)> done);

}  // namespace tutti::gateway
