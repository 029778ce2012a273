// What requests have said so far, so that any router can go on with any of them.
//
// All of it is soft state: a request whose entry is gone can be made again from its parameters and
// seed, to the same bits (docs/determinism.md). So writes are hints of what happened, never a
// condition of it.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "shared/base/status.h"

namespace tutti::store {

struct TopLogprob {
  int32_t token_id = 0;
  float logprob = 0;
  bool operator==(const TopLogprob&) const = default;
};

// One output or prompt token as it was streamed.
struct Token {
  int32_t id = 0;
  float logprob =
      std::numeric_limits<float>::quiet_NaN();  // NaN: not asked, or the first prompt token
  std::vector<TopLogprob> top;
  uint64_t digest = 0;  // chain up to and including this token; 0 for prompt tokens
  std::string text;  // what this token released to the client; "" while a character or stop is open
};

enum class FinishReason { kNone, kEos, kStop, kLength, kCancelled, kDeadline, kError };

struct Usage {
  int32_t prompt_tokens = 0, output_tokens = 0, cached_tokens = 0, preemptions = 0;
  int64_t queue_us = 0, prefill_us = 0, decode_us = 0;
  int32_t proposed_tokens = 0, accepted_tokens = 0;  // guessed and verified; and right
};

struct Beam {
  std::vector<int32_t> token_ids;
  float score = 0;
  std::string text;
};

// How a choice ended.
struct Finish {
  FinishReason reason = FinishReason::kNone;
  std::string matched_stop;
  std::optional<int32_t> matched_stop_id;
  Usage usage;
  std::vector<Beam> beams;
  std::string tail_text;  // text released by the end itself: held back until no stop could match
  uint32_t failovers = 0;
  absl::Status status;  // not OK with kError
};

// A request as it was admitted.
struct RequestRecord {
  std::string request_id;
  std::string model;
  uint64_t fingerprint = 0;
  uint64_t seed = 0;
  int32_t num_choices = 1;
  std::vector<int32_t> prompt_ids;
  std::string prompt_text;  // when echo was asked
  // The request with every default filled in, in a form that routers of this version read back
  // (serialised tutti.generation.v1.GenerateRequest). Opaque here.
  std::string request;
  int64_t created_us = 0;  // unix time
  // What a client must show to resume or abort the request (Router::Resume). Never logged.
  std::string resume_token;
};

struct ChoiceRecord {
  std::vector<Token> prompt_tokens;
  std::vector<Token> tokens;  // [output] from index 0
  std::optional<Finish> finish;
};

struct StoredRequest {
  RequestRecord request;
  std::vector<ChoiceRecord> choices;  // [num_choices]
};

struct JournalOptions {
  // Changes only memory and how long a request can be resumed:
  int64_t ttl_us = 600'000'000;   // since the last write; finished or abandoned alike; > 0
  int64_t max_requests = 10'000;  // the least recently written goes first; >= 1
  int64_t max_bytes = 256 << 20;  // estimate of memory held; >= 1
};

// Every call takes the time, so that expiry can be simulated; time never goes back.
// Thread safety: implementations are thread-safe.
class Journal {
 public:
  virtual ~Journal() = default;

  // Errors: ALREADY_EXISTS     the id is stored and not expired
  //         INVALID_ARGUMENT   num_choices < 1, or an empty id
  //         UNAVAILABLE        the store is not reachable (never from the in-memory one)
  virtual absl::Status Create(const RequestRecord& record, int64_t now_us) = 0;

  // Sets the prompt tokens of a choice (prompt logprobs); again with the same ones is OK.
  // Errors: NOT_FOUND, INVALID_ARGUMENT (index)
  virtual absl::Status SetPromptTokens(std::string_view request_id, uint32_t index,
                                       std::span<const Token> tokens, int64_t now_us) = 0;

  // Adds tokens from output index `first_index` on. Tokens that are stored already are skipped when
  // they are equal (id and digest), so two writers of one request do no harm. Errors: NOT_FOUND no
  // such request (expired, erased)
  //         INVALID_ARGUMENT     the choice's index
  //         OUT_OF_RANGE         first_index is past the end: tokens between are missing
  //         DATA_LOSS            a stored token differs: never overwritten
  //         FAILED_PRECONDITION  the choice is finished, and these would lengthen it
  virtual absl::Status Append(std::string_view request_id, uint32_t index, uint32_t first_index,
                              std::span<const Token> tokens, int64_t now_us) = 0;

  // Closes a choice. Again is OK and changes nothing. Errors: NOT_FOUND, INVALID_ARGUMENT (index)
  virtual absl::Status FinishChoice(std::string_view request_id, uint32_t index,
                                    const Finish& finish, int64_t now_us) = 0;

  // Everything about one request. Errors: NOT_FOUND
  virtual absl::StatusOr<StoredRequest> Load(std::string_view request_id, int64_t now_us) = 0;

  virtual bool Contains(std::string_view request_id, int64_t now_us) = 0;
  virtual int64_t num_requests(int64_t now_us) = 0;

  // Forgets everything ("the store may be erased").
  virtual void Clear() = 0;
};

// The journal in this process's memory: bounded by count and bytes, gone with the process.
std::unique_ptr<Journal> MakeMemoryJournal(const JournalOptions& options);

}  // namespace tutti::store
