// Reading a tokenizer from a GGUF file's metadata, and finding the one that belongs to a path.
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "shared/base/mapped_file.h"
#include "shared/base/strings.h"
#include "shared/tokenizer/byte_pair_tokenizer.h"
#include "shared/tokenizer/gguf_pre_tokenizers.h"
#include "shared/tokenizer/tokenizer_json.h"
#include "shared/weights/control_tokens.h"

#include <nlohmann/json.hpp>

namespace tutti::tokenizer {
namespace {

using nlohmann::json;
constexpr size_t kMaxJsonBytes = size_t{512} << 20;

const json* Find(const json& object, const std::string& key) {
  if (!object.is_object()) return nullptr;
  const auto it = object.find(key);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}
std::string Text(const json& object, const std::string& key) {
  const json* v = Find(object, key);
  return v != nullptr && v->is_string() ? v->get<std::string>() : std::string();
}
// -1 when absent or no id.
int32_t Id(const json& object, const std::string& key) {
  const json* v = Find(object, key);
  if (v != nullptr && v->is_array() && !v->empty()) v = &(*v)[0];
  if (v == nullptr || !v->is_number_integer()) return -1;
  const auto id = v->get<int64_t>();
  return id >= 0 && id < kMaxVocabSize ? static_cast<int32_t>(id) : -1;
}
bool Flag(const json& object, const std::string& key, bool fallback) {
  const json* v = Find(object, key);
  return v != nullptr && v->is_boolean() ? v->get<bool>() : fallback;
}
absl::Status Bad(std::string_view key, std::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat("tokenizer.ggml.", ToAbsl(key), ": ", ToAbsl(what)));
}

absl::StatusOr<BytePairSpec> ReadGguf(const weights::ModelFiles& files) {
  const json& c = files.config();
  const std::string model = Text(c, "tokenizer.ggml.model");
  if (model.empty()) return Bad("model", "the file has no tokenizer");
  if (model != "gpt2") {
    return absl::UnimplementedError(
        absl::StrCat("tokenizer.ggml.model: type \"", Printable(model, 40),
                     "\" is not supported yet; \"gpt2\" (byte-level BPE) is"));
  }
  BytePairSpec spec;
  TUTTI_ASSIGN_OR_RETURN(const GgufPreTokenizer pre,
                         FindGgufPreTokenizer(Text(c, "tokenizer.ggml.pre")));
  for (const std::string_view p : pre.patterns) spec.splits.push_back({.pattern = std::string(p)});
  spec.ignore_merges = pre.ignore_merges;

  using Kind = weights::MetadataArray::Kind;
  const auto* tokens = files.FindArray("tokenizer.ggml.tokens");
  if (tokens == nullptr || tokens->kind() != Kind::kString || tokens->size() == 0) {
    return Bad("tokens", "a list of texts expected");
  }
  if (tokens->size() > static_cast<size_t>(kMaxVocabSize)) {
    return Bad("tokens",
               absl::StrCat(tokens->size(), " entries; at most ", kMaxVocabSize, " are supported"));
  }
  const auto* type_list = files.FindArray("tokenizer.ggml.token_type");
  if (type_list != nullptr &&
      (type_list->kind() != Kind::kInt || type_list->size() != tokens->size())) {
    return Bad("token_type", "a list of numbers as long as tokens expected");
  }
  const std::vector<int64_t> types =
      type_list == nullptr ? std::vector<int64_t>() : type_list->Ints();
  const std::vector<std::string_view> texts = tokens->Strings();
  spec.vocab.reserve(texts.size());
  for (size_t i = 0; i < texts.size(); ++i) {
    const auto id = static_cast<int32_t>(i);
    using Type = weights::GgufTokenType;
    const Type type = weights::EffectiveType(
        texts[i], types.empty() ? Type::kNormal : static_cast<Type>(types[i]));
    spec.vocab.push_back({std::string(texts[i]), id});
    if ((type == Type::kControl || type == Type::kUserDefined) && !texts[i].empty()) {
      spec.added_tokens.push_back(
          {.id = id, .content = std::string(texts[i]), .special = type == Type::kControl});
    }
  }

  const auto* merges = files.FindArray("tokenizer.ggml.merges");
  if (merges == nullptr || merges->kind() != Kind::kString)
    return Bad("merges", "a list of texts expected");
  spec.merges.reserve(merges->size());
  for (const std::string_view text : merges->Strings()) {
    const size_t space = text.find(' ', 1);
    if (text.empty() || space == std::string::npos) {
      return Bad("merges", absl::StrCat("entry ", spec.merges.size(),
                                        " is not two tokens with a space between them"));
    }
    spec.merges.emplace_back(text.substr(0, space), text.substr(space + 1));
  }

  spec.bos_id = Id(c, "tokenizer.ggml.bos_token_id");
  spec.eos_id = Id(c, "tokenizer.ggml.eos_token_id");
  if (Flag(c, "tokenizer.ggml.add_bos_token", pre.add_bos) && spec.bos_id >= 0)
    spec.prefix_ids = {spec.bos_id};
  if (Flag(c, "tokenizer.ggml.add_eos_token", false) && spec.eos_id >= 0)
    spec.suffix_ids = {spec.eos_id};
  return spec;
}

absl::StatusOr<std::shared_ptr<const Tokenizer>> FromJsonFile(const std::string& path,
                                                              const json* config,
                                                              const json* model_config) {
  TUTTI_ASSIGN_OR_RETURN(const auto file, MappedFile::Open(path));
  const auto bytes = file->bytes();
  if (bytes.size() > kMaxJsonBytes)
    return absl::InvalidArgumentError(absl::StrCat(path, ": over 512 MB"));
  TUTTI_ASSIGN_OR_RETURN(
      BytePairSpec spec,
      ReadTokenizerJson({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, config));
  if (model_config != nullptr) {
    if (spec.bos_id < 0) spec.bos_id = Id(*model_config, "bos_token_id");
    if (spec.eos_id < 0) spec.eos_id = Id(*model_config, "eos_token_id");
  }
  return MakeBytePairTokenizer(std::move(spec));
}

// The JSON file at `path`, or null when there is none or it is no JSON.
json ReadSmallJson(const std::filesystem::path& path) {
  const auto file = MappedFile::Open(path.string());
  if (!file.ok() || (*file)->bytes().size() > kMaxJsonBytes) return nullptr;
  const auto* data = reinterpret_cast<const char*>((*file)->bytes().data());
  json value = json::parse(data, data + (*file)->bytes().size(), nullptr, false);
  return value.is_discarded() ? json(nullptr) : value;
}

}  // namespace

absl::StatusOr<std::shared_ptr<const Tokenizer>> TokenizerFromModel(
    const weights::ModelFiles& files) {
  if (files.format() == weights::Format::kGguf) {
    TUTTI_ASSIGN_OR_RETURN(BytePairSpec spec, ReadGguf(files));
    return MakeBytePairTokenizer(std::move(spec));
  }
  const std::filesystem::path folder = files.folder();
  return FromJsonFile((folder / "tokenizer.json").string(), &files.tokenizer_config(),
                      &files.config());
}

absl::StatusOr<std::shared_ptr<const Tokenizer>> LoadTokenizer(const std::string& path) {
  std::error_code ignored;
  const std::filesystem::path given = path;
  const bool folder = std::filesystem::is_directory(given, ignored);
  if ((!folder && given.extension() != ".json") || weights::PackedFiles::Is(path)) {
    TUTTI_ASSIGN_OR_RETURN(const auto files, weights::ModelFiles::Open(path));
    return TokenizerFromModel(*files);
  }
  const auto file = folder ? given / "tokenizer.json" : given;
  const json config = ReadSmallJson(file.parent_path() / "tokenizer_config.json");
  const json model_config = ReadSmallJson(file.parent_path() / "config.json");
  return FromJsonFile(file.string(), &config, &model_config);
}

}  // namespace tutti::tokenizer
