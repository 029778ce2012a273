// The streams of ExpertService.Exchange on one completion queue and one thread: it reads what has
// arrived, runs all of it as one batch when nothing more is there, and writes the replies. Between
// a message's arrival and its computation there is no other thread to wake.
#pragma once

#include <grpcpp/completion_queue.h>

#include <atomic>
#include <deque>
#include <memory>
#include <set>
#include <thread>

#include "services/expert/batch_runner.h"
#include "services/expert/expert_metrics.h"
#include "tutti/expert/v1/expert.grpc.pb.h"

namespace tutti::expert {

class ExchangeLoop {
 public:
  using AsyncService = v1::ExpertService::WithAsyncMethod_Exchange<
      v1::ExpertService::WithCallbackMethod_GetExperts<v1::ExpertService::Service>>;

  // `metrics` is borrowed. `process`: see CombineReply.process. `reply_delay_us`: every reply is
  // held back so long, as by a network.
  ExchangeLoop(AsyncService* service, uint64_t process, int queue_max, int reply_delay_us,
               ExpertMetrics* metrics)
      : service_(service),
        process_(process),
        queue_max_(static_cast<size_t>(queue_max)),
        reply_delay_us_(reply_delay_us),
        metrics_(metrics) {}
  ~ExchangeLoop();  // Stop()

  // For the server's builder.
  void Configure(grpc::ServerBuilder* builder);
  // Once the server runs; until SetReady every dispatch is answered UNAVAILABLE.
  void Start();
  void SetReady(BatchRunner* runner) { runner_ = runner; }
  // Streams end, with UNAVAILABLE, once what they sent is answered.
  void StartDraining();
  // Between the server's shutdown and its end: calls that are still asked for look at the server
  // when they are given up.
  void Stop();
  int queued() const { return queued_; }

 private:
  class Stream;
  friend class Stream;
  struct Waiting {
    std::shared_ptr<Stream> stream;
    v1::DispatchRequest request;
    int64_t arrived_us;
  };

  void Run();
  void Accept();
  void RunBatch();
  void Refuse(const Waiting& w, const absl::Status& why);
  void Answer(const Waiting& w, v1::CombineReply reply);
  // Sends what was held back long enough; when the next one is due.
  int64_t SendDelayed();

  AsyncService* const service_;
  const uint64_t process_;
  const size_t queue_max_;
  const int64_t reply_delay_us_;
  ExpertMetrics* const metrics_;
  std::unique_ptr<grpc::ServerCompletionQueue> queue_;
  std::atomic<BatchRunner*> runner_{nullptr};
  std::atomic<bool> draining_{false};
  std::atomic<int> queued_{0};
  std::atomic<bool> stopping_{false};
  std::set<std::shared_ptr<Stream>> streams_;
  std::deque<Waiting> waiting_;
  struct Delayed {
    int64_t due_us;
    std::shared_ptr<Stream> stream;
    v1::CombineReply reply;
  };
  std::deque<Delayed> delayed_;
  std::thread thread_;
};

}  // namespace tutti::expert
