#include "services/gateway/openai_response.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <utility>

#include "shared/base/hash.h"
#include "shared/base/strings.h"

namespace tutti::gateway {
namespace {

using common::v1::FinishReason;

std::string Dump(const Json& j) { return j.dump(-1, ' ', false, Json::error_handler_t::replace); }

int64_t CodePoints(std::string_view s) {
  return std::count_if(s.begin(), s.end(), [](char c) { return (c & 0xC0) != 0x80; });
}

Json ReasonJson(FinishReason reason) {
  switch (reason) {
    case common::v1::FINISH_REASON_EOS:
    case common::v1::FINISH_REASON_STOP:
      return "stop";
    case common::v1::FINISH_REASON_LENGTH:
      return "length";
    case common::v1::FINISH_REASON_CANCELLED:
      return "abort";
    case common::v1::FINISH_REASON_DEADLINE:
      return "timeout";
    default:
      return "error";
  }
}

// `bytes` and `tops` are flat over all tokens; *next_top walks through the latter.
ShownToken Show(const common::v1::TokenInfo& info, const std::string* bytes,
                const google::protobuf::RepeatedPtrField<std::string>& tops, int* next_top) {
  const auto unknown = [](int32_t id) { return "token_id:" + std::to_string(id); };
  ShownToken t;
  t.id = info.token_id();
  t.has_logprob = info.has_logprob();
  t.logprob = info.logprob();
  t.bytes = bytes != nullptr ? *bytes : unknown(t.id);
  for (const auto& top : info.top()) {
    const std::string& text = *next_top < tops.size() ? tops[*next_top] : unknown(top.token_id());
    ++*next_top;
    t.top.push_back({top.token_id(), top.logprob(), text});
  }
  return t;
}

Json BytesJson(std::string_view bytes) {
  Json out = Json::array();
  for (const char c : bytes) out.push_back(static_cast<unsigned char>(c));
  return out;
}

// JSON has no f32: the double with the shortest digits that read back as the same f32. An id that
// the filters ruled out has -infinity, which JSON cannot say either: OpenAI writes -9999.
double Short(float f) {
  if (!(f > -9999.0f)) return -9999.0;
  char text[32];
  const auto end = std::to_chars(text, text + sizeof text, f).ptr;
  double d = 0;
  std::from_chars(text, end, d);
  return d;
}

Json ChatLogprob(std::string token, std::string_view bytes, float logprob) {
  return {{"token", std::move(token)}, {"logprob", Short(logprob)}, {"bytes", BytesJson(bytes)}};
}

}  // namespace

std::string TokenText(std::string_view bytes) {
  if (IsValidUtf8(bytes)) return std::string(bytes);
  std::string out = "bytes:";
  char hex[8];
  for (const char c : bytes) {
    std::snprintf(hex, sizeof hex, "\\x%02x", static_cast<unsigned>(static_cast<unsigned char>(c)));
    out += hex;
  }
  return out;
}

ResponseBuilder::ResponseBuilder(const ApiRequest& request, ResponseHead head)
    : request_(request),
      head_(std::move(head)),
      prompts_(request.calls.size()),
      choices_(request.calls.size() * static_cast<size_t>(request.n)),
      unfinished_(choices_.size()) {
  for (Prompt& p : prompts_) p.awaits_tokens = request.stream && request.echo && request.logprobs;
}

void ResponseBuilder::Add(size_t prompt, const generation::v1::GenerateResponse& message,
                          std::string* events) {
  Prompt& p = prompts_[prompt];
  if (p.awaits_tokens && !message.has_started()) {
    if (message.delta().prompt_tokens_size() == 0) {
      p.waiting.push_back(message);
      return;
    }
    p.awaits_tokens = false;
    Add(prompt, message, events);
    for (const auto& later : std::exchange(p.waiting, {})) Add(prompt, later, events);
    return;
  }
  if (message.has_started()) {
    Start(prompt, message.started());
  } else if (message.has_delta()) {
    AddDelta(prompt, message.delta(), events);
  } else if (message.has_finished()) {
    if (request_.beams) {
      AddBeams(prompt, message.finished(), events);
    } else {
      AddFinished(prompt, message.finished(), events);
    }
  }
}

void ResponseBuilder::Start(size_t prompt, const generation::v1::Started& started) {
  model_ = started.model();
  fingerprint_ = started.fingerprint();
  prompts_[prompt].text = started.prompt_text();
  prompt_tokens_so_far_ += started.prompt_ids_size();
  prompts_[prompt].ids.assign(started.prompt_ids().begin(), started.prompt_ids().end());
  for (size_t c = 0; c < static_cast<size_t>(request_.n); ++c) {
    Choice& choice = choices_[prompt * static_cast<size_t>(request_.n) + c];
    choice.seed = started.seed();
  }
}

void ResponseBuilder::AddDelta(size_t prompt, const generation::v1::Delta& delta,
                               std::string* events) {
  if (delta.index() >= static_cast<uint32_t>(request_.n))
    return;  // not ours: a peer of another mind
  const size_t index = prompt * static_cast<size_t>(request_.n) + delta.index();
  Choice& choice = choices_[index];
  std::vector<ShownToken> shown;
  int top = 0;
  for (int i = 0; i < delta.prompt_tokens_size(); ++i) {
    const std::string* bytes =
        i < delta.prompt_token_bytes_size() ? &delta.prompt_token_bytes(i) : nullptr;
    ShownToken t = Show(delta.prompt_tokens(i), bytes, delta.prompt_top_bytes(), &top);
    if (request_.prompt_logprobs >= 0) prompts_[prompt].scored.push_back(t);
    if (request_.echo && request_.logprobs) {
      // More may have been asked for prompt_logprobs.
      if (t.top.size() > static_cast<size_t>(request_.top_logprobs))
        t.top.resize(static_cast<size_t>(request_.top_logprobs));
      prompts_[prompt].tokens.push_back(std::move(t));
    }
  }
  top = 0;
  for (int i = 0; i < delta.tokens_size(); ++i) {
    const std::string* bytes = i < delta.token_bytes_size() ? &delta.token_bytes(i) : nullptr;
    shown.push_back(Show(delta.tokens(i), bytes, delta.top_bytes(), &top));
  }
  output_tokens_so_far_ += static_cast<int64_t>(shown.size());
  if (!request_.stream) {
    choice.text += delta.text();
    for (ShownToken& t : shown) {
      choice.token_ids.push_back(t.id);
      if (request_.logprobs) choice.tokens.push_back(std::move(t));
    }
    return;
  }
  // With logprobs, echoed prompt tokens go out with the first text.
  std::string text;
  if (!choice.begun) text = request_.echo ? prompts_[prompt].text : request_.chat_echo;
  text += delta.text();
  std::vector<ShownToken> all;
  if (!choice.begun) all = prompts_[prompt].tokens;
  const size_t num_prompt = all.size();
  all.insert(all.end(), std::make_move_iterator(shown.begin()),
             std::make_move_iterator(shown.end()));
  const bool worth =
      !text.empty() || (!all.empty() && (request_.logprobs || request_.return_token_ids));
  if (worth || (request_.chat && !choice.begun)) {
    Chunk(index, text, all, num_prompt, !choice.begun, events);
    choice.begun = true;
  }
}

void ResponseBuilder::Finish(size_t index, const generation::v1::Finished& finished) {
  Choice& choice = choices_[index];
  if (choice.finished) return;
  choice.finished = true;
  --unfinished_;
  choice.finish_reason = ReasonJson(finished.reason());
  if (finished.has_matched_stop_id()) choice.stop_reason = finished.matched_stop_id();
  if (!finished.matched_stop().empty()) choice.stop_reason = finished.matched_stop();
  choice.seed = finished.seed();
  choice.digest = finished.digest();
  choice.output_tokens = finished.output_tokens();
  // Tokens past the one that a stop string ended in do not count.
  if (choice.token_ids.size() > choice.output_tokens) choice.token_ids.resize(choice.output_tokens);
  if (choice.tokens.size() > choice.output_tokens) choice.tokens.resize(choice.output_tokens);
}

void ResponseBuilder::AddFinished(size_t prompt, const generation::v1::Finished& finished,
                                  std::string* events) {
  if (finished.index() >= static_cast<uint32_t>(request_.n)) return;
  const size_t index = prompt * static_cast<size_t>(request_.n) + finished.index();
  Choice& choice = choices_[index];
  if (choice.finished) return;
  Finish(index, finished);
  if (finished.index() == 0) {
    usage_.prompt_tokens += finished.usage().prompt_tokens();
    usage_.cached_tokens += finished.usage().cached_tokens();
  }
  usage_.completion_tokens += finished.output_tokens();
  usage_.proposed_tokens += finished.usage().proposed_tokens();
  usage_.accepted_tokens += finished.usage().accepted_tokens();
  if (!request_.stream) return;
  if (!choice.begun && (request_.chat || request_.echo)) {
    Chunk(index, request_.echo ? prompts_[prompt].text : request_.chat_echo,
          prompts_[prompt].tokens, prompts_[prompt].tokens.size(), true, events);
    choice.begun = true;
  }
  LastChunk(index, events);
}

void ResponseBuilder::AddBeams(size_t prompt, const generation::v1::Finished& finished,
                               std::string* events) {
  const size_t first = prompt * static_cast<size_t>(request_.n);
  usage_.prompt_tokens += finished.usage().prompt_tokens();
  usage_.cached_tokens += finished.usage().cached_tokens();
  for (size_t c = 0; c < static_cast<size_t>(request_.n); ++c) {
    Choice& choice = choices_[first + c];
    if (choice.finished) continue;
    if (c < static_cast<size_t>(finished.beams_size())) {
      const common::v1::Beam& beam = finished.beams(static_cast<int>(c));
      choice.text = beam.text();
      choice.token_ids.assign(beam.token_ids().begin(), beam.token_ids().end());
      choice.score = Short(beam.score());
    }
    generation::v1::Finished one = finished;
    one.set_output_tokens(static_cast<uint32_t>(choice.token_ids.size()));
    usage_.completion_tokens += one.output_tokens();
    Finish(first + c, one);
    if (!request_.stream) continue;
    std::vector<ShownToken> tokens;
    for (const int32_t id : choice.token_ids) tokens.push_back({.id = id});
    Chunk(first + c, choice.text, tokens, 0, true, events);
    choice.begun = true;
    LastChunk(first + c, events);
  }
}

Json ResponseBuilder::Head(bool chunk) const {
  const char* object =
      request_.chat ? (chunk ? "chat.completion.chunk" : "chat.completion") : "text_completion";
  return {{"id", head_.id},
          {"object", object},
          {"created", head_.created},
          {"model", model_},
          {"system_fingerprint", Hex64(fingerprint_)}};
}

std::string ResponseBuilder::Name(int32_t id, std::string_view bytes) const {
  return request_.tokens_as_ids ? "token_id:" + std::to_string(id) : TokenText(bytes);
}

void ResponseBuilder::AddSeed(size_t index, Json* choice) const {
  const uint64_t seed = choices_[index].seed;
  if (request_.negative_seed) {
    (*choice)["seed"] = static_cast<int64_t>(seed);
  } else {
    (*choice)["seed"] = seed;
  }
  if (!request_.beams) {
    (*choice)["first_choice"] =
        request_.first_choice + static_cast<int>(index % static_cast<size_t>(request_.n));
  }
}

void ResponseBuilder::AddUsage(Json* chunk) const {
  if (request_.continuous_usage) {
    (*chunk)["usage"] = {{"prompt_tokens", prompt_tokens_so_far_},
                         {"completion_tokens", output_tokens_so_far_},
                         {"total_tokens", prompt_tokens_so_far_ + output_tokens_so_far_}};
  } else if (request_.include_usage) {
    (*chunk)["usage"] = nullptr;
  }
}

Json ResponseBuilder::PromptLogprobs(const Prompt& prompt) const {
  Json out = Json::array();
  for (const ShownToken& t : prompt.scored) {
    if (!t.has_logprob) {  // the first token follows nothing
      out.push_back(nullptr);
      continue;
    }
    Json entry = Json::object();
    const auto add = [&](int32_t id, float logprob, const Json& rank, std::string_view bytes) {
      const std::string key = std::to_string(id);
      if (entry.contains(key)) return;
      entry[key] = {
          {"logprob", Short(logprob)}, {"rank", rank}, {"decoded_token", TokenText(bytes)}};
    };
    Json rank = nullptr;  // unknown past the alternatives
    const size_t shown = std::min(t.top.size(), static_cast<size_t>(request_.prompt_logprobs));
    for (size_t i = 0; i < t.top.size(); ++i) {
      if (t.top[i].id == t.id) rank = i + 1;
    }
    add(t.id, t.logprob, rank, t.bytes);
    for (size_t i = 0; i < shown; ++i) add(t.top[i].id, t.top[i].logprob, i + 1, t.top[i].bytes);
    out.push_back(std::move(entry));
  }
  return out;
}

Json ResponseBuilder::Logprobs(const std::vector<ShownToken>& tokens, size_t num_prompt,
                               std::string_view prompt_text, int64_t* text_offset) const {
  if (!request_.logprobs) return nullptr;
  if (request_.chat) {
    Json content = Json::array();
    for (const ShownToken& t : tokens) {
      Json entry = ChatLogprob(Name(t.id, t.bytes), t.bytes, t.logprob);
      Json tops = Json::array();
      for (const auto& top : t.top)
        tops.push_back(ChatLogprob(Name(top.id, top.bytes), top.bytes, top.logprob));
      entry["top_logprobs"] = std::move(tops);
      content.push_back(std::move(entry));
    }
    return {{"content", std::move(content)}, {"refusal", nullptr}};
  }
  Json texts = Json::array(), logprobs = Json::array(), tops = Json::array(),
       offsets = Json::array();
  for (size_t i = 0; i < tokens.size(); ++i) {
    const ShownToken& t = tokens[i];
    texts.push_back(Name(t.id, t.bytes));
    offsets.push_back(*text_offset);
    const bool added = i < num_prompt && !prompt_text.starts_with(t.bytes);
    if (i < num_prompt && !added) prompt_text.remove_prefix(t.bytes.size());
    if (!added) *text_offset += CodePoints(t.bytes);
    if (!t.has_logprob) {  // the first token of a prompt follows nothing
      logprobs.push_back(nullptr);
      tops.push_back(nullptr);
      continue;
    }
    logprobs.push_back(Short(t.logprob));
    Json top = Json::object();
    for (const auto& alternative : t.top) {
      const std::string text = Name(alternative.id, alternative.bytes);
      if (!top.contains(text)) top[text] = Short(alternative.logprob);
    }
    // The token itself always stands there, likely or not.
    const std::string name = Name(t.id, t.bytes);
    if (!top.contains(name)) top[name] = Short(t.logprob);
    tops.push_back(std::move(top));
  }
  return {{"tokens", std::move(texts)},
          {"token_logprobs", std::move(logprobs)},
          {"top_logprobs", std::move(tops)},
          {"text_offset", std::move(offsets)}};
}

Json ResponseBuilder::WholeChoice(size_t index) const {
  const size_t prompt = index / static_cast<size_t>(request_.n);
  const Choice& choice = choices_[index];
  std::vector<ShownToken> tokens = prompts_[prompt].tokens;
  tokens.insert(tokens.end(), choice.tokens.begin(), choice.tokens.end());
  int64_t offset = 0;
  Json j = {{"index", index}};
  if (request_.chat) {
    j["message"] = {
        {"role", "assistant"}, {"content", request_.chat_echo + choice.text}, {"refusal", nullptr}};
  } else {
    j["text"] = (request_.echo ? prompts_[prompt].text : "") + choice.text;
  }
  j["logprobs"] = Logprobs(tokens, prompts_[prompt].tokens.size(), prompts_[prompt].text, &offset);
  j["finish_reason"] = choice.finish_reason;
  j["stop_reason"] = choice.stop_reason;
  AddSeed(index, &j);
  j["digest"] = request_.beams ? Json() : Json(Hex64(choice.digest));  // beams share no chain
  if (!choice.score.is_null()) j["score"] = choice.score;
  if (request_.prompt_logprobs >= 0 && !request_.chat)
    j["prompt_logprobs"] = PromptLogprobs(prompts_[prompt]);
  if (request_.return_token_ids) {
    j["token_ids"] = choice.token_ids;
    if (!request_.chat) j["prompt_token_ids"] = prompts_[prompt].ids;
  }
  return j;
}

Json ResponseBuilder::UsageJson() const {
  return {{"prompt_tokens", usage_.prompt_tokens},
          {"completion_tokens", usage_.completion_tokens},
          {"total_tokens", usage_.prompt_tokens + usage_.completion_tokens},
          {"prompt_tokens_details", {{"cached_tokens", usage_.cached_tokens}}},
          // Of speculation: tokens guessed ahead, by us rather than by the client.
          {"completion_tokens_details",
           {{"accepted_prediction_tokens", usage_.accepted_tokens},
            {"rejected_prediction_tokens", usage_.proposed_tokens - usage_.accepted_tokens}}}};
}

std::string ResponseBuilder::Whole() const {
  Json j = Head(false);
  Json choices = Json::array();
  for (size_t i = 0; i < choices_.size(); ++i) choices.push_back(WholeChoice(i));
  j["choices"] = std::move(choices);
  j["usage"] = UsageJson();
  if (request_.chat && request_.return_token_ids) j["prompt_token_ids"] = prompts_[0].ids;
  if (request_.chat && request_.prompt_logprobs >= 0)
    j["prompt_logprobs"] = PromptLogprobs(prompts_[0]);
  return Dump(j);
}

void ResponseBuilder::Emit(Json choice, std::string* events) const {
  Json j = Head(true);
  j["choices"] = Json::array({std::move(choice)});
  AddUsage(&j);
  *events += "data: " + Dump(j) + "\n\n";
}

void ResponseBuilder::Chunk(size_t index, std::string_view text,
                            const std::vector<ShownToken>& tokens, size_t num_prompt, bool first,
                            std::string* events) {
  Json j = {{"index", index}};
  if (request_.chat) {
    Json delta = Json::object();
    if (first) delta["role"] = "assistant";
    delta["content"] = text;
    j["delta"] = std::move(delta);
  } else {
    j["text"] = text;
  }
  j["logprobs"] =
      Logprobs(tokens, num_prompt, prompts_[index / static_cast<size_t>(request_.n)].text,
               &choices_[index].text_offset);
  j["finish_reason"] = nullptr;
  if (first) AddSeed(index, &j);
  if (request_.return_token_ids) {
    Json ids = Json::array();
    for (size_t i = num_prompt; i < tokens.size(); ++i) ids.push_back(tokens[i].id);
    j["token_ids"] = std::move(ids);
    if (first) j["prompt_token_ids"] = prompts_[index / static_cast<size_t>(request_.n)].ids;
  }
  Emit(std::move(j), events);
}

void ResponseBuilder::LastChunk(size_t index, std::string* events) {
  const Choice& choice = choices_[index];
  Json j = {{"index", index}};
  if (request_.chat) {
    j["delta"] = Json::object();
  } else {
    j["text"] = "";
  }
  j["logprobs"] = nullptr;
  j["finish_reason"] = choice.finish_reason;
  j["stop_reason"] = choice.stop_reason;
  AddSeed(index, &j);
  j["digest"] = request_.beams ? Json() : Json(Hex64(choice.digest));  // beams share no chain
  if (!choice.score.is_null()) j["score"] = choice.score;
  Emit(std::move(j), events);
}

std::string ResponseBuilder::LastEvents() const {
  std::string events;
  if (request_.include_usage) {
    Json j = Head(true);
    j["choices"] = Json::array();
    j["usage"] = UsageJson();
    events += "data: " + Dump(j) + "\n\n";
  }
  return events + "data: [DONE]\n\n";
}

Json ModelJson(const generation::v1::Model& model) {
  return {{"id", model.name()},
          {"object", "model"},
          {"created", model.created_unix_s()},
          {"owned_by", "tutti"},
          {"max_model_len", model.context_tokens()},
          {"vocab_size", model.vocab_size()},
          {"architecture", model.architecture()},
          {"fingerprint", Hex64(model.fingerprint())},
          {"has_chat_template", model.has_chat_template()},
          {"ready_decoders", model.ready_decoders()}};
}

Json TokenizerInfoJson(const generation::v1::Model& model) {
  const auto token = [](const std::string& bytes) { return bytes.empty() ? Json() : Json(bytes); };
  return {{"model", model.name()},
          {"bos_token", token(model.bos_token())},
          {"eos_token", token(model.eos_token())},
          {"vocab_size", model.vocab_size()},
          {"model_max_length", model.context_tokens()},
          {"has_chat_template", model.has_chat_template()}};
}

Json ModelsJson(const generation::v1::ListModelsResponse& models) {
  Json data = Json::array();
  for (const auto& model : models.models()) data.push_back(ModelJson(model));
  return {{"object", "list"}, {"data", std::move(data)}};
}

}  // namespace tutti::gateway
