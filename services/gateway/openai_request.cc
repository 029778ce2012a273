#include "services/gateway/openai_request.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <optional>
#include <utility>

#include "services/gateway/api_error.h"
#include "services/gateway/json_fields.h"
#include "services/gateway/openai_messages.h"
#include "shared/base/strings.h"

namespace tutti::gateway {
namespace {

using generation::v1::GenerateRequest;

constexpr int32_t kMaxInt = std::numeric_limits<int32_t>::max();
using limits::kMaxPromptIds;

// stop: a string or up to 16 of them. An empty one would stop nothing, and is none.
void ReadStop(Fields& f, GenerateRequest* out) {
  const Json* stop = f.Get("stop");
  if (stop == nullptr) return;
  if (stop->is_string()) {
    if (!stop->get_ref<const std::string&>().empty()) out->add_stop(stop->get<std::string>());
  } else if (stop->is_array() && stop->size() <= limits::kMaxStops) {
    for (size_t i = 0; i < stop->size(); ++i) {
      const Json& s = (*stop)[i];
      if (!s.is_string()) {
        f.Fail("stop[" + std::to_string(i) + "]", "must be a string, not " + std::string(KindOf(s)),
               "invalid_type");
        return;
      }
      if (!s.get_ref<const std::string&>().empty()) out->add_stop(s.get<std::string>());
    }
  } else {
    f.Fail("stop", "must be a string or an array of at most 16 strings", "invalid_type");
    return;
  }
  for (const std::string& s : out->stop()) {
    if (s.size() > limits::kMaxStopBytes) {
      f.Fail("stop",
             std::to_string(s.size()) + " bytes; at most " + std::to_string(limits::kMaxStopBytes),
             "invalid_value");
    }
  }
}

// logit_bias: {"<token id>": bias}.
void ReadLogitBias(Fields& f, common::v1::SamplingParams* out) {
  const Json* bias = f.Object("logit_bias");
  if (bias == nullptr) return;
  if (bias->size() > limits::kMaxLogitBias) {
    f.Fail("logit_bias", std::to_string(bias->size()) + " entries; at most " +
                             std::to_string(limits::kMaxLogitBias));
    return;
  }
  for (auto it = bias->begin(); it != bias->end(); ++it) {
    int32_t id = 0;
    const std::string& key = it.key();
    const auto parsed = std::from_chars(key.data(), key.data() + key.size(), id);
    if (parsed.ec != std::errc() || parsed.ptr != key.data() + key.size() || id < 0) {
      f.Fail("logit_bias", "keys must be token ids, not \"" + Printable(key) + "\"",
             "invalid_value");
      return;
    }
    if (!it->is_number() || !(it->get<double>() >= -100 && it->get<double>() <= 100)) {
      f.Fail("logit_bias." + key, "must be a number from -100 to 100", "invalid_value");
      return;
    }
    auto* entry = out->add_logit_bias();
    entry->set_token_id(id);
    entry->set_bias(it->get<float>());
  }
}

bool ReadIds(Fields& f, const std::string& name, const Json& array,
             google::protobuf::RepeatedField<int32_t>* out) {
  for (size_t i = 0; i < array.size(); ++i) {
    const std::optional<int64_t> id = AsInt(array[i]);
    if (!id || *id < 0 || *id > kMaxInt) {
      f.Fail(name + "[" + std::to_string(i) + "]", "must be a token id (an integer from 0)",
             "invalid_type");
      return false;
    }
    out->Add(static_cast<int32_t>(*id));
  }
  return true;
}

// What completions and chats share. `base` is the request without a prompt.
void ReadShared(Fields& f, ApiRequest* api, GenerateRequest* base) {
  common::v1::SamplingParams* s = base->mutable_sampling();
  if (const auto v = f.String("model", 256)) base->set_model(*v);
  if (const auto v = f.String("user", 256)) api->user = *v;
  if (const auto v = f.Seed("seed", &api->negative_seed)) s->set_seed(*v);
  const auto set_float = [&](const char* name, void (common::v1::SamplingParams::*set)(float)) {
    if (const auto v = f.Number(name, sampling::RangeOf(name))) (s->*set)(*v);
  };
  using S = common::v1::SamplingParams;
  set_float("temperature", &S::set_temperature);
  set_float("top_p", &S::set_top_p);
  set_float("min_p", &S::set_min_p);
  set_float("typical_p", &S::set_typical_p);
  set_float("repetition_penalty", &S::set_repetition_penalty);
  set_float("presence_penalty", &S::set_presence_penalty);
  set_float("frequency_penalty", &S::set_frequency_penalty);
  set_float("length_penalty", &S::set_length_penalty);
  // vLLM's clients send -1 for "all".
  if (const auto v = f.Int("top_k", -1, kMaxInt))
    s->set_top_k(static_cast<int32_t>(std::max<int64_t>(*v, 0)));
  if (const auto v = f.Int("no_repeat_ngram_size", 0, kMaxInt))
    s->set_no_repeat_ngram_size(static_cast<int32_t>(*v));
  if (const auto v = f.Int("min_tokens", 0, kMaxInt)) s->set_min_tokens(static_cast<int32_t>(*v));
  if (const auto v = f.Int("num_beams", 1, limits::kMaxBeams))
    s->set_num_beams(static_cast<int32_t>(*v));
  if (const auto v = f.Bool("early_stopping")) s->set_early_stopping(*v);
  if (const auto v = f.Bool("ignore_eos")) s->set_ignore_eos(*v);
  if (const auto v = f.Int("priority", -1000, 1000)) base->set_priority(static_cast<int32_t>(*v));
  if (const auto v = f.Bool("include_stop_str_in_output")) base->set_include_stop(*v);
  if (const auto v = f.Bool("skip_special_tokens")) base->set_skip_special(*v);
  if (const auto v = f.Bool("return_token_ids")) api->return_token_ids = *v;
  if (const auto v = f.Bool("return_tokens_as_token_ids")) api->tokens_as_ids = *v;
  if (const Json* ids = f.Array("stop_token_ids", limits::kMaxStopIds)) {
    ReadIds(f, "stop_token_ids", *ids, s->mutable_stop_ids());
  }
  ReadStop(f, base);
  ReadLogitBias(f, s);

  api->n = static_cast<int>(f.Int("n", 1, kMaxChoices).value_or(1));
  if (const auto v = f.Int("first_choice", 0, kMaxChoices - api->n)) {
    api->first_choice = static_cast<int>(*v);
    base->set_first_choice(api->first_choice);
  }
  api->beams = s->num_beams() > 1;
  if (api->beams) {
    if (api->n > s->num_beams()) f.Fail("n", "at most num_beams with beam search", "invalid_value");
    s->set_num_return(api->n);
  } else {
    if (s->has_length_penalty() || s->has_early_stopping()) {
      f.Fail(s->has_length_penalty() ? "length_penalty" : "early_stopping",
             "goes with num_beams > 1 alone", "invalid_value");
    }
    base->set_n(api->n);
  }
  if (const auto v = f.Bool("stream")) api->stream = *v;
  if (const Json* options = f.Object("stream_options")) {
    Fields o(*options, "stream_options.");
    if (const auto v = o.Bool("include_usage")) api->include_usage = *v;
    if (const auto v = o.Bool("continuous_usage_stats")) api->continuous_usage = *v;
    // Padding against side channels, which we do not add.
    o.Ignored("include_obfuscation");
    f.Adopt(o.Finish());
    api->ignored = o.ignored();
    // Frameworks send it always; without a stream there is nothing to apply it to.
    if (!api->stream) api->ignored.push_back("stream_options");
  }
  if (const auto v = f.Int("prompt_logprobs", 0, limits::kMaxLogprobs)) {
    if (api->stream)
      f.Fail("prompt_logprobs", "is not available with stream: true", "invalid_value");
    if (api->beams)
      f.Fail("prompt_logprobs", "is not available with num_beams > 1", "invalid_value");
    api->prompt_logprobs = static_cast<int>(*v);
    s->set_prompt_logprobs(api->prompt_logprobs);
  }
  f.Unsupported("suffix");
  f.Unsupported("guided_json");
  f.Unsupported("guided_regex");
  f.Unsupported("grammar");
  f.Unsupported("json_schema");
  f.Unsupported("logits_processors");
  f.UnsupportedUnless("use_beam_search", false, "use num_beams");
  f.UnsupportedUnless("spaces_between_special_tokens", true);
  f.UnsupportedUnless("bad_words", Json::array());
  // Of billing, storage, caches and routing at OpenAI and others; none of them reaches the model.
  for (const char* name :
       {"metadata", "store", "service_tier", "prompt_cache_key", "prompt_cache_retention",
        "safety_identifier", "prediction", "verbosity", "cache_salt", "request_id"}) {
    f.Ignored(name);
  }
  f.Unsupported("truncate_prompt_tokens", "shorten the prompt before sending it");
}

// The four forms of `prompt`, each as one call.
void ReadPrompts(Fields& f, const GenerateRequest& base, std::vector<GenerateRequest>* calls) {
  // As every peer has it: a client that writes its own template means the tokens.
  const bool parse_special = f.Bool("parse_special").value_or(true);
  const Json* prompt = f.Get("prompt");
  const auto add = [&]() -> GenerateRequest& { return calls->emplace_back(base); };
  const auto ids = [&](const std::string& name, const Json& array) {
    if (array.empty() || array.size() > kMaxPromptIds) {
      f.Fail(name, "must have 1 to " + std::to_string(kMaxPromptIds) + " token ids",
             "invalid_value");
      return;
    }
    ReadIds(f, name, array, add().mutable_token_ids()->mutable_ids());
  };
  const auto text = [&](const std::string& name, const Json& s) {
    if (s.get_ref<const std::string&>().empty()) {
      f.Fail(name, "must not be empty: a prompt needs at least one token", "invalid_value");
      return;
    }
    GenerateRequest& call = add();
    call.set_text(s.get<std::string>());
    call.set_parse_special(parse_special);
  };
  if (prompt == nullptr) {
    f.Fail("prompt", "missing; give a string, token ids, or an array of either",
           "missing_required_parameter");
  } else if (prompt->is_string()) {
    text("prompt", *prompt);
  } else if (prompt->is_array() && !prompt->empty() && (*prompt)[0].is_number()) {
    ids("prompt", *prompt);
  } else if (prompt->is_array() && !prompt->empty() && prompt->size() <= kMaxPrompts) {
    for (size_t i = 0; i < prompt->size() && !f.failed(); ++i) {
      const Json& p = (*prompt)[i];
      const std::string name = "prompt[" + std::to_string(i) + "]";
      if (p.is_string() && (*prompt)[0].is_string()) {
        text(name, p);
      } else if (p.is_array() && (*prompt)[0].is_array()) {
        ids(name, p);
      } else {
        f.Fail(
            name,
            "prompts must be all strings or all arrays of token ids, not " + std::string(KindOf(p)),
            "invalid_type");
      }
    }
  } else {
    f.Fail("prompt",
           "must be a string, an array of token ids, or an array of 1 to " +
               std::to_string(kMaxPrompts) + " of either",
           "invalid_type");
  }
}

// 1 to `most` characters from `lowest` to the last printable one of ASCII.
bool IsAscii(std::string_view text, char lowest, size_t most) {
  return !text.empty() && text.size() <= most &&
         std::all_of(text.begin(), text.end(), [&](char c) { return c >= lowest && c <= '~'; });
}

}  // namespace

bool IsRequestId(std::string_view id) { return IsAscii(id, '!', 96); }
bool IsIdempotencyKey(std::string_view key) { return IsAscii(key, ' ', 255); }

absl::StatusOr<ApiRequest> ParseCompletionRequest(std::string_view body) {
  TUTTI_ASSIGN_OR_RETURN(const Json json, ParseBody(body));
  Fields f(json);
  ApiRequest api;
  GenerateRequest base;
  ReadShared(f, &api, &base);
  common::v1::SamplingParams* s = base.mutable_sampling();
  // OpenAI's default for completions.
  const auto max_tokens = f.Int("max_tokens", -1, kMaxInt).value_or(16);
  if (max_tokens >= 0) s->set_max_tokens(static_cast<int32_t>(max_tokens));
  if (const auto v = f.Bool("echo")) api.echo = *v;
  if (max_tokens == 0 && !api.echo && api.prompt_logprobs < 0) {
    f.Fail("max_tokens", "0 scores a prompt and goes with echo: true", "invalid_value");
  }
  base.set_echo(api.echo);
  if (const auto v = f.Int("logprobs", 0, 20)) {
    api.logprobs = true;
    api.top_logprobs = static_cast<int>(*v);
    s->set_logprobs(api.top_logprobs);
    if (api.echo) s->set_prompt_logprobs(std::max(api.top_logprobs, api.prompt_logprobs));
  }
  if (const auto v = f.Int("best_of", 1, kMaxChoices); v && *v != api.n) {
    f.Fail("best_of",
           "is supported only when it equals n; ask for n choices with logprobs and choose",
           "unsupported_parameter");
  }
  if (api.beams && api.logprobs)
    f.Fail("logprobs", "is not available with num_beams > 1", "unsupported_parameter");
  if (api.beams && api.echo)
    f.Fail("echo", "is not available with num_beams > 1", "unsupported_parameter");
  ReadPrompts(f, base, &api.calls);
  if (static_cast<int>(api.calls.size()) * api.n > kMaxChoices) {
    f.Fail("n", "prompts times n must be at most " + std::to_string(kMaxChoices), "invalid_value");
  }
  TUTTI_RETURN_IF_ERROR(f.Finish());
  api.ignored.insert(api.ignored.end(), f.ignored().begin(), f.ignored().end());
  return api;
}

absl::StatusOr<ApiRequest> ParseChatRequest(std::string_view body) {
  TUTTI_ASSIGN_OR_RETURN(const Json json, ParseBody(body));
  Fields f(json);
  ApiRequest api;
  api.chat = true;
  GenerateRequest base;
  ReadShared(f, &api, &base);
  common::v1::SamplingParams* s = base.mutable_sampling();
  auto max_tokens = f.Int("max_tokens", -1, kMaxInt);
  auto max_completion_tokens = f.Int("max_completion_tokens", -1, kMaxInt);
  // -1: what the context leaves, as without it.
  if (max_tokens == -1) max_tokens.reset();
  if (max_completion_tokens == -1) max_completion_tokens.reset();
  for (const auto& [name, v] : {std::pair("max_tokens", max_tokens),
                                std::pair("max_completion_tokens", max_completion_tokens)}) {
    if (v == 0 && api.prompt_logprobs < 0)
      f.Fail(name, "0, must be 1 or more, or -1 for what the context leaves", "invalid_value");
  }
  if (max_tokens && max_completion_tokens && *max_tokens != *max_completion_tokens) {
    f.Fail("max_tokens", "differs from max_completion_tokens; give one of them", "invalid_value");
  }
  if (max_tokens || max_completion_tokens) {
    s->set_max_tokens(static_cast<int32_t>(max_tokens ? *max_tokens : *max_completion_tokens));
  }
  api.logprobs = f.Bool("logprobs").value_or(false);
  if (const auto v = f.Int("top_logprobs", 0, 20)) {
    if (!api.logprobs) f.Fail("top_logprobs", "goes with logprobs: true alone", "invalid_value");
    api.top_logprobs = static_cast<int>(*v);
  }
  if (api.logprobs) s->set_logprobs(api.top_logprobs);
  if (api.beams && api.logprobs)
    f.Fail("logprobs", "is not available with num_beams > 1", "unsupported_parameter");
  ReadChat(f, base.mutable_chat(), &api.ignored);
  // Control tokens come from the template alone, unless the client wants it otherwise.
  base.set_parse_special(f.Bool("parse_special").value_or(false));
  if (f.Bool("echo").value_or(false)) {
    const Json* messages = f.Get("messages");
    if (messages != nullptr && messages->is_array() && !messages->empty())
      api.chat_echo = TextOfAssistant(messages->back());
  }
  if (const Json* format = f.Object("response_format")) {
    if (*format != Json{{"type", "text"}}) {
      f.Fail("response_format", "only {\"type\": \"text\"} is supported", "unsupported_parameter");
    }
  }
  f.UnsupportedUnless("modalities", Json::array({"text"}));
  f.UnsupportedUnless("functions", Json::array(), "use tools");
  f.UnsupportedUnless("function_call", "none", "use tools");
  for (const char* name : {"audio", "web_search_options", "documents", "chat_template"}) {
    f.Unsupported(name);
  }
  f.UnsupportedUnless("add_special_tokens", false);
  TUTTI_RETURN_IF_ERROR(f.Finish());
  api.ignored.insert(api.ignored.end(), f.ignored().begin(), f.ignored().end());
  api.calls.push_back(std::move(base));
  return api;
}

absl::StatusOr<TokenizeCall> ParseTokenizeRequest(std::string_view body) {
  TUTTI_ASSIGN_OR_RETURN(const Json json, ParseBody(body));
  Fields f(json);
  TokenizeCall call;
  if (const auto v = f.String("model", 256)) call.request.set_model(*v);
  call.return_token_strs = f.Bool("return_token_strs").value_or(false);
  call.return_offsets = f.Bool("return_offsets").value_or(false);
  const bool is_chat = json.contains("messages");
  call.request.set_parse_special(f.Bool("parse_special").value_or(!is_chat));
  if (is_chat) {
    ReadChat(f, call.request.mutable_chat(), &call.ignored);
    if (json.contains("prompt"))
      f.Fail("prompt", "give prompt or messages, not both", "invalid_value");
    call.request.set_add_special(f.Bool("add_special_tokens").value_or(false));
  } else {
    const auto prompt = f.String("prompt");
    if (!prompt && !f.failed()) {
      f.Fail("prompt", "missing; give prompt or messages", "missing_required_parameter");
    }
    call.request.set_text(prompt.value_or(""));
    call.request.set_add_special(f.Bool("add_special_tokens").value_or(true));
  }
  TUTTI_RETURN_IF_ERROR(f.Finish());
  return call;
}

absl::StatusOr<generation::v1::DetokenizeRequest> ParseDetokenizeRequest(std::string_view body) {
  TUTTI_ASSIGN_OR_RETURN(const Json json, ParseBody(body));
  Fields f(json);
  generation::v1::DetokenizeRequest request;
  if (const auto v = f.String("model", 256)) request.set_model(*v);
  const Json* tokens = f.Array("tokens", kMaxPromptIds);
  if (tokens != nullptr) {
    ReadIds(f, "tokens", *tokens, request.mutable_ids());
  } else if (!f.failed()) {
    f.Fail("tokens", "missing; give an array of token ids", "missing_required_parameter");
  }
  TUTTI_RETURN_IF_ERROR(f.Finish());
  return request;
}

}  // namespace tutti::gateway
