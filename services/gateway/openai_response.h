// GenerateResponses -> OpenAI-compatible responses, whole or in chunks.
//
// Beyond OpenAI's fields each choice carries `seed` and `digest` (16 hex digits),
// and the response the model's fingerprint as system_fingerprint: with them an answer can be
// replayed and compared bit for bit. `stop_reason` (as in vLLM) is the stop string or id that ended
// a choice.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "services/gateway/json_fields.h"
#include "services/gateway/openai_request.h"
#include "tutti/generation/v1/generation.pb.h"

namespace tutti::gateway {

// What is the same in all messages of one response.
struct ResponseHead {
  std::string id;       // "cmpl-..." or "chatcmpl-..."
  int64_t created = 0;  // Unix time
};

struct TokenUsage {
  int64_t prompt_tokens = 0, completion_tokens = 0, cached_tokens = 0;
  int64_t proposed_tokens = 0, accepted_tokens = 0;
};

// One token with what the client may want of it.
struct ShownToken {
  int32_t id = 0;
  bool has_logprob = false;
  float logprob = 0;
  std::string bytes;
  struct Top {
    int32_t id;
    float logprob;
    std::string bytes;
  };
  std::vector<Top> top;
};

// Gathers the streams of one request. REQUIRES: messages of one call come in order.
class ResponseBuilder {
 public:
  ResponseBuilder(const ApiRequest& request, ResponseHead head);

  // A message of call number `prompt`. When the request streams, appends the events to send ("data:
  // ...\n\n") to *events.
  void Add(size_t prompt, const generation::v1::GenerateResponse& message, std::string* events);

  // After all calls ended: the whole response (not streaming), or the last events.
  std::string Whole() const;
  std::string LastEvents() const;

  // Every choice has finished.
  bool complete() const { return unfinished_ == 0; }
  const TokenUsage& usage() const { return usage_; }
  bool started() const { return !model_.empty() || fingerprint_ != 0; }

 private:
  struct Prompt {
    std::string text;  // with echo
    std::vector<int32_t> ids;
    // With echo and logprobs. They come with the first choice's first tokens; what streams before
    // them waits.
    std::vector<ShownToken> tokens;
    std::vector<ShownToken> scored;  // with prompt_logprobs
    bool awaits_tokens = false;
    std::vector<generation::v1::GenerateResponse> waiting;
  };
  struct Choice {
    std::string text;
    std::vector<ShownToken> tokens;
    std::vector<int32_t> token_ids;
    int64_t text_offset = 0;  // code points of the logprobs sent so far
    bool begun = false;       // its first chunk is out
    bool finished = false;
    Json finish_reason = nullptr, stop_reason = nullptr;
    uint64_t seed = 0, digest = 0;
    Json score = nullptr;  // beams
    uint32_t output_tokens = 0;
  };

  void Start(size_t prompt, const generation::v1::Started& started);
  void AddDelta(size_t prompt, const generation::v1::Delta& delta, std::string* events);
  void AddFinished(size_t prompt, const generation::v1::Finished& finished, std::string* events);
  void AddBeams(size_t prompt, const generation::v1::Finished& finished, std::string* events);
  void Finish(size_t index, const generation::v1::Finished& finished);
  Json Head(bool chunk) const;
  // The first `num_prompt` tokens are those of `prompt_text`. A token that the text lacks (the
  // tokenizer added it in front) takes no room in text_offset.
  Json Logprobs(const std::vector<ShownToken>& tokens, size_t num_prompt,
                std::string_view prompt_text, int64_t* text_offset) const;
  // vLLM's: per prompt token {"id": {"logprob", "rank", "decoded_token"}}; null for the first.
  Json PromptLogprobs(const Prompt& prompt) const;
  // A token's text in logprobs.
  std::string Name(int32_t id, std::string_view bytes) const;
  // The seed and the number with which a request has this choice alone.
  void AddSeed(size_t index, Json* choice) const;
  // The usage so far of all choices, while they stream.
  void AddUsage(Json* chunk) const;
  Json WholeChoice(size_t index) const;
  Json UsageJson() const;
  // The first `num_prompt` of the tokens are echoed ones.
  void Chunk(size_t index, std::string_view text, const std::vector<ShownToken>& tokens,
             size_t num_prompt, bool first, std::string* events);
  void LastChunk(size_t index, std::string* events);
  void Emit(Json choice, std::string* events) const;

  const ApiRequest& request_;
  const ResponseHead head_;
  std::string model_;
  uint64_t fingerprint_ = 0;
  std::vector<Prompt> prompts_;
  std::vector<Choice> choices_;
  size_t unfinished_;
  TokenUsage usage_;
  int64_t prompt_tokens_so_far_ = 0, output_tokens_so_far_ = 0;
};

// Text of a token for logprobs: itself when it is UTF-8, else "bytes:\xe2\x80" as OpenAI writes it.
std::string TokenText(std::string_view bytes);

// {"object":"list","data":[...]} and one entry of it.
Json ModelsJson(const generation::v1::ListModelsResponse& models);
Json ModelJson(const generation::v1::Model& model);
// The fields of vLLM's answer about a tokenizer that clients read: bos_token, eos_token (null:
// none).
Json TokenizerInfoJson(const generation::v1::Model& model);

}  // namespace tutti::gateway
