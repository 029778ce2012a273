#include "shared/model/registry.h"

#include <algorithm>
#include <span>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "shared/base/strings.h"
#include "shared/model/families/families.h"
#include "shared/model/fields.h"

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
  const auto take = [&](Fields& f, std::string_view key) {
    for (int32_t id : f.IdsOr(key, config->vocab_size - 1, 64)) {
      if (std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(id);
    }
    return f.status();
  };
  if (files.format() == weights::Format::kGguf) {
    Fields f(files.config(), "GGUF metadata", "tokenizer.ggml.");
    for (std::string_view key : {"eos_token_id", "eot_token_id", "eom_token_id"})
      TUTTI_RETURN_IF_ERROR(take(f, key));
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
  TUTTI_ASSIGN_OR_RETURN(FamilyParse parse, family->parse(files));
  TUTTI_RETURN_IF_ERROR(TakeVocabulary(files, &parse));
  TUTTI_RETURN_IF_ERROR(TakeEosIds(files, &parse.config));
  parse.config.name = files.Name();
  TUTTI_RETURN_IF_ERROR(parse.config.Validate());
  return ParsedModel{std::move(parse.config), std::move(parse.names)};
}

}  // namespace tutti::model
