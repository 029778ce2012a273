// What a token costs on its way from the engine to a client, without the model: a target over a toy
// model in one process, a client in another.
//
//   target-hop-bench [streams] [tokens per stream] [step in µs] [address]
//
// Prints processor time per token in each process, less what the same steps cost in one process,
// and the time from opening a stream to its first token.
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "services/target/target.h"
#include "shared/rpc/clients/decoder_client.h"
#include "shared/rpc/server.h"
#include "shared/telemetry/log.h"
#include "shared/testing/toy_model.h"

namespace {

using Clock = std::chrono::steady_clock;
using namespace tutti;

double CpuUs() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  const auto us = [](const timeval& t) { return 1e6 * t.tv_sec + t.tv_usec; };
  return us(usage.ru_utime) + us(usage.ru_stime);
}

// Of all threads of another process.
double CpuUs(pid_t pid) {
  double us = 0;
  std::error_code error;
  for (const auto& task :
       std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/task", error)) {
    long long ns = 0;
    std::ifstream(task.path() / "schedstat") >> ns;
    us += static_cast<double>(ns) * 1e-3;
  }
  return us;
}

double MicrosSince(Clock::time_point start) {
  return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
}

// Sleeps through a step, so that the threads of the services are cold, as under a real model.
std::unique_ptr<testing::ToyModel> MakeModel(int step_us) {
  auto model = std::make_unique<testing::ToyModel>(
      testing::ToyOptions{.vocab_size = 64, .context_tokens = 4096});
  model->on_forward = [step_us](auto) {
    if (step_us > 0) usleep(static_cast<useconds_t>(step_us));
    return absl::OkStatus();
  };
  return model;
}

engine::EngineOptions Options() {
  engine::EngineOptions options;
  options.num_pages = 8192;
  options.max_running = 256;
  return options;
}

engine::SequenceRequest Request(uint64_t seed, int tokens) {
  engine::SequenceRequest request;
  request.prompt = {2, 3, 4};
  request.params.seed = seed;
  request.params.max_tokens = tokens;
  request.params.ignore_eos = true;
  return request;
}

// Steps and sampling alone.
double BaselineCpuUs(int streams, int tokens, int step_us) {
  auto model = MakeModel(step_us);
  auto engine = *engine::Engine::Create(model.get(), Options());
  const double start = CpuUs();
  for (int i = 0; i < streams; ++i) {
    auto request = Request(static_cast<uint64_t>(i), tokens);
    request.id = static_cast<uint64_t>(i) + 1;
    if (!engine->Submit(request, 0).ok()) std::abort();
  }
  while (engine->HasWork()) engine->Step(0);
  return CpuUs() - start;
}

struct Counter {
  std::mutex mutex;
  std::condition_variable changed;
  int open = 0;
  long tokens = 0, messages = 0;
};

class Listener final : public rpc::DecodeListener {
 public:
  Listener(Counter* counter, double* first_us) : counter_(counter), first_us_(first_us) {}
  void OnTokens(wire::DecodedTokens tokens) override {
    if (first_us_ != nullptr && *first_us_ < 0) *first_us_ = MicrosSince(start_);
    std::lock_guard lock(counter_->mutex);
    counter_->tokens += static_cast<long>(tokens.tokens.size());
    ++counter_->messages;
  }
  void OnFinished(wire::DecodeFinished) override {}
  void OnClosed(absl::Status status) override {
    if (!status.ok()) fprintf(stderr, "%s\n", status.ToString().c_str());
    std::lock_guard lock(counter_->mutex);
    --counter_->open;
    counter_->changed.notify_all();
  }

 private:
  Counter* const counter_;
  double* const first_us_;
  const Clock::time_point start_ = Clock::now();
};

void RunClient(rpc::DecoderClient* client, int streams, int tokens, Counter* counter,
               double* first_us) {
  counter->open += streams;
  for (int i = 0; i < streams; ++i) {
    wire::DecodeOpen open;
    open.sequence = Request(static_cast<uint64_t>(i), tokens);
    client->Open(open, 64, 0, std::make_shared<Listener>(counter, first_us));
  }
  std::unique_lock lock(counter->mutex);
  counter->changed.wait(lock, [&] { return counter->open == 0; });
}

int RunTarget(const std::string& address, int step_us) {
  rpc::BlockShutdownSignals();
  target::TargetOptions options;
  options.model = "toy";
  options.threads = 1;
  options.engine = Options();
  options.worker.service.listen = {address};
  auto target = target::Target::Start(options, [&](const target::TargetOptions&, ThreadPool*) {
    target::LoadedModel out;
    out.model = MakeModel(step_us);
    return absl::StatusOr<target::LoadedModel>(std::move(out));
  });
  if (!target.ok()) return 1;
  if (!(*target)->worker().Run().ok()) return 1;
  rpc::ExitNow(0);
}

}  // namespace

int main(int argc, char** argv) {
  const int streams = argc > 1 ? std::atoi(argv[1]) : 8;
  const int tokens = argc > 2 ? std::atoi(argv[2]) : 500;
  const int step_us = argc > 3 ? std::atoi(argv[3]) : 5000;
  const std::string address =
      argc > 4 ? argv[4] : "unix:/tmp/tutti-hop-bench-" + std::to_string(getpid());
  telemetry::InitLog("bench", telemetry::Level::kWarning, false);
  const pid_t child = fork();
  if (child == 0) return RunTarget(address, step_us);

  auto client = *rpc::DecoderClient::Create(address, "target");
  for (bool up = false; !up;) {  // until the model is there
    Counter probe;
    double first_us = -1;
    usleep(20000);
    RunClient(client.get(), 1, 2, &probe, &first_us);
    up = probe.tokens == 2;
  }
  Counter counter;
  const double start = CpuUs(), target_start = CpuUs(child);
  const auto wall = Clock::now();
  RunClient(client.get(), streams, tokens, &counter, nullptr);
  const double client_us = CpuUs() - start;
  const double wall_us = MicrosSince(wall);
  const double target_us = CpuUs(child) - target_start;

  std::vector<double> firsts;
  for (int i = 0; i < 50; ++i) {
    Counter one;
    double first_us = -1;
    RunClient(client.get(), 1, 1, &one, &first_us);
    firsts.push_back(first_us - step_us);
  }
  std::sort(firsts.begin(), firsts.end());

  kill(child, SIGTERM);
  int status = 0;
  waitpid(child, &status, 0);
  const double baseline_us = BaselineCpuUs(streams, tokens, step_us);
  const double n = static_cast<double>(counter.tokens);
  printf("%s: %d streams, %ld tokens in %ld messages, %.0f tok/s, steps of %d us\n",
         address.c_str(), streams, counter.tokens, counter.messages, n / wall_us * 1e6, step_us);
  printf("processor us per token: client %.1f, target %.1f (of which engine and model %.1f)\n",
         client_us / n, target_us / n, baseline_us / n);
  printf("first token after (less one step) us: p50 %.0f, p90 %.0f\n", firsts[25], firsts[45]);
  return 0;
}
