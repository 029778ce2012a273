// OpenAI-compatible requests -> GenerateRequests.
//
// Every field of the body that can change a token is either understood or an error that names it.
// Known fields that cannot are taken and named in ApiRequest::ignored. null means absent. Beyond
// OpenAI's fields (with vLLM's names where it has them): top_k, min_p, typical_p,
// repetition_penalty, no_repeat_ngram_size, num_beams, length_penalty, early_stopping,
// stop_token_ids, ignore_eos, min_tokens, include_stop_str_in_output, skip_special_tokens,
// parse_special, return_token_ids, return_tokens_as_token_ids, prompt_logprobs,
// priority; for chats add_generation_prompt, echo and chat_template_kwargs.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "shared/base/limits.h"
#include "shared/base/status.h"
#include "tutti/generation/v1/generation.pb.h"

namespace tutti::gateway {

using limits::kMaxChoices;
using limits::kMaxPrompts;

// What the client wants back, and the calls that get it.
struct ApiRequest {
  bool chat = false;
  bool stream = false;
  bool include_usage = false;     // a last chunk with the usage
  bool continuous_usage = false;  // the usage so far in each chunk
  bool return_token_ids = false;
  bool tokens_as_ids = false;        // tokens of logprobs are written "token_id:17"
  int prompt_logprobs = -1;          // >= 0: of each prompt token, in vLLM's shape
  bool negative_seed = false;        // the seed was given as a negative number, and is reported so
  std::string chat_echo;             // the text of an assistant's last message, before the answer
  std::vector<std::string> ignored;  // names of fields that had no effect
  bool logprobs = false;
  int top_logprobs = 0;
  bool echo = false;
  int n = 1;             // choices per prompt; beams returned when beam search is on
  int first_choice = 0;  // choice i draws the noise of choice first_choice + i
  bool beams = false;
  std::string user;  // for the log alone
  // One per prompt. Choice c of prompt p has index p * n + c in the response. Request ids are
  // unset.
  std::vector<generation::v1::GenerateRequest> calls;
};

// Errors: INVALID_ARGUMENT with the field as its param (api_error.h)
absl::StatusOr<ApiRequest> ParseCompletionRequest(std::string_view body);
absl::StatusOr<ApiRequest> ParseChatRequest(std::string_view body);

// POST /tokenize and /detokenize, in vLLM's shape.
struct TokenizeCall {
  generation::v1::TokenizeRequest request;
  bool return_token_strs = false, return_offsets = false;
  std::vector<std::string> ignored;
};
absl::StatusOr<TokenizeCall> ParseTokenizeRequest(std::string_view body);
absl::StatusOr<generation::v1::DetokenizeRequest> ParseDetokenizeRequest(std::string_view body);

// 1 to 96 bytes of printable ASCII without spaces: what X-Request-Id may be (a suffix per prompt
// still fits the router's 128).
bool IsRequestId(std::string_view id);
// 1 to 255 bytes of printable ASCII: what Idempotency-Key may be.
bool IsIdempotencyKey(std::string_view key);

}  // namespace tutti::gateway
