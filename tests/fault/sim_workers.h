// Targets and tokenizers of the simulated cluster.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "shared/engine/engine.h"
#include "shared/router/types.h"
#include "shared/testing/toy_model.h"
#include "tests/fault/sim_cluster.h"

namespace tutti::fault {

inline constexpr uint64_t kModelSeed = 7;
inline constexpr int kVocabulary = 64;
inline constexpr uint64_t kTokenizerFingerprint = 77;

std::unique_ptr<testing::ToyModel> MakeModel(uint64_t seed = kModelSeed);
// Bytes of the 64 tokens: letters, words, line ends, pieces of characters, two special ones.
std::shared_ptr<const tokenizer::TokenDecoder> MakeDecoder();
std::vector<int32_t> EncodeText(const std::string& text);
router::Token FromEngine(const engine::TokenOutput& t);
router::FinishReason FromEngine(engine::FinishReason reason);

// A process that can be killed, frozen and started again. While frozen it hears nothing, but what
// it is sent waits.
class Process {
 public:
  Process(World* world, std::string name) : world_(world), name_(std::move(name)) {}
  virtual ~Process() = default;

  bool alive() const { return alive_; }
  bool frozen() const { return frozen_; }
  uint64_t life() const { return life_; }
  const std::string& name() const { return name_; }

  // Delivers now, later (frozen), or never (another life).
  void Deliver(uint64_t life, std::function<void()> what) {
    if (!alive_ || life != life_) return;
    if (frozen_) {
      inbox_.push_back(std::move(what));
    } else {
      what();
    }
  }
  void Kill() {
    if (!alive_) return;
    world_->Trace(name_ + " killed");
    alive_ = frozen_ = false;
    inbox_.clear();
    ++life_;
    OnKilled();
  }
  void Restart() {
    if (alive_) return;
    alive_ = true;
    ++life_;
    world_->Trace(name_ + " started");
    OnStarted();
  }
  void Freeze() {
    if (!alive_ || frozen_) return;
    world_->Trace(name_ + " frozen");
    frozen_ = true;
  }
  void Thaw() {
    if (!alive_ || !frozen_) return;
    world_->Trace(name_ + " thawed");
    frozen_ = false;
    std::vector<std::function<void()>> inbox;
    inbox.swap(inbox_);
    const uint64_t life = life_;
    for (auto& what : inbox) Deliver(life, std::move(what));
    OnThawed();
  }

 protected:
  virtual void OnKilled() {}
  virtual void OnStarted() {}
  virtual void OnThawed() {}
  World* const world_;

 private:
  std::string name_;
  bool alive_ = true, frozen_ = false;
  uint64_t life_ = 1;
  std::vector<std::function<void()>> inbox_;
};

// What a target tells the router at the other end of a stream.
struct StreamSink {
  std::function<void(router::DecodedTokens)> tokens;
  std::function<void(router::DecodeEnd)> end;
  std::function<void(absl::Status)> closed;
};

// How a target or draft differs from an honest target.
struct DecoderTraits {
  bool flip_weight = false;
  bool draft = false;
  bool liar = false;  // a draft that says anything
  uint64_t model_seed = kModelSeed;
  uint64_t tokenizer_fingerprint = kTokenizerFingerprint;
};

// A target or a draft: a real engine, stepped on the virtual clock.
class Target final : public Process {
 public:
  Target(World* world, std::string name, const engine::EngineOptions& options,
         const DecoderTraits& traits);

  void Open(uint64_t key, router::OpenRequest open, StreamSink sink);
  void Hint(uint64_t key, uint32_t position, const std::vector<int32_t>& tokens);
  void Confirm(uint64_t key, uint64_t epoch, uint32_t position, const std::vector<int32_t>& tokens);
  void Cancel(uint64_t key);  // also: the stream broke

  // The engine's thread stands still; the process hears, answers and reports.
  void Hang();
  void Unhang();
  int64_t step_age_us() const {
    return hung_since_us_ >= 0 && engine_->HasWork() ? world_->now_us() - hung_since_us_ : 0;
  }

  // Checks the promises of a quiet or working engine; "" when kept.
  std::string Check() const;
  std::string CheckIdle() const;
  engine::EngineStats Stats() const { return engine_->Stats(); }
  const DecoderTraits& traits() const { return traits_; }
  int64_t proposed() const { return proposed_; }
  int64_t accepted() const { return accepted_; }
  // Streams that end when this process does; the network tells their routers (or does not).
  std::vector<StreamSink> TakeSinks();

 private:
  void OnKilled() override;
  void OnStarted() override;
  void OnThawed() override { ScheduleStep(); }
  void ScheduleStep();
  void Step();

  engine::EngineOptions options_;
  const DecoderTraits traits_;
  std::unique_ptr<testing::ToyModel> model_;
  std::unique_ptr<engine::Engine> engine_;
  struct Stream {
    uint64_t sequence = 0;
    StreamSink sink;
  };
  std::map<uint64_t, Stream> streams_;
  std::map<uint64_t, uint64_t> keys_;  // sequence -> stream
  uint64_t last_sequence_ = 0;
  int64_t proposed_ = 0, accepted_ = 0;  // of sequences that ended here
  bool step_scheduled_ = false;
  int64_t hung_since_us_ = -1;  // -1: it does not hang
  std::vector<StreamSink> orphans_;
};

}  // namespace tutti::fault
