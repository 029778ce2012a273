#include "services/router/core.h"

#include <chrono>

#include "shared/base/clock.h"
#include "shared/base/heap.h"
#include "shared/base/secret.h"
#include "shared/base/strings.h"
#include "shared/telemetry/log.h"
#include "shared/wire/generation.h"

namespace tutti::router {
namespace {

constexpr auto kTick = std::chrono::milliseconds(50);
constexpr int kTrimTicks = 40;
constexpr int64_t kHeapSlackBytes = 24 << 20;

Token FromEngine(engine::TokenOutput&& t) {
  Token out;
  out.id = t.token_id;
  out.logprob = t.logprob;
  out.digest = t.digest;
  out.top.reserve(t.top.size());
  for (const auto& a : t.top) out.top.push_back({a.token_id, a.logprob});
  return out;
}

std::vector<Token> FromEngine(std::vector<engine::TokenOutput>&& tokens) {
  std::vector<Token> out;
  out.reserve(tokens.size());
  for (auto& t : tokens) out.push_back(FromEngine(std::move(t)));
  return out;
}

FinishReason FromEngine(engine::FinishReason reason) {
  switch (reason) {
    case engine::FinishReason::kNone:
      return FinishReason::kNone;
    case engine::FinishReason::kEos:
      return FinishReason::kEos;
    case engine::FinishReason::kStopId:
      return FinishReason::kStop;
    case engine::FinishReason::kLength:
      return FinishReason::kLength;
    case engine::FinishReason::kCancelled:
      return FinishReason::kCancelled;
    case engine::FinishReason::kDeadline:
      return FinishReason::kDeadline;
    case engine::FinishReason::kError:
      return FinishReason::kError;
  }
  return FinishReason::kError;
}

template <typename To, typename From, typename F>
absl::StatusOr<To> Map(absl::StatusOr<From>&& from, F&& f) {
  if (!from.ok()) return from.status();
  return f(*std::move(from));
}

DecodeEnd FromWire(wire::DecodeFinished&& f) {
  DecodeEnd end;
  end.reason = FromEngine(f.reason);
  end.usage.prompt_tokens = f.usage.prompt_tokens;
  end.usage.output_tokens = f.usage.output_tokens;
  end.usage.cached_tokens = f.usage.cached_tokens;
  end.usage.preemptions = f.usage.preemptions;
  end.usage.queue_us = f.usage.queue_us;
  end.usage.prefill_us = f.usage.prefill_us;
  end.usage.decode_us = f.usage.decode_us;
  end.usage.proposed_tokens = f.usage.proposed_tokens;
  end.usage.accepted_tokens = f.usage.accepted_tokens;
  for (auto& b : f.beams) end.beams.push_back({std::move(b.token_ids), b.score, ""});
  return end;
}

}  // namespace

// Hands what a decoder says to the state machine.
class Core::Listener final : public rpc::DecodeListener {
 public:
  Listener(Core* core, CallId call) : core_(core), call_(call) {}
  void OnTokens(wire::DecodedTokens tokens) override {
    DecodedTokens out;
    out.epoch = tokens.epoch;
    out.confirmed = tokens.confirmed;
    out.position = tokens.position;
    out.tokens = FromEngine(std::move(tokens.tokens));
    out.prompt_tokens = FromEngine(std::move(tokens.prompt_tokens));
    out.usage.cached_tokens = tokens.usage.cached_tokens;
    out.usage.proposed_tokens = tokens.usage.proposed_tokens;
    out.usage.accepted_tokens = tokens.usage.accepted_tokens;
    out.accepted_hint_tokens = tokens.usage.accepted_hint_tokens;
    core_->Run(
        [&](Router& r, int64_t now, Actions* a) { r.OnTokens(call_, std::move(out), now, a); });
  }
  void OnFinished(wire::DecodeFinished finished) override {
    DecodeEnd end = FromWire(std::move(finished));
    core_->Run(
        [&](Router& r, int64_t now, Actions* a) { r.OnDecodeEnd(call_, std::move(end), now, a); });
  }
  void OnClosed(absl::Status status) override {
    core_->Run([&](Router& r, int64_t now, Actions* a) {
      r.OnCallClosed(call_, status, now, a);
      core_->streams_.erase(call_);
      if (--core_->outstanding_ == 0) core_->quiet_.notify_all();
    });
  }

 private:
  Core* const core_;
  const CallId call_;
};

Core::Core(const CoreOptions& options, std::unique_ptr<store::Journal> journal,
           RouterMetrics* metrics)
    : options_(options),
      journal_(std::move(journal)),
      metrics_(metrics),
      router_(options.router, RandomU64, metrics) {
  ticker_ = std::thread([this] { TickLoop(); });
}

Core::~Core() {
  std::unique_lock<std::mutex> lock(mu_);
  stopping_ = true;
  stop_.notify_all();
  for (auto& [call, stream] : streams_) stream->Cancel();
  quiet_.wait_for(lock, std::chrono::seconds(40), [this] { return outstanding_ == 0; });
  lock.unlock();
  ticker_.join();
}

int64_t Core::NowUs() { return SteadyNowUs(); }

int64_t Core::UnixUs() {
  return std::chrono::duration_cast<std::chrono::microseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

void Core::TickLoop() {
  for (int tick = 1;; ++tick) {
    if (tick % kTrimTicks == 0) TrimHeap(kHeapSlackBytes);  // after a flood of streams
    {
      std::unique_lock<std::mutex> lock(mu_);
      if (!stopping_) stop_.wait_for(lock, kTick);
      if (stopping_) return;
    }
    Run([&](Router& r, int64_t now, Actions* a) {
      r.Tick(now, a);
      metrics_->Update(r);
    });
  }
}

SubscriberId Core::AddSinkLocked(Sink* sink) {
  const SubscriberId id = ++last_id_;
  sinks_[id] = sink;
  return id;
}
void Core::RemoveSinkLocked(SubscriberId id) { sinks_.erase(id); }

WorkerHandle Core::AddWorkerLocked(WorkerLink* link) {
  const WorkerHandle handle = ++last_id_;
  links_[handle] = link;
  return handle;
}
void Core::RemoveWorkerLocked(WorkerHandle handle) {
  links_.erase(handle);
  clients_.erase(handle);
}

void Core::Drain() {
  Run([](Router& r, int64_t now, Actions* a) { r.Drain(now, a); });
}

void Core::CloseWorkers() {
  Run([&](Router&, int64_t, Actions*) {
    for (auto& [handle, link] : links_) link->Close(absl::UnavailableError("router: draining"));
  });
}

void Core::Execute() {
  // Actions may bring further ones (a journal that answers at once): the list grows while it is
  // done.
  for (size_t i = 0; i < actions_.size(); ++i) {
    Action action = std::move(actions_[i]);
    std::visit([this](auto& a) { Do(a); }, action);
  }
  actions_.clear();
  for (size_t i = 0; i < woken_.size(); ++i) {
    const auto it = sinks_.find(woken_[i]);
    if (it != sinks_.end()) it->second->OnWake();
  }
  woken_.clear();
}

void Core::Do(action::Wake& a) {
  if (woken_.empty() || woken_.back() != a.subscriber) woken_.push_back(a.subscriber);
}

std::string Core::WorkerName(const char* kind, WorkerHandle handle) const {
  return std::string(kind) + "[" + router_.fleet().IdOf(handle) + "]";
}

absl::StatusOr<rpc::DecoderClient*> Core::Decoder(WorkerHandle handle, const std::string& address,
                                                  const char* kind) {
  WorkerClients& c = clients_[handle];
  if (c.decoder == nullptr || c.address != address) {
    rpc::ChannelOptions channel;
    channel.tls = options_.tls;
    TUTTI_ASSIGN_OR_RETURN(c.decoder,
                           rpc::DecoderClient::Create(address, WorkerName(kind, handle), channel));
    c.address = address;
  }
  return c.decoder.get();
}

absl::StatusOr<std::shared_ptr<rpc::TokenizerClient>> Core::Tokenizer(WorkerHandle handle,
                                                                      const std::string& address) {
  WorkerClients& c = clients_[handle];
  if (c.tokenizer == nullptr || c.address != address) {
    rpc::ChannelOptions channel;
    channel.tls = options_.tls;
    TUTTI_ASSIGN_OR_RETURN(c.tokenizer, rpc::TokenizerClient::Create(
                                            address, WorkerName("tokenizer", handle), channel));
    c.address = address;
  }
  return c.tokenizer;
}

std::shared_ptr<rpc::TokenizerClient> Core::TokenizerFor(uint64_t tokenizer_fingerprint) {
  std::lock_guard<std::mutex> lock(mu_);
  const WorkerHandle handle = router_.fleet().PickTokenizer(tokenizer_fingerprint, {}, NowUs());
  if (handle == 0) return nullptr;
  auto client = Tokenizer(handle, router_.fleet().AddressOf(handle));
  return client.ok() ? *client : nullptr;
}

void Core::Do(action::Encode& a) {
  auto client = Tokenizer(a.worker, a.address);
  if (!client.ok()) {
    return router_.OnEncoded(a.call, absl::UnavailableError(client.status().message()), NowUs(),
                             &actions_);
  }
  wire::EncodeInput input;
  input.parse_special = a.parse_special;
  input.add_special = a.add_special;
  input.request_id = a.request_id;
  if (auto* text = std::get_if<std::string>(&a.prompt)) {
    input.text = std::move(*text);
  } else if (auto* chat = std::get_if<ChatPrompt>(&a.prompt)) {
    input.chat = wire::ChatText{std::move(chat->messages_json), std::move(chat->tools_json),
                                std::move(chat->variables_json), chat->add_generation_prompt,
                                chat->continue_final_message};
  }
  ++outstanding_;
  (*client)->Encode(input, options_.encode_deadline_us,
                    [this, call = a.call](absl::StatusOr<wire::EncodeResult> result) {
                      absl::StatusOr<Encoded> encoded =
                          Map<Encoded>(std::move(result), [](wire::EncodeResult&& r) {
                            return Encoded{std::move(r.encoding.ids), std::move(r.rendered)};
                          });
                      Run([&](Router& r, int64_t now, Actions* actions) {
                        r.OnEncoded(call, std::move(encoded), now, actions);
                        if (--outstanding_ == 0) quiet_.notify_all();
                      });
                    });
}

void Core::Do(action::OpenDecode& a) {
  auto client = Decoder(a.worker, a.address, a.open.lookahead > 0 ? "draft" : "target");
  if (!client.ok()) {
    return router_.OnCallClosed(a.call, absl::UnavailableError("cannot be reached"), NowUs(),
                                &actions_);
  }
  wire::DecodeOpen open;
  open.request_id = std::move(a.open.request_id);
  open.sequence.prompt = *a.open.prompt_ids;
  open.sequence.generated = std::move(a.open.generated_ids);
  open.sequence.digest = a.open.digest;
  open.sequence.digests = std::move(a.open.digests);
  open.sequence.params = std::move(a.open.sampling);
  open.sequence.priority = a.open.priority;
  open.sequence.client = a.open.client;
  open.fingerprint = a.open.fingerprint;
  open.lookahead = static_cast<uint32_t>(a.open.lookahead);
  open.traceparent = std::move(a.open.traceparent);
  ++outstanding_;
  // The router's own deadlines end calls; the stream needs none.
  streams_[a.call] =
      (*client)->Open(open, a.vocab_size, 0, std::make_shared<Listener>(this, a.call));
}

void Core::Do(action::Hint& a) {
  const auto it = streams_.find(a.call);
  if (it != streams_.end()) it->second->Hint(0, a.position, std::move(a.tokens));
}

void Core::Do(action::Confirm& a) {
  const auto it = streams_.find(a.call);
  if (it != streams_.end()) it->second->Confirm(a.epoch, a.position, std::move(a.tokens));
}

void Core::Do(action::CancelCall& a) {
  const auto it = streams_.find(a.call);
  if (it == streams_.end()) return;  // an Encode, or closed already
  it->second->Cancel();
  streams_.erase(it);
}

void Core::Do(action::FetchModel& a) {
  auto client = Decoder(a.worker, a.address);
  if (!client.ok()) return router_.OnModelInfo(a.worker, client.status(), NowUs(), &actions_);
  ++outstanding_;
  (*client)->GetModel(options_.model_deadline_us,
                      [this, worker = a.worker](absl::StatusOr<wire::DecoderInfo> got) {
                        if (!got.ok()) {
                          telemetry::Log(telemetry::Level::kWarning, "router/fetch_model",
                                         {{"error", std::string(got.status().message())}});
                        }
                        const absl::StatusOr<ModelInfo> info =
                            Map<ModelInfo>(std::move(got), [](wire::DecoderInfo&& d) {
                              return ModelInfo{std::move(d.name),   std::move(d.architecture),
                                               d.fingerprint,       d.tokenizer_fingerprint,
                                               d.vocab_size,        d.context_tokens,
                                               std::move(d.eos_ids)};
                            });
                        Run([&](Router& r, int64_t now, Actions* actions) {
                          r.OnModelInfo(worker, info, now, actions);
                          if (--outstanding_ == 0) quiet_.notify_all();
                        });
                      });
}

void Core::Do(action::FetchVocabulary& a) {
  auto client = Tokenizer(a.worker, a.address);
  if (!client.ok()) return router_.OnVocabulary(a.worker, client.status(), NowUs(), &actions_);
  ++outstanding_;
  (*client)->GetVocabulary(
      options_.vocabulary_deadline_us,
      [this, worker = a.worker](absl::StatusOr<wire::Vocabulary> got) {
        if (!got.ok()) {
          telemetry::Log(telemetry::Level::kWarning, "router/fetch_vocabulary",
                         {{"error", std::string(got.status().message())}});
        }
        const absl::StatusOr<Vocabulary> vocabulary =
            Map<Vocabulary>(std::move(got), [](wire::Vocabulary&& v) {
              auto decoder = tokenizer::MakeByteDecoder(std::move(v.table));
              std::string digest = tokenizer::VocabularyDigest(*decoder, v.bos_id, v.eos_id);
              return Vocabulary{v.fingerprint, std::move(decoder),  v.bos_id,
                                v.eos_id,      v.has_chat_template, std::move(digest)};
            });
        Run([&](Router& r, int64_t now, Actions* actions) {
          r.OnVocabulary(worker, vocabulary, now, actions);
          if (--outstanding_ == 0) quiet_.notify_all();
        });
      });
}

void Core::NoteJournal(const std::string& request_id, const absl::Status& status) {
  if (!status.ok()) metrics_->OnJournalError(request_id, status);
}

void Core::Do(action::JournalCreate& a) {
  a.record.request = wire::PackRequest(*a.spec);
  a.record.created_us = UnixUs();
  const int64_t now = NowUs();
  const absl::Status status = journal_->Create(a.record, now);
  if (!status.ok()) router_.OnJournalCreated(a.record.request_id, status, now, &actions_);
}
void Core::Do(action::JournalPrompt& a) {
  NoteJournal(a.request_id, journal_->SetPromptTokens(a.request_id, a.index, a.tokens, NowUs()));
}
void Core::Do(action::JournalAppend& a) {
  NoteJournal(a.request_id,
              journal_->Append(a.request_id, a.index, a.first_index, a.tokens, NowUs()));
}
void Core::Do(action::JournalFinish& a) {
  NoteJournal(a.request_id, journal_->FinishChoice(a.request_id, a.index, a.finish, NowUs()));
}

void Core::Do(action::LoadJournal& a) {
  absl::StatusOr<store::StoredRequest> stored = journal_->Load(a.request_id, NowUs());
  RequestSpec spec = wire::UnpackStored(&stored);
  router_.OnJournalLoaded(a.subscriber, std::move(stored), std::move(spec), NowUs(), &actions_);
}

void Core::Do(action::Directive& a) {
  const auto it = links_.find(a.worker);
  if (it != links_.end()) it->second->Send(a);
}

void Core::Do(action::CloseWorker& a) {
  const auto it = links_.find(a.worker);
  if (it != links_.end())
    it->second->Close(absl::UnavailableError("router: silent too long, or joined again"));
}

absl::Status Core::Abort(const std::string& request_id, const std::string& resume_token) {
  return Run([&](Router& r, int64_t now, Actions* a) -> absl::Status {
    const absl::Status running = r.Abort(request_id, resume_token, now, a);
    if (running.ok()) return running;
    const absl::StatusOr<store::StoredRequest> stored = journal_->Load(request_id, now);
    if (absl::IsNotFound(stored.status()) ||
        (stored.ok() && !SameSecret(stored->request.resume_token, resume_token))) {
      return Router::NoSuchRequest(request_id);
    }
    if (!stored.ok()) return stored.status();
    for (size_t i = 0; i < stored->choices.size(); ++i) {
      if (stored->choices[i].finish.has_value()) continue;
      Finish finish;
      finish.reason = FinishReason::kCancelled;
      finish.usage.prompt_tokens = static_cast<int32_t>(stored->request.prompt_ids.size());
      finish.usage.output_tokens = static_cast<int32_t>(stored->choices[i].tokens.size());
      NoteJournal(request_id,
                  journal_->FinishChoice(request_id, static_cast<uint32_t>(i), finish, now));
    }
    return absl::OkStatus();
  });
}

}  // namespace tutti::router
