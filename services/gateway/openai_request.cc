#include "services/gateway/openai_request.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <optional>
#include <utility>

#include "services/gateway/api_error.h"
#include "services/gateway/json_fields.h"
#include "services/gateway/openai_messages.h"

namespace tutti::gateway {
namespace {

using generation::v1::GenerateRequest;

constexpr int32_t kMaxInt = std::numeric_limits<int32_t>::max();
using limits::kMaxPromptIds;

// stop: a string or up to 16 of them.
void ReadStop(Fields& f, GenerateRequest* out) {
  const Json* stop = f.Get("stop");
  if (stop == nullptr) return;
  if (stop->is_string()) {
    out->add_stop(stop->get<std::string>());
  } else if (stop->is_array() && stop->size() <= 16) {
    for (size_t i = 0; i < stop->size(); ++i) {
      const Json& s = (*stop)[i];
      if (!s.is_string()) {
        f.Fail("stop[" + std::to_string(i) + "]", "must be a string, not " + std::string(KindOf(s)),
               "invalid_type");
        return;
      }
      out->add_stop(s.get<std::string>());
    }
  } else {
    f.Fail("stop", "must be a string or an array of at most 16 strings", "invalid_type");
    return;
  }
  for (int i = 0; i < out->stop_size(); ++i) {
    if (out->stop(i).empty() || out->stop(i).size() > 256) {
      f.Fail(stop->is_string() ? "stop" : "stop[" + std::to_string(i) + "]",
             "must have 1 to 256 bytes", "invalid_value");
    }
  }
}

// logit_bias: {"<token id>": bias}.
void ReadLogitBias(Fields& f, common::v1::SamplingParams* out) {
  const Json* bias = f.Object("logit_bias");
  if (bias == nullptr) return;
  if (bias->size() > 1024) {
    f.Fail("logit_bias", std::to_string(bias->size()) + " entries; at most 1024");
    return;
  }
  for (auto it = bias->begin(); it != bias->end(); ++it) {
    int32_t id = 0;
    const std::string& key = it.key();
    const auto parsed = std::from_chars(key.data(), key.data() + key.size(), id);
    if (parsed.ec != std::errc() || parsed.ptr != key.data() + key.size() || id < 0) {
      f.Fail("logit_bias", "keys must be token ids", "invalid_value");
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
    const Json& id = array[i];
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() > kMaxInt) {
      f.Fail(name + "[" + std::to_string(i) + "]", "must be a token id (an integer from 0)",
             "invalid_type");
      return false;
    }
    out->Add(static_cast<int32_t>(id.get<int64_t>()));
  }
  return true;
}

// What completions and chats share. `base` is the request without a prompt.
void ReadShared(Fields& f, ApiRequest* api, GenerateRequest* base) {
  common::v1::SamplingParams* s = base->mutable_sampling();
  if (const auto v = f.String("model", 256)) base->set_model(*v);
  if (const auto v = f.String("user", 256)) api->user = *v;
  if (const auto v = f.Unsigned("seed")) s->set_seed(*v);
  const auto set_float = [&](const char* name, double min, double max,
                             void (common::v1::SamplingParams::*set)(float)) {
    if (const auto v = f.Number(name, min, max)) (s->*set)(static_cast<float>(*v));
  };
  using S = common::v1::SamplingParams;
  set_float("temperature", 0, 100, &S::set_temperature);
  set_float("top_p", 0, 1, &S::set_top_p);
  set_float("min_p", 0, 1, &S::set_min_p);
  set_float("typical_p", 0, 1, &S::set_typical_p);
  set_float("repetition_penalty", 0.01, 100, &S::set_repetition_penalty);
  set_float("presence_penalty", -2, 2, &S::set_presence_penalty);
  set_float("frequency_penalty", -2, 2, &S::set_frequency_penalty);
  set_float("length_penalty", -100, 100, &S::set_length_penalty);
  // vLLM's clients send -1 for "all".
  if (const auto v = f.Int("top_k", -1, kMaxInt))
    s->set_top_k(static_cast<int32_t>(std::max<int64_t>(*v, 0)));
  if (const auto v = f.Int("no_repeat_ngram_size", 0, kMaxInt))
    s->set_no_repeat_ngram_size(static_cast<int32_t>(*v));
  if (const auto v = f.Int("min_tokens", 0, kMaxInt)) s->set_min_tokens(static_cast<int32_t>(*v));
  if (const auto v = f.Int("num_beams", 1, 64)) s->set_num_beams(static_cast<int32_t>(*v));
  if (const auto v = f.Bool("early_stopping")) s->set_early_stopping(*v);
  if (const auto v = f.Bool("ignore_eos")) s->set_ignore_eos(*v);
  if (const auto v = f.Int("priority", -1000, 1000)) base->set_priority(static_cast<int32_t>(*v));
  if (const auto v = f.Bool("include_stop_str_in_output")) base->set_include_stop(*v);
  if (const auto v = f.Bool("skip_special_tokens")) base->set_skip_special(*v);
  if (const auto v = f.Bool("return_token_ids")) api->return_token_ids = *v;
  if (const Json* ids = f.Array("stop_token_ids", 64)) {
    ReadIds(f, "stop_token_ids", *ids, s->mutable_stop_ids());
  }
  ReadStop(f, base);
  ReadLogitBias(f, s);

  api->n = static_cast<int>(f.Int("n", 1, kMaxChoices).value_or(1));
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
    // Asked for by some clients; padding against side channels, which we do not add.
    o.UnsupportedUnless("include_obfuscation", false);
    f.Adopt(o.Finish());
    if (!api->stream) {
      f.Fail("stream_options", "goes with stream: true alone", "invalid_value");
    }
  }
  f.Unsupported("suffix");
  f.Unsupported("guided_json");
  f.Unsupported("guided_regex");
  f.Unsupported("grammar");
  f.Unsupported("truncate_prompt_tokens", "shorten the prompt before sending it");
}

// The four forms of `prompt`, each as one call.
void ReadPrompts(Fields& f, const GenerateRequest& base, std::vector<GenerateRequest>* calls) {
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
    add().set_text(s.get<std::string>());
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

}  // namespace

bool IsRequestId(std::string_view id) {
  if (id.empty() || id.size() > 96) return false;
  for (const char c : id) {
    if (c <= 0x20 || c > 0x7e) return false;
  }
  return true;
}

absl::StatusOr<ApiRequest> ParseCompletionRequest(std::string_view body) {
  TUTTI_ASSIGN_OR_RETURN(const Json json, ParseBody(body));
  Fields f(json);
  ApiRequest api;
  GenerateRequest base;
  ReadShared(f, &api, &base);
  common::v1::SamplingParams* s = base.mutable_sampling();
  // OpenAI's default for completions.
  s->set_max_tokens(static_cast<int32_t>(f.Int("max_tokens", 0, kMaxInt).value_or(16)));
  if (const auto v = f.Bool("echo")) api.echo = *v;
  if (s->max_tokens() == 0 && !api.echo) {
    f.Fail("max_tokens", "0 scores a prompt and goes with echo: true", "invalid_value");
  }
  base.set_echo(api.echo);
  if (const auto v = f.Bool("parse_special")) base.set_parse_special(*v);
  if (const auto v = f.Int("logprobs", 0, 20)) {
    api.logprobs = true;
    api.top_logprobs = static_cast<int>(*v);
    s->set_logprobs(api.top_logprobs);
    if (api.echo) s->set_prompt_logprobs(api.top_logprobs);
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
  const auto max_tokens = f.Int("max_tokens", 1, kMaxInt);
  const auto max_completion_tokens = f.Int("max_completion_tokens", 1, kMaxInt);
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
  ReadChat(f, base.mutable_chat());
  if (const Json* format = f.Object("response_format")) {
    if (*format != Json{{"type", "text"}}) {
      f.Fail("response_format", "only {\"type\": \"text\"} is supported", "unsupported_parameter");
    }
  }
  f.UnsupportedUnless("modalities", Json::array({"text"}));
  f.UnsupportedUnless("store", false);
  f.UnsupportedUnless("service_tier", "auto");
  for (const char* name : {"functions", "function_call"}) f.Unsupported(name, "use tools");
  for (const char* name :
       {"audio", "prediction", "reasoning_effort", "web_search_options", "metadata", "verbosity"}) {
    f.Unsupported(name);
  }
  TUTTI_RETURN_IF_ERROR(f.Finish());
  api.calls.push_back(std::move(base));
  return api;
}

absl::StatusOr<TokenizeCall> ParseTokenizeRequest(std::string_view body) {
  TUTTI_ASSIGN_OR_RETURN(const Json json, ParseBody(body));
  Fields f(json);
  TokenizeCall call;
  if (const auto v = f.String("model", 256)) call.request.set_model(*v);
  call.return_token_strs = f.Bool("return_token_strs").value_or(false);
  if (const auto v = f.Bool("parse_special")) call.request.set_parse_special(*v);
  if (json.contains("messages")) {
    ReadChat(f, call.request.mutable_chat());
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
