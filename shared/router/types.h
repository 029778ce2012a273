// What goes into and comes out of the router's state machines: plain values, no I/O.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "shared/base/status.h"
#include "shared/placement/experts.h"
#include "shared/placement/planner.h"
#include "shared/sampling/params.h"
#include "shared/store/journal.h"
#include "shared/tokenizer/tokenizer.h"

namespace tutti::router {

using store::Beam;
using store::Finish;
using store::FinishReason;
using store::Token;
using store::TopLogprob;
using store::Usage;

using CallId = uint64_t;        // one call to a worker; never used twice
using SubscriberId = uint64_t;  // one client stream; given by the shell
using WorkerHandle = uint64_t;  // one Join stream of a worker; given by the shell, never used twice

// ---- requests

struct ChatPrompt {
  std::string messages_json, tools_json, variables_json;
  bool add_generation_prompt = true;
  bool continue_final_message = false;
};
// monostate: the client gave none (an error).
using Prompt = std::variant<std::monostate, std::string, std::vector<int32_t>, ChatPrompt>;

// A client's request. ValidateRequest says what is allowed.
struct RequestSpec {
  std::string model;       // empty: the only one
  std::string request_id;  // empty: the router makes one
  Prompt prompt;
  sampling::SamplingParams sampling;
  bool has_seed = false;  // sampling.seed is the client's
  bool has_max_tokens =
      false;  // sampling.max_tokens is the client's; else: what the context leaves
  int32_t n = 1;
  int32_t first_choice = 0;  // choice i draws the noise of choice first_choice + i
  std::vector<std::string> stop;
  bool include_stop = false, echo = false, parse_special = false, skip_special = true;
  int32_t priority = 0;
  std::string client;  // who asks: decoders are fair between clients; empty: nobody in particular
  std::string label;   // for logs alone: printable, bounded
  std::string traceparent;
  int64_t deadline_us = 0;  // on the router's clock; 0: none
  // The secret for Resume and Abort; drawn by Router::Generate, or as the journal has it.
  std::string resume_token;
};

// ---- workers

enum class WorkerKind : uint8_t {
  kUnknown,
  kTokenizer,
  kTarget,
  kDraft,
  kExpert,
  kRetrieval,
  kReward
};
enum class WorkerState : uint8_t { kUnknown, kStarting, kReady, kDraining, kDead };

struct WorkerLoad {
  int32_t running = 0, waiting = 0, pages = 0, free_pages = 0;
  int64_t memory_bytes = 0;
  double tokens_per_s = 0;
  int64_t step_age_us = 0, step_limit_us = 0;  // of the engine's last sign of progress

  // The engine hangs, though the process reports.
  bool hung() const { return step_limit_us > 0 && step_age_us > step_limit_us; }
};

// How many experts a model has, as its target read it from its own file.
struct ExpertShape {
  uint64_t fingerprint = 0;  // of the experts
  uint32_t num_layers = 0, experts_per_layer = 0;
  bool operator==(const ExpertShape&) const = default;
};

struct WorkerReport {
  std::string worker_id;
  WorkerKind kind = WorkerKind::kUnknown;
  std::string address, metrics_address, host, model;
  std::vector<std::string> model_aliases;  // other names that requests may use
  int64_t pid = 0;
  WorkerState state = WorkerState::kUnknown;
  uint64_t fingerprint = 0, tokenizer_fingerprint = 0;
  WorkerLoad load;
  std::shared_ptr<const placement::ExpertReport> experts;  // of an expert shard; else null
  std::string process_nonce;                // tells two processes of one worker_id apart
  std::string vocabulary_digest;            // tokenizer::VocabularyDigest; of targets, tokenizers
  std::optional<ExpertShape> expert_shape;  // of a target with experts on shards
  std::string refused;                      // in views: why it is given no work; "": it may be
  // Of a target: shard processes (ExpertReport::process) whose rows were wrong.
  std::vector<uint64_t> quarantined;
  // Of an expert shard, in views: the worker_id of the target that found it wrong; else "".
  std::string quarantined_by;
};

// What a target says about its model (DecoderService.GetModel).
struct ModelInfo {
  std::string name, architecture;
  uint64_t fingerprint = 0, tokenizer_fingerprint = 0;
  int32_t vocab_size = 0, context_tokens = 0;
  std::vector<int32_t> eos_ids;
  std::vector<std::string> aliases;  // other names that requests may use
};

// What a tokenizer says once (TokenizerService.GetVocabulary).
struct Vocabulary {
  uint64_t fingerprint = 0;
  std::shared_ptr<const tokenizer::TokenDecoder> decoder;
  int32_t bos_id = -1, eos_id = -1;
  bool has_chat_template = false;
  std::string digest;  // tokenizer::VocabularyDigest, computed here from what came
};

// ---- what workers answer

// Reason of a target's DATA_LOSS: the output that it was given to go on from is not what it
// computes.
inline constexpr char kResumeMismatch[] = "RESUME_MISMATCH";

struct Encoded {
  std::vector<int32_t> ids;
  std::string rendered;  // of a chat
};

struct DecodedTokens {
  uint64_t epoch = 0;      // of a draft, as the next
  uint32_t confirmed = 0;  // output tokens it had been told when it said these
  uint32_t position = 0;   // output index of tokens[0]
  std::vector<Token> tokens;
  std::vector<Token> prompt_tokens;
  Usage usage;  // of the call so far: cached_tokens, and those of speculation
  int32_t accepted_hint_tokens = 0;
};

struct DecodeEnd {
  FinishReason reason = FinishReason::kNone;
  Usage usage;
  std::vector<Beam> beams;
};

// ---- what the shell is to do, in this order

struct OpenRequest {
  std::string request_id;
  std::shared_ptr<const std::vector<int32_t>> prompt_ids;
  std::vector<int32_t> generated_ids;
  uint64_t digest = 0;
  std::vector<uint64_t> digests;      // after each of generated_ids
  sampling::SamplingParams sampling;  // with seed and sample_index
  int32_t priority = 0;
  uint64_t client = 0;       // a hash of RequestSpec::client
  uint64_t fingerprint = 0;  // 0: any (a draft's)
  int32_t lookahead = 0;     // > 0: to a draft
  std::string traceparent;
};

namespace action {
// Ask a tokenizer; answered by Router::OnEncoded.
struct Encode {
  CallId call = 0;
  WorkerHandle worker = 0;
  std::string address, request_id;
  Prompt prompt;  // text or chat
  bool parse_special = false, add_special = false;
};
// Open a Decode stream; answered by OnTokens, OnDecodeEnd and, always last, OnCallClosed.
struct OpenDecode {
  CallId call = 0;
  WorkerHandle worker = 0;
  std::string address;
  OpenRequest open;
  int32_t vocab_size = 0;  // bounds the ids that are taken from it
};
// To a target: tokens that may come next. To a draft: what has come (see Engine::Confirm).
struct Hint {
  CallId call = 0;
  uint32_t position = 0;
  std::vector<int32_t> tokens;
};
struct Confirm {
  CallId call = 0;
  uint64_t epoch = 0;
  uint32_t position = 0;
  std::vector<int32_t> tokens;
};
// End a call; no answer is wanted, late ones are ignored.
struct CancelCall {
  CallId call = 0;
};
// Ask a target for its model; answered by OnModelInfo.
struct FetchModel {
  WorkerHandle worker = 0;
  std::string address;
};
// Ask a tokenizer for its vocabulary; answered by OnVocabulary.
struct FetchVocabulary {
  WorkerHandle worker = 0;
  std::string address;
};
// Writes to the journal. JournalCreate is answered by OnJournalCreated.
struct JournalCreate {
  store::RequestRecord record;  // without `request`, which the shell makes of `spec`
  std::shared_ptr<const RequestSpec> spec;
};
struct JournalPrompt {
  std::string request_id;
  uint32_t index = 0;
  std::vector<Token> tokens;
};
struct JournalAppend {
  std::string request_id;
  uint32_t index = 0, first_index = 0;
  std::vector<Token> tokens;
};
struct JournalFinish {
  std::string request_id;
  uint32_t index = 0;
  Finish finish;
};
// Read a request for a Resume; answered by OnJournalLoaded.
struct LoadJournal {
  SubscriberId subscriber = 0;
  std::string request_id;
};
// There may be something to send: call Router::Next until it has nothing.
struct Wake {
  SubscriberId subscriber = 0;
};
// Tell a worker; it may be slow, only the newest matters.
struct Directive {
  WorkerHandle worker = 0;
  uint64_t epoch = 0;
  uint32_t report_interval_ms = 0;
  std::shared_ptr<const placement::ExpertAssignment> assign;  // null: as before
  bool draining = false;  // another router may take over; this one goes on hearing reports
};
// End a worker's Join stream: it was silent too long, or the same process joined again.
struct CloseWorker {
  WorkerHandle worker = 0;
};
}  // namespace action

using Action = std::variant<action::Encode, action::OpenDecode, action::Hint, action::Confirm,
                            action::CancelCall, action::FetchModel, action::FetchVocabulary,
                            action::JournalCreate, action::JournalPrompt, action::JournalAppend,
                            action::JournalFinish, action::LoadJournal, action::Wake,
                            action::Directive, action::CloseWorker>;
using Actions = std::vector<Action>;

// ---- what a subscriber is sent (Router::Next)

namespace message {
struct Started {
  std::string_view model;
  uint64_t fingerprint = 0, seed = 0;
  std::span<const int32_t> prompt_ids;
  std::string_view prompt_text;
  std::string_view resume_token;
};
// Borrowed from the session until the router's next call.
struct Delta {
  uint32_t index = 0, offset = 0;
  std::span<const Token> tokens;
  std::span<const Token> prompt_tokens;
  std::string text;
};
struct Finished {
  uint32_t index = 0;
  const Finish* finish = nullptr;
  uint64_t digest = 0, seed = 0;
  uint32_t output_tokens = 0;
};
// The stream is over; nothing follows.
struct End {
  absl::Status status;
};
}  // namespace message

struct Message {
  std::string_view request_id;
  const tokenizer::TokenDecoder* decoder = nullptr;  // bytes of tokens; null before it is known
  std::variant<message::Started, message::Delta, message::Finished, message::End> body;
};

// ---- options

struct ExpertFleetOptions {  // all change only speed
  placement::PlanOptions plan;
  int64_t settle_us = 100'000;        // after a shard came, for others that come with it
  int64_t rejoin_us = 1'500'000;      // the same for shards that had another router before
  int64_t rebalance_us = 5'000'000;   // between looks at the load
  double rebalance_gain = 0.1;        // of imbalance, that is worth another plan
  int64_t half_life_us = 20'000'000;  // of what was measured
  int64_t drop_after_us = 1'000'000;  // between a placement without a shard and its letting go
  int64_t stuck_us = 10'000'000;      // a move without progress is done without waiting
};

struct RouterOptions {
  // Changes only what is refused, and when:
  int32_t max_live_requests = 1024;
  int32_t max_live_choices = 4096;
  int32_t max_prompt_bytes = 8 << 20;   // text
  int64_t worker_wait_us = 10'000'000;  // how long a request may wait for a worker to be there
  int32_t max_fruitless_attempts = 5;   // decoders lost one after the other without one new token
  int64_t retry_after_us = 1'000'000;   // what an overloaded router tells clients

  // Changes only speed:
  uint32_t report_interval_ms = 500;
  int64_t suspect_after_us = 1'500'000;  // no report: nothing new is sent there
  int64_t dead_after_us = 6'000'000;     // no report: out of the view
  int64_t stall_us = 2'000'000;          // no token from a suspect worker: go elsewhere
  int64_t settle_us = 2'000'000;  // after the first report: more workers may be about to join
  int32_t exam_tokens = 0;        // of the output that examines a new target; 0: no examinations
  double audit_rate = 0.001;      // share of finished outputs that are audited; 0: none
  int32_t draft_lookahead = 32;   // tokens a draft runs ahead of its target; 0: no drafts
  ExpertFleetOptions experts;
  // A draft with whose hints tokens come no sooner than without, timed over so many tokens of each
  // choice (0: never), or whose hints give less than this share of 96 tokens, is not asked for a
  // while: it takes time from others. Longer each time, then tried with one sequence. See
  // DraftTrial.
  int32_t draft_trial_tokens = 24;
  double draft_least_share = 0.1;
  int64_t draft_pause_us = 10'000'000, draft_pause_most_us = 120'000'000;
  int64_t retry_worker_us = 500'000;  // before a worker that failed is asked again
  int32_t affinity_slack =
      4;  // sequences more than the least loaded one may have for a known prefix
};

}  // namespace tutti::router
