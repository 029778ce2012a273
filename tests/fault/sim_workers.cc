#include "tests/fault/sim_workers.h"

namespace tutti::fault {

std::unique_ptr<testing::ToyModel> MakeModel(uint64_t seed) {
  testing::ToyOptions o;
  o.vocab_size = kVocabulary;
  o.context_tokens = 160;
  o.eos_ids = {1};
  o.seed = seed;
  return std::make_unique<testing::ToyModel>(o);
}

std::shared_ptr<const tokenizer::TokenDecoder> MakeDecoder() {
  tokenizer::DecoderTable t;
  t.bytes = {"<s>",  "</s>",     "\n",   " ",        "ab",       "the ", "\xc3",
             "\xa9", "\xe2\x82", "\xac", "\xf0\x9f", "\x98\x80", "\xff"};
  for (int i = 0; t.bytes.size() < kVocabulary; ++i) {
    t.bytes.push_back(i % 4 == 3 ? std::string("b") + static_cast<char>('a' + i % 6)
                                 : std::string(1, static_cast<char>('a' + i % 26)));
  }
  t.special.assign(kVocabulary, false);
  t.special[0] = t.special[1] = true;
  return tokenizer::MakeByteDecoder(std::move(t));
}

std::vector<int32_t> EncodeText(const std::string& text) {
  std::vector<int32_t> ids;
  for (const char c : text) ids.push_back(2 + static_cast<uint8_t>(c) % (kVocabulary - 2));
  return ids;
}

router::Token FromEngine(const engine::TokenOutput& t) {
  router::Token out;
  out.id = t.token_id;
  out.logprob = t.logprob;
  out.digest = t.digest;
  for (const auto& a : t.top) out.top.push_back({a.token_id, a.logprob});
  return out;
}

router::FinishReason FromEngine(engine::FinishReason reason) {
  switch (reason) {
    case engine::FinishReason::kEos:
      return router::FinishReason::kEos;
    case engine::FinishReason::kStopId:
      return router::FinishReason::kStop;
    case engine::FinishReason::kLength:
      return router::FinishReason::kLength;
    case engine::FinishReason::kCancelled:
      return router::FinishReason::kCancelled;
    case engine::FinishReason::kDeadline:
      return router::FinishReason::kDeadline;
    case engine::FinishReason::kError:
      return router::FinishReason::kError;
    case engine::FinishReason::kNone:
      break;
  }
  return router::FinishReason::kNone;
}

Target::Target(World* world, std::string name, const engine::EngineOptions& options,
               const DecoderTraits& traits)
    : Process(world, std::move(name)),
      options_(options),
      traits_(traits),
      model_(MakeModel(traits.model_seed)) {
  if (traits.flip_weight) model_->FlipWeightBit(11 * 4 + 1, 22);
  OnStarted();
}

void Target::OnStarted() {
  engine_ = *engine::Engine::Create(model_.get(), options_);
  step_scheduled_ = false;
  hung_since_us_ = -1;
}

void Target::Hang() {
  if (!alive() || hung_since_us_ >= 0) return;
  world_->Trace(name() + " hangs");
  hung_since_us_ = world_->now_us();
}

void Target::Unhang() {
  if (!alive() || hung_since_us_ < 0) return;
  world_->Trace(name() + " goes on");
  hung_since_us_ = -1;
  ScheduleStep();
}

void Target::OnKilled() {
  for (auto& [key, stream] : streams_) orphans_.push_back(std::move(stream.sink));
  streams_.clear();
  keys_.clear();
  engine_ =
      *engine::Engine::Create(model_.get(), options_);  // nobody looks at it before the next life
}

std::vector<StreamSink> Target::TakeSinks() { return std::exchange(orphans_, {}); }

void Target::Open(uint64_t key, router::OpenRequest open, StreamSink sink) {
  engine::SequenceRequest r;
  r.id = ++last_sequence_;
  r.prompt = *open.prompt_ids;
  r.generated = std::move(open.generated_ids);
  r.digest = open.digest;
  r.digests = std::move(open.digests);
  r.params = std::move(open.sampling);
  r.priority = open.priority;
  r.client = open.client;
  r.lookahead = open.lookahead;
  const bool other = open.fingerprint != 0 && open.fingerprint != model_->info().fingerprint;
  const absl::Status status = other ? absl::FailedPreconditionError("fingerprint")
                                    : engine_->Submit(std::move(r), world_->now_us());
  if (!status.ok()) return sink.closed(status);
  streams_[key] = {last_sequence_, std::move(sink)};
  keys_[last_sequence_] = key;
  ScheduleStep();
}

void Target::Cancel(uint64_t key) {
  const auto it = streams_.find(key);
  if (it == streams_.end()) return;
  engine_->Cancel(it->second.sequence);
  keys_.erase(it->second.sequence);
  streams_.erase(it);
  ScheduleStep();
}

void Target::Hint(uint64_t key, uint32_t position, const std::vector<int32_t>& tokens) {
  const auto it = streams_.find(key);
  if (it == streams_.end()) return;
  engine_->Hint(it->second.sequence, static_cast<int32_t>(position), tokens);
}

void Target::Confirm(uint64_t key, uint64_t epoch, uint32_t position,
                     const std::vector<int32_t>& tokens) {
  const auto it = streams_.find(key);
  if (it == streams_.end()) return;
  engine_->Confirm(it->second.sequence, epoch, static_cast<int32_t>(position), tokens);
  ScheduleStep();
}

void Target::ScheduleStep() {
  if (step_scheduled_ || !engine_->HasWork()) return;
  step_scheduled_ = true;
  world_->After(world_->Draw(2'000, 12'000), [this, life = life()] {
    if (!alive() || life != this->life()) return;
    step_scheduled_ = false;
    if (!frozen() && hung_since_us_ < 0) Step();
  });
}

void Target::Step() {
  for (engine::SequenceOutput& out : engine_->Step(world_->now_us())) {
    const auto key = keys_.find(out.id);
    if (key == keys_.end()) continue;
    Stream& stream = streams_[key->second];
    if (!out.tokens.empty() || !out.prompt_tokens.empty()) {
      router::DecodedTokens tokens;
      tokens.epoch = out.epoch;
      tokens.confirmed = static_cast<uint32_t>(out.confirmed);
      tokens.position = static_cast<uint32_t>(out.first_index);
      for (const auto& t : out.tokens) tokens.tokens.push_back(FromEngine(t));
      for (auto& t : tokens.tokens) {
        if (traits_.liar) t.id = static_cast<int32_t>(world_->Draw(-2, kVocabulary + 2));
      }
      for (const auto& t : out.prompt_tokens) tokens.prompt_tokens.push_back(FromEngine(t));
      tokens.usage.cached_tokens = out.usage.cached_tokens;
      tokens.usage.proposed_tokens = out.usage.proposed_tokens;
      tokens.usage.accepted_tokens = out.usage.accepted_tokens;
      tokens.accepted_hint_tokens = out.usage.accepted_hint_tokens;
      stream.sink.tokens(std::move(tokens));
    }
    if (out.finish == engine::FinishReason::kNone) continue;
    proposed_ += out.usage.proposed_tokens;
    accepted_ += out.usage.accepted_tokens;
    if (!out.status.ok()) {
      stream.sink.closed(out.status);
    } else {
      router::DecodeEnd end;
      end.reason = FromEngine(out.finish);
      end.usage.prompt_tokens = out.usage.prompt_tokens;
      end.usage.output_tokens = out.usage.output_tokens;
      end.usage.cached_tokens = out.usage.cached_tokens;
      end.usage.proposed_tokens = out.usage.proposed_tokens;
      end.usage.accepted_tokens = out.usage.accepted_tokens;
      for (auto& b : out.beams) end.beams.push_back({std::move(b.token_ids), b.score, ""});
      stream.sink.end(std::move(end));
      stream.sink.closed(absl::OkStatus());
    }
    streams_.erase(key->second);
    keys_.erase(key);
  }
  if (std::string wrong = Check(); !wrong.empty()) world_->Fail(name() + ": " + wrong);
  ScheduleStep();
}

std::string Target::Check() const {
  const engine::EngineStats s = engine_->Stats();
  if (s.num_waiting > options_.max_waiting + options_.max_running) {  // preempted ones wait, too
    return std::to_string(s.num_waiting) + " sequences wait, the queue holds " +
           std::to_string(options_.max_waiting);
  }
  if (s.num_running > options_.max_running) return std::to_string(s.num_running) + " run";
  if (s.num_free_pages < 0 || s.num_free_pages > s.num_pages)
    return "free pages: " + std::to_string(s.num_free_pages);
  return "";
}

std::string Target::CheckIdle() const {
  const engine::EngineStats s = engine_->Stats();
  if (!streams_.empty()) return std::to_string(streams_.size()) + " streams are open";
  if (s.num_running != 0 || s.num_waiting != 0) {
    return std::to_string(s.num_running) + " sequences run, " + std::to_string(s.num_waiting) +
           " wait";
  }
  if (s.num_free_pages + s.num_cached_pages != s.num_pages) {
    return "pages leaked: " + std::to_string(s.num_free_pages) + " free + " +
           std::to_string(s.num_cached_pages) + " cached of " + std::to_string(s.num_pages);
  }
  return "";
}

}  // namespace tutti::fault
