// What the target's tests share: a target over a toy model, and a recorder of one stream.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <condition_variable>
#include <filesystem>
#include <mutex>
#include <thread>

#include "services/target/target.h"
#include "shared/engine/test_harness.h"
#include "shared/rpc/clients/decoder_client.h"
#include "shared/testing/http_get.h"
#include "shared/testing/toy_model.h"
#include "tutti/decoder/v1/decoder.grpc.pb.h"

namespace tutti::target {

// Everything that one stream gave.
class Recorder final : public rpc::DecodeListener {
 public:
  void OnTokens(wire::DecodedTokens tokens) override {
    std::lock_guard lock(mutex_);
    if (!tokens.tokens.empty()) {
      EXPECT_EQ(tokens.position, first_index + this->tokens.size());
    }
    ++messages;
    for (auto& t : tokens.tokens) this->tokens.push_back(std::move(t));
    for (auto& t : tokens.prompt_tokens) prompt_tokens.push_back(std::move(t));
    changed_.notify_all();
  }
  void OnFinished(wire::DecodeFinished f) override {
    std::lock_guard lock(mutex_);
    EXPECT_FALSE(finished.has_value());
    finished = std::move(f);
  }
  void OnClosed(absl::Status s) override {
    std::lock_guard lock(mutex_);
    EXPECT_FALSE(closed);
    closed = true;
    status = std::move(s);
    changed_.notify_all();
  }
  void Wait() {
    std::unique_lock lock(mutex_);
    ASSERT_TRUE(changed_.wait_for(lock, std::chrono::seconds(60), [&] { return closed; }))
        << "the stream never ended";
  }
  bool is_closed() const {
    std::lock_guard lock(mutex_);
    return closed;
  }
  void WaitForTokens(size_t n) {
    std::unique_lock lock(mutex_);
    ASSERT_TRUE(changed_.wait_for(lock, std::chrono::seconds(60),
                                  [&] { return closed || tokens.size() >= n; }));
  }
  std::vector<std::string> Bits() const {
    std::vector<std::string> bits;
    for (const auto& t : prompt_tokens) bits.push_back("prompt " + engine::BitsOf(t));
    for (const auto& t : tokens) bits.push_back(engine::BitsOf(t));
    return bits;
  }

  size_t first_index = 0;
  std::vector<engine::TokenOutput> tokens, prompt_tokens;
  std::optional<wire::DecodeFinished> finished;
  absl::Status status;
  bool closed = false;
  int messages = 0;

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
};

// Steps of a model that are slow until a test lets them go: what the test does meanwhile finds its
// sequences running, however slow the machine is. Other threads may ask and change it.
class SlowSteps {
 public:
  // The first `quick` steps are not held up; each one after them takes `pause`, or until Release().
  explicit SlowSteps(int quick = 0,
                     std::chrono::milliseconds pause = std::chrono::milliseconds(100))
      : quick_(quick), pause_(pause) {}
  void Release() {
    std::lock_guard lock(mutex_);
    released_ = true;
    changed_.notify_all();
  }
  absl::Status operator()(std::span<const model::SequenceSlice>) {
    std::unique_lock lock(mutex_);
    if (++steps_ > quick_) changed_.wait_for(lock, pause_, [&] { return released_; });
    return absl::OkStatus();
  }
  int steps() const {
    std::lock_guard lock(mutex_);
    return steps_;
  }

 private:
  const int quick_;
  const std::chrono::milliseconds pause_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  int steps_ = 0;
  bool released_ = false;
};

inline decoder::v1::DecodeRequest RawOpen(int max_tokens) {
  decoder::v1::DecodeRequest request;
  request.mutable_open()->add_prompt_ids(3);
  request.mutable_open()->mutable_sampling()->set_seed(1);
  request.mutable_open()->mutable_sampling()->set_max_tokens(max_tokens);
  request.mutable_open()->mutable_sampling()->set_ignore_eos(true);
  return request;
}

class TargetTest : public ::testing::Test {
 protected:
  TargetTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "tutti-XXXXXX").string();
    folder_ = mkdtemp(pattern.data());
    options_.model = "toy";
    options_.threads = 1;
    options_.engine.num_pages = 128;
    options_.worker.service.listen = {"unix:" + folder_ + "/s"};
    options_.worker.service.metrics = "";
    options_.worker.service.drain_grace_s = 20;
  }
  ~TargetTest() override {
    client_.reset();
    target_.reset();
    std::filesystem::remove_all(folder_);
  }

  // Makes the steps of the target that is started next slow until Release; see SlowSteps. The
  // target keeps them: its thread may be in a step when the test has ended.
  std::shared_ptr<SlowSteps> HoldSteps(
      int quick = 0, std::chrono::milliseconds pause = std::chrono::milliseconds(100)) {
    auto steps = std::make_shared<SlowSteps>(quick, pause);
    on_forward_ = [steps](std::span<const model::SequenceSlice> s) { return (*steps)(s); };
    return steps;
  }
  void StartTarget() {
    auto target = Target::Start(options_, [this](const TargetOptions&, ThreadPool*) {
      LoadedModel out;
      auto toy = std::make_unique<testing::ToyModel>(toy_);
      toy->on_forward = on_forward_;
      out.model = std::move(toy);
      out.tokenizer_fingerprint = 77;
      return absl::StatusOr<LoadedModel>(std::move(out));
    });
    ASSERT_TRUE(target.ok()) << target.status();
    target_ = *std::move(target);
    ASSERT_TRUE(target_->worker().WaitReady().ok());
    client_ = *rpc::DecoderClient::Create(address(), "target[0]");
  }
  std::string address() { return target_->worker().server().addresses()[0]; }

  static wire::DecodeOpen Open(std::vector<int32_t> prompt, uint64_t seed, int max_tokens = 20) {
    wire::DecodeOpen open;
    open.request_id = "test-" + std::to_string(seed);
    open.sequence.prompt = std::move(prompt);
    open.sequence.params.seed = seed;
    open.sequence.params.max_tokens = max_tokens;
    open.sequence.params.ignore_eos = true;
    open.sequence.params.logprobs = 2;
    return open;
  }
  std::shared_ptr<Recorder> Start(const wire::DecodeOpen& open, int64_t deadline_us = 0) {
    auto recorder = std::make_shared<Recorder>();
    recorder->first_index = open.sequence.generated.size();
    stream_ = client_->Open(open, toy_.vocab_size, deadline_us, recorder);
    return recorder;
  }
  std::shared_ptr<Recorder> Run(const wire::DecodeOpen& open) {
    auto recorder = Start(open);
    recorder->Wait();
    return recorder;
  }
  // What one process says of the same request.
  std::vector<std::string> Expected(const wire::DecodeOpen& open) {
    testing::ToyModel model(toy_);
    engine::Job job;
    job.request = open.sequence;
    job.request.id = 1;
    auto outcome = engine::RunJobs(&model, options_.engine, {job})[1];
    auto bits = engine::BitsOf(outcome);
    if (!bits.empty()) bits.pop_back();  // the "finish" line
    return bits;
  }
  double Metric(const std::string& line) {
    return testing::MetricOf(target_->worker().metrics_address(), line);
  }
  std::string HttpText() {
    return testing::HttpGet(target_->worker().metrics_address(), "/metrics");
  }
  template <typename F>
  static bool Eventually(F condition) {
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (!condition() && std::chrono::steady_clock::now() < until)
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    return condition();
  }

  std::string folder_;
  TargetOptions options_;
  testing::ToyOptions toy_;
  std::function<absl::Status(std::span<const model::SequenceSlice>)> on_forward_;
  std::unique_ptr<Target> target_;
  std::unique_ptr<rpc::DecoderClient> client_;
  std::shared_ptr<rpc::DecodeStream> stream_;
};

}  // namespace tutti::target
