// Requests over the OpenAI-compatible API, of Tutti's gateway or of another server. What a field
// does not change is not sent, so that servers that know fewer fields can answer too.
#include <algorithm>
#include <charconv>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "shared/base/strings.h"
#include "tools/cli/generation.h"
#include "tools/cli/http_api.h"
#include "tools/cli/terminal.h"

namespace tutti::cli {
namespace {

using nlohmann::json;

constexpr std::string_view kTokenId = "token_id:";

const json* Find(const json& object, const char* name) {
  const auto it = object.is_object() ? object.find(name) : object.end();
  return it == object.end() || it->is_null() ? nullptr : &*it;
}
std::string TextOf(const json& object, const char* name) {
  const json* v = Find(object, name);
  return v != nullptr && v->is_string() ? v->get<std::string>() : "";
}
template <class T>
T NumberOf(const json& object, const char* name) {
  const json* v = Find(object, name);
  return v != nullptr && v->is_number() ? v->get<T>() : T{};
}
uint64_t HexOf(const json& object, const char* name) {
  const std::string text = TextOf(object, name);
  uint64_t value = 0;
  const auto r = std::from_chars(text.data(), text.data() + text.size(), value, 16);
  return text.size() == 16 && r.ec == std::errc() && r.ptr == text.data() + text.size() ? value : 0;
}

// "token_id:17", as return_tokens_as_token_ids has it; -1 for other text.
int32_t TokenId(const std::string& name) {
  int32_t id = 0;
  return name.starts_with(kTokenId) && absl::SimpleAtoi(name.substr(kTokenId.size()), &id) ? id
                                                                                           : -1;
}
void AddIds(const json& object, const char* name, std::vector<int32_t>* out) {
  const json* ids = Find(object, name);
  if (ids == nullptr || !ids->is_array()) return;
  for (const json& id : *ids) {
    if (id.is_number_integer()) out->push_back(id.get<int32_t>());
  }
}

absl::StatusOr<json> BodyOf(const router::RequestSpec& spec, bool stream) {
  const sampling::SamplingParams& p = spec.sampling;
  const sampling::SamplingParams plain;
  json body = {{"return_token_ids", true}};
  if (stream) {
    body["stream"] = true;
    body["stream_options"] = {{"include_usage", true}};
  }
  const bool chat = std::holds_alternative<router::ChatPrompt>(spec.prompt);
  if (const auto* text = std::get_if<std::string>(&spec.prompt)) body["prompt"] = *text;
  if (const auto* ids = std::get_if<std::vector<int32_t>>(&spec.prompt)) body["prompt"] = *ids;
  if (chat) {
    const auto& prompt = std::get<router::ChatPrompt>(spec.prompt);
    body["messages"] = json::parse(prompt.messages_json, nullptr, false);
    if (!body["messages"].is_array()) return absl::InvalidArgumentError("messages: not JSON");
  }
  if (spec.parse_special == chat) body["parse_special"] = spec.parse_special;
  if (!spec.model.empty()) body["model"] = spec.model;
  if (spec.has_seed) body["seed"] = p.seed;
  if (spec.first_choice != 0) body["first_choice"] = spec.first_choice;
  if (spec.has_max_tokens) body["max_tokens"] = p.max_tokens;
  const auto add = [&](const char* name, const auto& value, const auto& unchanged) {
    if (value != unchanged) body[name] = value;
  };
  add("temperature", p.temperature, plain.temperature);
  add("top_k", p.top_k, plain.top_k);
  add("top_p", p.top_p, plain.top_p);
  add("min_p", p.min_p, plain.min_p);
  add("typical_p", p.typical_p, plain.typical_p);
  add("repetition_penalty", p.repetition_penalty, plain.repetition_penalty);
  add("presence_penalty", p.presence_penalty, plain.presence_penalty);
  add("frequency_penalty", p.frequency_penalty, plain.frequency_penalty);
  add("no_repeat_ngram_size", p.no_repeat_ngram_size, plain.no_repeat_ngram_size);
  add("min_tokens", p.min_tokens, plain.min_tokens);
  add("ignore_eos", p.ignore_eos, plain.ignore_eos);
  add("stop_token_ids", p.stop_ids, plain.stop_ids);
  add("stop", spec.stop, std::vector<std::string>());
  add("include_stop_str_in_output", spec.include_stop, false);
  add("skip_special_tokens", spec.skip_special, true);
  add("priority", spec.priority, 0);
  for (const auto& [id, bias] : p.logit_bias) body["logit_bias"][absl::StrCat(id)] = bias;
  if (p.logprobs >= 0) {
    body["return_tokens_as_token_ids"] = true;
    body["logprobs"] = chat ? json(true) : json(p.logprobs);
    if (chat) body["top_logprobs"] = p.logprobs;
  }
  if (p.prompt_logprobs >= 0) body["prompt_logprobs"] = p.prompt_logprobs;
  if (p.num_beams > 1) {
    body["num_beams"] = p.num_beams;
    body["n"] = p.num_return;
    add("length_penalty", p.length_penalty, plain.length_penalty);
    add("early_stopping", p.early_stopping, plain.early_stopping);
  }
  return body;
}

// Puts a response or its chunks together.
class Gatherer {
 public:
  Gatherer(const router::RequestSpec& spec, const std::function<void(std::string_view)>& on_text)
      : spec_(spec),
        chat_(std::holds_alternative<router::ChatPrompt>(spec.prompt)),
        on_text_(on_text),
        start_us_(NowUs()) {}

  void Add(const json& message) {
    result_.request_id = TextOf(message, "id");
    result_.model = TextOf(message, "model");
    result_.fingerprint = HexOf(message, "system_fingerprint");
    if (const json* usage = Find(message, "usage")) AddUsage(*usage);
    AddPrompt(message);
    const json* choices = Find(message, "choices");
    if (choices == nullptr || !choices->is_array()) return;
    for (const json& choice : *choices) AddChoice(choice);
  }

  GenerateResult Finish(bool interrupted) {
    result_.total_us = NowUs() - start_us_;
    if (interrupted && result_.finish == store::FinishReason::kNone) {
      result_.finish = store::FinishReason::kCancelled;
      result_.usage.output_tokens = static_cast<int32_t>(result_.tokens.size());
    }
    return std::move(result_);
  }

 private:
  void AddUsage(const json& usage) {
    store::Usage& u = result_.usage;
    u.prompt_tokens = NumberOf<int32_t>(usage, "prompt_tokens");
    u.output_tokens = NumberOf<int32_t>(usage, "completion_tokens");
    if (const json* details = Find(usage, "prompt_tokens_details"))
      u.cached_tokens = NumberOf<int32_t>(*details, "cached_tokens");
    if (const json* details = Find(usage, "completion_tokens_details")) {
      u.accepted_tokens = NumberOf<int32_t>(*details, "accepted_prediction_tokens");
      u.proposed_tokens =
          u.accepted_tokens + NumberOf<int32_t>(*details, "rejected_prediction_tokens");
    }
  }

  // The prompt's ids and scores: inside of the choice for completions, beside the choices for
  // chats.
  void AddPrompt(const json& object) {
    if (result_.prompt_ids.empty()) AddIds(object, "prompt_token_ids", &result_.prompt_ids);
    const json* scores = Find(object, "prompt_logprobs");
    if (scores == nullptr || !scores->is_array() || !result_.prompt_tokens.empty()) return;
    for (size_t i = 0; i < scores->size(); ++i) {
      store::Token token{.id = i < result_.prompt_ids.size() ? result_.prompt_ids[i] : -1};
      const json& entry = (*scores)[i];
      if (entry.is_object()) {
        std::vector<std::pair<int64_t, store::TopLogprob>> ranked;
        for (const auto& [id_text, v] : entry.items()) {
          int32_t id = -1;
          if (!absl::SimpleAtoi(id_text, &id)) continue;
          const auto logprob = NumberOf<float>(v, "logprob");
          const auto rank = NumberOf<int64_t>(v, "rank");
          if (id == token.id) token.logprob = logprob;
          if (rank > 0 && rank <= spec_.sampling.prompt_logprobs)
            ranked.push_back({rank, {id, logprob}});
        }
        std::sort(ranked.begin(), ranked.end(),
                  [](const auto& a, const auto& b) { return a.first < b.first; });
        for (const auto& [rank, top] : ranked) token.top.push_back(top);
      }
      result_.prompt_tokens.push_back(std::move(token));
    }
  }

  void AddChoice(const json& choice) {
    AddPrompt(choice);
    const std::string text = ChoiceText(choice);
    std::vector<int32_t> ids;
    AddIds(choice, "token_ids", &ids);
    if (spec_.sampling.num_beams > 1) {
      result_.beams.push_back({ids, NumberOf<float>(choice, "score"), text});
      if (result_.beams.size() > 1) return;
    }
    std::vector<store::Token> tokens;
    for (const int32_t id : ids) tokens.push_back({.id = id});
    if (const json* logprobs = Find(choice, "logprobs")) AddLogprobs(*logprobs, &tokens);
    if ((!tokens.empty() || !text.empty()) && result_.first_token_us == 0)
      result_.first_token_us = NowUs() - start_us_;
    if (spec_.sampling.num_beams <= 1)
      result_.tokens.insert(result_.tokens.end(), tokens.begin(), tokens.end());
    result_.text += text;
    if (on_text_ && !text.empty()) on_text_(text);
    AddEnd(choice);
  }

  std::string ChoiceText(const json& choice) const {
    if (!chat_) return TextOf(choice, "text");
    for (const char* part : {"message", "delta"}) {
      if (const json* found = Find(choice, part)) return TextOf(*found, "content");
    }
    return "";
  }

  void AddEnd(const json& choice) {
    if (const json* seed = Find(choice, "seed"); seed != nullptr && seed->is_number_integer())
      result_.seed = seed->get<uint64_t>();
    if (const uint64_t digest = HexOf(choice, "digest")) result_.digest = digest;
    const std::string reason = TextOf(choice, "finish_reason");
    if (reason.empty()) return;
    const json* by = Find(choice, "stop_reason");
    result_.matched_stop = TextOf(choice, "stop_reason");
    result_.finish = reason == "length" ? store::FinishReason::kLength
                     : reason != "stop" ? store::FinishReason::kError
                     : by == nullptr    ? store::FinishReason::kEos
                                        : store::FinishReason::kStop;
  }

  void AddLogprobs(const json& logprobs, std::vector<store::Token>* tokens) {
    const json* entries = Find(logprobs, chat_ ? "content" : "tokens");
    const json* values = chat_ ? nullptr : Find(logprobs, "token_logprobs");
    const json* tops = chat_ ? nullptr : Find(logprobs, "top_logprobs");
    if (entries == nullptr || !entries->is_array()) return;
    for (size_t i = 0; i < std::min(tokens->size(), entries->size()); ++i) {
      store::Token& token = (*tokens)[i];
      if (chat_) {
        const json& entry = (*entries)[i];
        if (const json* v = Find(entry, "logprob"); v != nullptr && v->is_number())
          token.logprob = v->get<float>();
        if (const json* top = Find(entry, "top_logprobs"); top != nullptr && top->is_array()) {
          for (const json& t : *top)
            token.top.push_back({TokenId(TextOf(t, "token")), NumberOf<float>(t, "logprob")});
        }
        continue;
      }
      if (values != nullptr && values->is_array() && i < values->size() && (*values)[i].is_number())
        token.logprob = (*values)[i].get<float>();
      if (tops == nullptr || !tops->is_array() || i >= tops->size() || !(*tops)[i].is_object())
        continue;
      for (const auto& [name, v] : (*tops)[i].items()) {
        if (v.is_number()) token.top.push_back({TokenId(name), v.get<float>()});
      }
      // The token itself stands there too, likely or not.
      std::stable_sort(token.top.begin(), token.top.end(), [](const auto& a, const auto& b) {
        return a.logprob != b.logprob ? a.logprob > b.logprob : a.token_id < b.token_id;
      });
      const auto most = static_cast<size_t>(spec_.sampling.logprobs);
      if (token.top.size() > most) token.top.resize(most);
    }
  }

  const router::RequestSpec& spec_;
  const bool chat_;
  const std::function<void(std::string_view)>& on_text_;
  const int64_t start_us_;
  GenerateResult result_;
};

class HttpGenerator : public Generator {
 public:
  explicit HttpGenerator(const Endpoint& endpoint) : api_(endpoint) {}

  absl::StatusOr<GenerateResult> Generate(const router::RequestSpec& spec,
                                          const std::function<void(std::string_view)>& on_text,
                                          const std::atomic<bool>* stop) override {
    // Beams and the scores of a prompt come only in a whole response.
    const bool stream = spec.sampling.num_beams <= 1 && spec.sampling.prompt_logprobs < 0;
    const bool chat = std::holds_alternative<router::ChatPrompt>(spec.prompt);
    const char* path = chat ? "/v1/chat/completions" : "/v1/completions";
    router::RequestSpec named = spec;
    if (named.model.empty()) {
      // Other servers want the name; it is asked for once.
      if (model_.empty()) {
        TUTTI_ASSIGN_OR_RETURN(model_, api_.FirstModel());
      }
      named.model = model_;
    }
    TUTTI_ASSIGN_OR_RETURN(const json body, BodyOf(named, stream));
    Gatherer gatherer(spec, on_text);
    absl::Status status;
    if (stream) {
      status = api_.Stream(
          path, body, [&](const json& event) { gatherer.Add(event); }, stop);
    } else {
      const auto response = api_.Post(path, body, stop);
      status = response.status();
      if (response.ok()) gatherer.Add(*response);
    }
    const bool interrupted = status.code() == absl::StatusCode::kCancelled;
    if (!status.ok() && !interrupted) return status;
    return gatherer.Finish(interrupted);
  }

 private:
  HttpApi api_;
  std::string model_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Generator>> MakeHttpGenerator(const Endpoint& endpoint) {
  return std::unique_ptr<Generator>(new HttpGenerator(endpoint));
}

}  // namespace tutti::cli
