#include "shared/model/registry.h"

#include <algorithm>
#include <span>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "shared/base/strings.h"
#include "shared/model/families/families.h"
#include "shared/model/fields.h"
#include "shared/model/strict.h"
#include "shared/weights/control_tokens.h"

namespace tutti::model {
namespace {

struct Family {
  std::string_view name;  // model_type, or general.architecture
  FamilyParser parse;
};

constexpr Family kHuggingFace[] = {
    {"llama", ParseLlamaHf},
    {"mistral", ParseMistralHf},
    {"qwen2", ParseQwen2Hf},
    {"qwen3", ParseQwen3Hf},
    {"phi3", ParsePhi3Hf},
    {"gemma2", ParseGemma2Hf},
    {"gemma3_text", ParseGemma3Hf},
    {"gpt2", ParseGpt2Hf},
    {"openai-gpt", ParseOpenAiGptHf},
    {"mixtral", ParseMixtralHf},
    {"olmoe", ParseOlmoeHf},
    {"qwen2_moe", ParseQwen2MoeHf},
    {"qwen3_moe", ParseQwen3MoeHf},
    {"deepseek_v2", ParseDeepseekV2Hf},
    {"deepseek_v3", ParseDeepseekV3Hf},
};
constexpr Family kGguf[] = {
    {"llama", ParseGguf}, {"qwen2", ParseGguf},     {"qwen3", ParseGguf},
    {"phi3", ParseGguf},  {"gemma2", ParseGguf},    {"gemma3", ParseGguf},
    {"gpt2", ParseGguf},  {"qwen2moe", ParseGguf},  {"qwen3moe", ParseGguf},
    {"olmoe", ParseGguf}, {"deepseek2", ParseGguf},
};

std::span<const Family> FamiliesOf(weights::Format format) {
  if (format == weights::Format::kGguf) return kGguf;
  return kHuggingFace;
}

// Rows of the embedding tensor give the vocabulary; its columns must be the hidden size.
absl::Status TakeVocabulary(const weights::ModelFiles& files, FamilyParse* parse) {
  TensorNames& names = parse->names;
  const weights::TensorInfo* embedding = nullptr;
  std::string tried;
  for (const std::string& prefix : parse->prefixes) {
    const std::string name = prefix + names.embedding + ".weight";
    absl::StrAppend(&tried, tried.empty() ? "" : " or ", name);
    embedding = files.Find(name);
    if (embedding != nullptr) {
      names.prefix = prefix;
      break;
    }
  }
  if (embedding == nullptr)
    return absl::InvalidArgumentError(absl::StrCat("tensor ", tried, " is missing"));
  const int64_t hidden = parse->config.hidden_size;
  if (embedding->shape.size() != 2 || embedding->shape[1] != hidden || embedding->shape[0] < 1 ||
      embedding->shape[0] > (1 << 22)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "tensor ", Printable(embedding->name), ": shape [", absl::StrJoin(embedding->shape, ", "),
        "] must be [vocabulary, ", hidden, "]"));
  }
  parse->config.vocab_size = static_cast<int>(embedding->shape[0]);
  return absl::OkStatus();
}

// Ends of generation, in the order found, each once.
absl::Status TakeEosIds(const weights::ModelFiles& files, ModelConfig* config) {
  std::vector<int32_t> ids;
  const auto add = [&](int64_t id) {
    const auto end = static_cast<int32_t>(id);
    if (std::find(ids.begin(), ids.end(), end) == ids.end()) ids.push_back(end);
  };
  const bool gguf = files.format() == weights::Format::kGguf;
  // An end outside of the vocabulary never comes, so it is no end; the other ones are.
  const auto take = [&](Fields& f, std::string_view key) {
    for (const int64_t id : f.IntsOr(key, 64)) {
      if (id >= 0 && id < config->vocab_size) {
        add(id);
      } else {
        config->notes.push_back(absl::StrCat(
            f.source(), ": ", gguf ? "tokenizer.ggml." : "", ToAbsl(key), " has ", id,
            ", which is not in the vocabulary of ", config->vocab_size, " tokens: left out"));
      }
    }
    return f.status();
  };
  if (gguf) {
    Fields f(files.config(), "GGUF metadata", "tokenizer.ggml.");
    for (std::string_view key : {"eos_token_id", "eot_token_id", "eom_token_id"})
      TUTTI_RETURN_IF_ERROR(take(f, key));
    config->num_keyed_eos = ids.size();
    for (std::string_view key : {"fim_pad_token_id", "fim_rep_token_id", "fim_sep_token_id"})
      TUTTI_RETURN_IF_ERROR(take(f, key));
    for (const int32_t id : weights::EndsByName(files)) {
      if (id < config->vocab_size && ids.size() < 64) add(id);
    }
  } else {
    // What generate() uses: generation_config.json when there is one, else config.json.
    Fields config_json(files.config(), "config.json");
    if (files.generation_config().is_object()) {
      Fields generation(files.generation_config(), "generation_config.json");
      TUTTI_RETURN_IF_ERROR(take(generation, "eos_token_id"));
    }
    if (ids.empty()) TUTTI_RETURN_IF_ERROR(take(config_json, "eos_token_id"));
  }
  config->eos_ids = std::move(ids);
  return absl::OkStatus();
}

// tie_word_embeddings and a head in the files: the same matrix, or, as the reference (transformers
// 5) has it, the head of the files.
absl::Status TakeTiedHead(const weights::ModelFiles& files, const TensorNames& names,
                          ModelConfig* config) {
  if (files.format() == weights::Format::kGguf || !config->tied_embeddings) return absl::OkStatus();
  const weights::TensorInfo* head = files.Find(names.output + ".weight");
  const weights::TensorInfo* embedding = files.Find(names.prefix + names.embedding + ".weight");
  if (head == nullptr || embedding == nullptr) return absl::OkStatus();
  if (files.packed() != nullptr) {
    config->tied_embeddings = files.packed()->Find(head->name, 0).tensor == nullptr;
    return absl::OkStatus();
  }
  const bool same = head->dtype == embedding->dtype && head->shape == embedding->shape &&
                    std::ranges::equal(head->data, embedding->data);
  files.DropPages(*head);
  files.DropPages(*embedding);
  if (same) return absl::OkStatus();
  config->tied_embeddings = false;
  config->notes.push_back(absl::StrCat("config.json: tie_word_embeddings is true, and tensor ",
                                       Printable(head->name),
                                       " differs from the embeddings: the tensor is used"));
  return absl::OkStatus();
}

void NotePartialRotary(const weights::ModelFiles& files, ModelConfig* config) {
  const auto it = files.config().find("partial_rotary_factor");
  if (it != files.config().end() && it->is_number() && *it != 1) {
    config->notes.push_back("config.json: partial_rotary_factor: not used by this family");
  }
}

// A token past the rows of the embeddings could never be served.
absl::Status CheckTokenCount(const weights::ModelFiles& files, const ModelConfig& config) {
  const weights::MetadataArray* tokens = files.FindArray("tokenizer.ggml.tokens");
  if (tokens == nullptr || tokens->size() <= static_cast<size_t>(config.vocab_size))
    return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "GGUF metadata: tokenizer.ggml.tokens has ", tokens->size(),
      " tokens, and the embeddings have ", config.vocab_size, " rows: one for each is needed"));
}

}  // namespace

std::vector<std::string> KnownArchitectures(weights::Format format) {
  std::vector<std::string> names;
  for (const Family& family : FamiliesOf(format)) names.emplace_back(family.name);
  std::sort(names.begin(), names.end());
  return names;
}

absl::StatusOr<ParsedModel> ParseModel(const weights::ModelFiles& files) {
  const bool gguf = files.format() == weights::Format::kGguf;
  Fields f(files.config(), gguf ? "GGUF metadata" : "config.json");
  const std::string_view key = gguf ? "general.architecture" : "model_type";
  if (!f.Has(key)) f.Fail(key, "it is needed to know what the model is");
  const std::string type = f.StringOr(key, "");
  TUTTI_RETURN_IF_ERROR(f.status());
  const auto families = FamiliesOf(files.format());
  const auto family = std::find_if(families.begin(), families.end(),
                                   [&](const Family& x) { return x.name == type; });
  if (family == families.end()) {
    return absl::UnimplementedError(
        absl::StrCat(f.source(), ": ", ToAbsl(key), " \"", Printable(type),
                     "\" is not one of the families built here: ",
                     absl::StrJoin(KnownArchitectures(files.format()), ", ")));
  }
  TUTTI_RETURN_IF_ERROR(CheckKeys(files));
  TUTTI_ASSIGN_OR_RETURN(FamilyParse parse, family->parse(files));
  TUTTI_RETURN_IF_ERROR(TakeVocabulary(files, &parse));
  TUTTI_RETURN_IF_ERROR(TakeTiedHead(files, parse.names, &parse.config));
  TUTTI_RETURN_IF_ERROR(TakeEosIds(files, &parse.config));
  if (files.format() == weights::Format::kSafetensors &&
      parse.config.rotary_dim == parse.config.head_dim)
    NotePartialRotary(files, &parse.config);
  TUTTI_RETURN_IF_ERROR(CheckTokenCount(files, parse.config));
  parse.config.name = files.Name();
  TUTTI_RETURN_IF_ERROR(parse.config.Validate());
  return ParsedModel{std::move(parse.config), std::move(parse.names)};
}

}  // namespace tutti::model
