#include "services/expert/exchange_loop.h"

#include <grpcpp/alarm.h>
#include <grpcpp/server_builder.h>
#include <grpcpp/server_context.h>
#include <grpcpp/support/async_stream.h>

#include <algorithm>
#include <chrono>

#include "shared/base/clock.h"
#include "shared/rpc/status.h"

namespace tutti::expert {
namespace {

// A batch takes at most so many (row, expert) pairs; the first dispatch always fits.
constexpr int64_t kBatchPairs = 4096;
constexpr int64_t kLookUs = 100'000;  // for what the thread is told otherwise
// Replies that wait for a caller that does not read; with more, its stream ends.
constexpr size_t kRepliesBytesMax = size_t{64} << 20;

}  // namespace

// One caller. Its tags hold it alive: an operation that was started comes back exactly once.
class ExchangeLoop::Stream : public std::enable_shared_from_this<Stream> {
 public:
  explicit Stream(ExchangeLoop* loop) : loop_(loop), rw_(&context_) {}

  enum Op { kAccepted, kRead, kWritten, kFinished, kNumOps };
  struct Tag {
    Stream* stream;
    Op op;
    std::shared_ptr<Stream> hold;
  };

  void Request() {
    loop_->service_->RequestExchange(&context_, &rw_, loop_->queue_.get(), loop_->queue_.get(),
                                     Hold(kAccepted));
  }
  void OnEvent(Op op, bool ok) {
    if (op == kAccepted) {
      if (!ok) return;  // the server ends
      loop_->Accept();
      loop_->streams_.insert(shared_from_this());
      rw_.Read(&request_, Hold(kRead));
    } else if (op == kRead) {
      if (!ok) {
        closed_ = true;
      } else {
        ++pending_;
        loop_->waiting_.push_back({shared_from_this(), std::move(request_), SteadyNowUs()});
        request_.Clear();
        rw_.Read(&request_, Hold(kRead));
      }
    } else if (op == kWritten) {
      writing_ = false;
      if (!ok) closed_ = broken_ = true;
      if (broken_) replies_.clear();
      Write();
    } else {
      loop_->streams_.erase(shared_from_this());
      return;
    }
    FinishIfDone();
  }
  void Reply(v1::CombineReply reply) {
    --pending_;
    replies_bytes_ += reply.rows().size();
    if (replies_bytes_ > kRepliesBytesMax && !broken_) {  // it does not read: it is let go
      closed_ = broken_ = true;
      replies_.clear();
      context_.TryCancel();
    }
    if (!broken_) replies_.push_back(std::move(reply));
    Write();
    FinishIfDone();
  }
  void FinishIfDone() {
    if (finishing_ || pending_ > 0 || writing_ || !replies_.empty()) return;
    if (!closed_ && !loop_->draining_) return;
    finishing_ = true;
    rw_.Finish(
        closed_ ? grpc::Status::OK : rpc::ToGrpc(absl::UnavailableError("the shard is draining")),
        Hold(kFinished));
  }

 private:
  Tag* Hold(Op op) { return new Tag{this, op, shared_from_this()}; }
  void Write() {
    if (writing_ || replies_.empty()) return;
    writing_ = true;
    reply_ = std::move(replies_.front());
    replies_bytes_ -= reply_.rows().size();
    replies_.pop_front();
    rw_.Write(reply_, Hold(kWritten));
  }

  ExchangeLoop* const loop_;
  grpc::ServerContext context_;
  grpc::ServerAsyncReaderWriter<v1::CombineReply, v1::DispatchRequest> rw_;
  v1::DispatchRequest request_;
  v1::CombineReply reply_;
  std::deque<v1::CombineReply> replies_;
  size_t replies_bytes_ = 0;  // of those that wait
  int pending_ = 0;           // dispatches without a reply
  bool writing_ = false, closed_ = false, broken_ = false, finishing_ = false;
};

void ExchangeLoop::Configure(grpc::ServerBuilder* builder) {
  queue_ = builder->AddCompletionQueue();
}

void ExchangeLoop::Start() {
  thread_ = std::thread([this] { Run(); });
}

ExchangeLoop::~ExchangeLoop() { Stop(); }

void ExchangeLoop::Stop() {
  if (queue_ == nullptr || stopping_.exchange(true)) return;
  if (thread_.joinable()) thread_.join();
  // Only now, when nothing starts operations any more.
  queue_->Shutdown();
  void* tag;
  bool ok;
  while (queue_->Next(&tag, &ok)) delete static_cast<Stream::Tag*>(tag);
}

void ExchangeLoop::StartDraining() { draining_ = true; }

void ExchangeLoop::Accept() {
  if (!stopping_) std::make_shared<Stream>(this)->Request();
}

void ExchangeLoop::Run() {
  using std::chrono::system_clock;
  Accept();
  bool drained = false;
  while (!stopping_) {
    void* tag = nullptr;
    bool ok = false;
    const int64_t sleep_us = std::clamp<int64_t>(SendDelayed() - SteadyNowUs(), 0, kLookUs);
    const auto until = waiting_.empty() ? system_clock::now() + std::chrono::microseconds(sleep_us)
                                        : system_clock::time_point();
    const auto status = queue_->AsyncNext(&tag, &ok, until);
    if (status == grpc::CompletionQueue::SHUTDOWN) return;
    if (status == grpc::CompletionQueue::GOT_EVENT) {
      const std::unique_ptr<Stream::Tag> t(static_cast<Stream::Tag*>(tag));
      t->stream->OnEvent(t->op, ok);
    } else if (!waiting_.empty()) {
      RunBatch();
    } else if (draining_ && !drained) {
      drained = true;
      const auto all = streams_;
      for (const auto& stream : all) stream->FinishIfDone();
    }
    queued_ = static_cast<int>(waiting_.size());
  }
}

void ExchangeLoop::RunBatch() {
  const int64_t start = SteadyNowUs();
  BatchRunner* const runner = runner_;
  std::vector<Waiting> batch, refused;
  std::vector<absl::Status> why;
  int64_t pairs = 0;
  while (!waiting_.empty()) {
    Waiting& w = waiting_.front();
    absl::Status status;
    if (runner == nullptr) {
      status = absl::UnavailableError("the shard is starting");
    } else if (w.request.budget_us() > 0 &&
               start - w.arrived_us > static_cast<int64_t>(w.request.budget_us())) {
      status = absl::DeadlineExceededError("the budget was gone before its turn came");
    } else if (waiting_.size() > queue_max_) {
      status = absl::ResourceExhaustedError("queue full");
    } else {
      status = wire::CheckDispatch(w.request, runner->shape());
    }
    if (!status.ok()) {
      why.push_back(std::move(status));
      refused.push_back(std::move(w));
      waiting_.pop_front();
      continue;
    }
    if (!batch.empty() && pairs + w.request.expert_ids_size() > kBatchPairs) break;
    pairs += w.request.expert_ids_size();
    batch.push_back(std::move(w));
    waiting_.pop_front();
  }
  for (size_t i = 0; i < refused.size(); ++i) Refuse(refused[i], why[i]);
  if (batch.empty()) return;
  std::vector<v1::CombineReply> replies(batch.size());
  std::vector<BatchRunner::Job> jobs(batch.size());
  for (size_t i = 0; i < batch.size(); ++i) {
    const v1::DispatchRequest& request = batch[i].request;
    std::string& rows = *replies[i].mutable_rows();
    rows.resize(static_cast<size_t>(request.expert_ids_size() * runner->shape().hidden) *
                sizeof(float));
    jobs[i] = {.dispatch = wire::ViewOf(request),
               .out = reinterpret_cast<float*>(rows.data()),
               .queue_us = start - batch[i].arrived_us,
               .status = absl::OkStatus()};
  }
  runner->Run(jobs);
  const int64_t run_us = SteadyNowUs() - start;
  metrics_->CountBatch(batch.size(), pairs, run_us);
  for (size_t i = 0; i < batch.size(); ++i) {
    const int64_t waited = start - batch[i].arrived_us;
    metrics_->queue_time.Observe(static_cast<double>(waited) / 1e6);
    if (!jobs[i].status.ok()) {
      Refuse(batch[i], jobs[i].status);
      continue;
    }
    replies[i].set_dispatch_id(batch[i].request.dispatch_id());
    replies[i].set_queue_us(static_cast<uint32_t>(waited));
    replies[i].set_run_us(static_cast<uint32_t>(run_us));
    replies[i].set_process(process_);
    wire::SignReply(&replies[i]);
    Answer(batch[i], std::move(replies[i]));
  }
}

void ExchangeLoop::Refuse(const Waiting& w, const absl::Status& why) {
  metrics_->refused.Increment();
  v1::CombineReply reply;
  reply.set_dispatch_id(w.request.dispatch_id());
  rpc::StatusToProto(why, reply.mutable_status());
  Answer(w, std::move(reply));
}

void ExchangeLoop::Answer(const Waiting& w, v1::CombineReply reply) {
  if (reply_delay_us_ == 0) return w.stream->Reply(std::move(reply));
  delayed_.push_back({SteadyNowUs() + reply_delay_us_, w.stream, std::move(reply)});
}

int64_t ExchangeLoop::SendDelayed() {
  while (!delayed_.empty() && delayed_.front().due_us <= SteadyNowUs()) {
    const std::shared_ptr<Stream> stream = std::move(delayed_.front().stream);
    v1::CombineReply reply = std::move(delayed_.front().reply);
    delayed_.pop_front();
    stream->Reply(std::move(reply));
  }
  return delayed_.empty() ? INT64_MAX : delayed_.front().due_us;
}

}  // namespace tutti::expert
