#include "shared/tokenizer/tokenizer_json.h"

#include <algorithm>
#include <unordered_map>

#include "absl/strings/str_cat.h"
#include "shared/base/strings.h"
#include "shared/tokenizer/tokenizer_json_sax.h"

namespace tutti::tokenizer {
namespace {

using nlohmann::json;

absl::Status Bad(std::string_view field, std::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat("tokenizer.json: ", ToAbsl(field), ": ", ToAbsl(what)));
}
absl::Status Unsupported(std::string_view field, std::string_view type) {
  return absl::UnimplementedError(absl::StrCat("tokenizer.json: ", ToAbsl(field), " of type \"",
                                               Printable(type, 40),
                                               "\" is not supported yet; byte-level BPE is"));
}

const json* Find(const json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  const auto it = object.find(key);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}
std::string Text(const json& object, const char* key) {
  const json* v = Find(object, key);
  return v != nullptr && v->is_string() ? v->get<std::string>() : std::string();
}
// Absent and null are `fallback`; anything but a boolean is an error.
absl::StatusOr<bool> Flag(const json& object, const char* key, bool fallback,
                          std::string_view field) {
  const json* v = Find(object, key);
  if (v == nullptr) return fallback;
  if (!v->is_boolean()) return Bad(absl::StrCat(ToAbsl(field), ".", key), "true or false expected");
  return v->get<bool>();
}
// The elements of a list field; a wrong type is an error.
absl::StatusOr<const json*> List(const json& object, const char* key, std::string_view field) {
  const json* v = Find(object, key);
  if (v == nullptr || !v->is_array())
    return Bad(absl::StrCat(ToAbsl(field), ".", key), "a list expected");
  return v;
}

absl::Status ReadNormalizer(const json& n, BytePairSpec* spec) {
  const std::string type = Text(n, "type");
  if (type == "NFC" || type == "NFD") {
    spec->normalizers.push_back(type == "NFC" ? NormalForm::kNfc : NormalForm::kNfd);
    return absl::OkStatus();
  }
  if (type != "Sequence") return Unsupported("normalizer", type);
  TUTTI_ASSIGN_OR_RETURN(const json* list, List(n, "normalizers", "normalizer"));
  for (const json& step : *list) TUTTI_RETURN_IF_ERROR(ReadNormalizer(step, spec));
  return absl::OkStatus();
}

absl::StatusOr<SplitSpec> ReadSplit(const json& p) {
  SplitSpec split;
  const json* pattern = Find(p, "pattern");
  if (pattern != nullptr && pattern->is_string()) {
    split.literal = true;
    split.pattern = pattern->get<std::string>();
  } else if (pattern != nullptr && !Text(*pattern, "String").empty()) {
    split.literal = true;
    split.pattern = Text(*pattern, "String");
  } else if (pattern != nullptr && !Text(*pattern, "Regex").empty()) {
    split.pattern = Text(*pattern, "Regex");
  } else {
    return Bad("pre_tokenizer.pattern", "{\"Regex\": ...} or {\"String\": ...} expected");
  }
  // The same pattern in other escapes, so that its scanner is found.
  static const auto& same = *new std::unordered_map<std::string, std::string_view>{
      {R"re([!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)re",
       patterns::kDeepSeekWords}};
  if (const auto it = same.find(split.pattern); it != same.end() && !split.literal)
    split.pattern = it->second;

  const std::string behavior = Text(p, "behavior");
  constexpr std::pair<std::string_view, SplitBehavior> kNames[] = {
      {"Removed", SplitBehavior::kRemoved},
      {"Isolated", SplitBehavior::kIsolated},
      {"MergedWithPrevious", SplitBehavior::kMergedWithPrevious},
      {"MergedWithNext", SplitBehavior::kMergedWithNext},
      {"Contiguous", SplitBehavior::kContiguous}};
  const auto* name = std::find_if(std::begin(kNames), std::end(kNames),
                                  [&](const auto& n) { return n.first == behavior; });
  if (name == std::end(kNames))
    return Bad("pre_tokenizer.behavior", absl::StrCat("unknown: \"", Printable(behavior), "\""));
  split.behavior = name->second;
  TUTTI_ASSIGN_OR_RETURN(split.invert, Flag(p, "invert", false, "pre_tokenizer"));
  return split;
}

struct PreTokenizerState {
  bool byte_level = false;  // seen
};

absl::Status ReadPreTokenizer(const json& p, PreTokenizerState* state, BytePairSpec* spec) {
  const std::string type = Text(p, "type");
  if (type == "Sequence") {
    TUTTI_ASSIGN_OR_RETURN(const json* list, List(p, "pretokenizers", "pre_tokenizer"));
    for (const json& step : *list) TUTTI_RETURN_IF_ERROR(ReadPreTokenizer(step, state, spec));
    return absl::OkStatus();
  }
  if (state->byte_level) return Unsupported("pre_tokenizer after ByteLevel,", type);
  if (type == "Split") {
    TUTTI_ASSIGN_OR_RETURN(SplitSpec split, ReadSplit(p));
    spec->splits.push_back(std::move(split));
    return absl::OkStatus();
  }
  if (type == "Digits") {
    TUTTI_ASSIGN_OR_RETURN(const bool individual,
                           Flag(p, "individual_digits", false, "pre_tokenizer"));
    spec->splits.push_back(
        {.pattern = std::string(individual ? patterns::kDigit : patterns::kDigits)});
    return absl::OkStatus();
  }
  if (type != "ByteLevel") return Unsupported("pre_tokenizer", type);
  state->byte_level = true;
  TUTTI_ASSIGN_OR_RETURN(spec->add_prefix_space,
                         Flag(p, "add_prefix_space", true, "pre_tokenizer"));
  if (spec->add_prefix_space && !spec->splits.empty())
    return Unsupported("pre_tokenizer before add_prefix_space,", "Split");
  TUTTI_ASSIGN_OR_RETURN(const bool use_regex, Flag(p, "use_regex", true, "pre_tokenizer"));
  if (use_regex) spec->splits.push_back({.pattern = std::string(patterns::kGpt2)});
  return absl::OkStatus();
}

absl::Status ReadTemplate(const json& p, BytePairSpec* spec) {
  TUTTI_ASSIGN_OR_RETURN(const json* single, List(p, "single", "post_processor"));
  std::vector<int32_t> before, after;
  int texts = 0;
  for (const json& item : *single) {
    if (Find(item, "Sequence") != nullptr) {
      ++texts;
      continue;
    }
    const json* special = Find(item, "SpecialToken");
    if (special == nullptr)
      return Bad("post_processor.single", "SpecialToken or Sequence expected");
    const json* tokens = Find(p, "special_tokens");
    const std::string name = Text(*special, "id");
    const json* token = tokens == nullptr ? nullptr : Find(*tokens, name.c_str());
    const json* ids = token == nullptr ? nullptr : Find(*token, "ids");
    if (ids == nullptr || !ids->is_array()) {
      return Bad("post_processor.special_tokens",
                 absl::StrCat("\"", Printable(name), "\" has no ids"));
    }
    for (const json& id : *ids) {
      if (!id.is_number_unsigned() || id.get<uint64_t>() >= static_cast<uint64_t>(kMaxVocabSize)) {
        return Bad("post_processor.special_tokens", "a token id expected");
      }
      (texts == 0 ? before : after).push_back(id.get<int32_t>());
    }
  }
  if (texts != 1) return Bad("post_processor.single", "exactly one Sequence expected");
  spec->prefix_ids.insert(spec->prefix_ids.begin(), before.begin(), before.end());
  spec->suffix_ids.insert(spec->suffix_ids.end(), after.begin(), after.end());
  return absl::OkStatus();
}

// [cls] text [sep], each written as ["<s>", 0].
absl::Status ReadPairProcessor(const json& p, BytePairSpec* spec) {
  for (const auto& [key, ids] :
       {std::pair{"cls", &spec->prefix_ids}, std::pair{"sep", &spec->suffix_ids}}) {
    const json* v = Find(p, key);
    if (v == nullptr || !v->is_array() || v->size() != 2 || !(*v)[1].is_number_unsigned() ||
        (*v)[1].get<uint64_t>() >= static_cast<uint64_t>(kMaxVocabSize)) {
      return Bad(absl::StrCat("post_processor.", key), "[token, id] expected");
    }
    ids->push_back((*v)[1].get<int32_t>());
  }
  return absl::OkStatus();
}

absl::Status ReadPostProcessor(const json& p, BytePairSpec* spec) {
  const std::string type = Text(p, "type");
  if (type == "Sequence") {
    TUTTI_ASSIGN_OR_RETURN(const json* list, List(p, "processors", "post_processor"));
    for (const json& step : *list) TUTTI_RETURN_IF_ERROR(ReadPostProcessor(step, spec));
    return absl::OkStatus();
  }
  if (type == "TemplateProcessing") return ReadTemplate(p, spec);
  if (type == "BertProcessing") return ReadPairProcessor(p, spec);
  if (type != "ByteLevel" && type != "RobertaProcessing")
    return Unsupported("post_processor", type);
  if (type == "RobertaProcessing") TUTTI_RETURN_IF_ERROR(ReadPairProcessor(p, spec));
  TUTTI_ASSIGN_OR_RETURN(spec->trim_offsets, Flag(p, "trim_offsets", true, "post_processor"));
  TUTTI_ASSIGN_OR_RETURN(spec->trim_keeps_first_space,
                         Flag(p, "add_prefix_space", true, "post_processor"));
  return absl::OkStatus();
}

absl::Status CheckDecoder(const json* d) {
  if (d == nullptr) return Unsupported("decoder", "null");
  const std::string type = Text(*d, "type");
  if (type == "Sequence") {
    TUTTI_ASSIGN_OR_RETURN(const json* list, List(*d, "decoders", "decoder"));
    if (list->size() == 1) return CheckDecoder(&(*list)[0]);
  }
  return type == "ByteLevel" ? absl::OkStatus() : Unsupported("decoder", type);
}

absl::Status ReadAddedTokens(const json& root, BytePairSpec* spec) {
  const json* list = Find(root, "added_tokens");
  if (list == nullptr) return absl::OkStatus();
  if (!list->is_array()) return Bad("added_tokens", "a list expected");
  for (size_t i = 0; i < list->size(); ++i) {
    const json& t = (*list)[i];
    const std::string field = absl::StrCat("added_tokens[", i, "]");
    const json* id = Find(t, "id");
    if (id == nullptr || !id->is_number_unsigned() ||
        id->get<uint64_t>() >= static_cast<uint64_t>(kMaxVocabSize)) {
      return Bad(field + ".id", absl::StrCat("a number in [0, ", kMaxVocabSize, ") expected"));
    }
    AddedToken token{.id = id->get<int32_t>(), .content = Text(t, "content")};
    if (token.content.empty()) return Bad(field + ".content", "a text expected");
    TUTTI_ASSIGN_OR_RETURN(token.single_word, Flag(t, "single_word", false, field));
    TUTTI_ASSIGN_OR_RETURN(token.lstrip, Flag(t, "lstrip", false, field));
    TUTTI_ASSIGN_OR_RETURN(token.rstrip, Flag(t, "rstrip", false, field));
    TUTTI_ASSIGN_OR_RETURN(token.special, Flag(t, "special", false, field));
    TUTTI_ASSIGN_OR_RETURN(token.normalized, Flag(t, "normalized", !token.special, field));
    spec->added_tokens.push_back(std::move(token));
  }
  return absl::OkStatus();
}

absl::Status ReadModel(const json& root, TokenizerJsonParts* parts, BytePairSpec* spec) {
  const json* model = Find(root, "model");
  if (model == nullptr || !model->is_object()) return Bad("model", "an object expected");
  std::string type = Text(*model, "type");
  if (type.empty() && !parts->merges.empty()) type = "BPE";  // files from before types were written
  if (type != "BPE" || parts->vocab_is_list)
    return Unsupported("model", type.empty() ? "(none)" : type);
  for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!Text(*model, affix).empty())
      return Unsupported(absl::StrCat("model.", affix), Text(*model, affix));
  }
  if (const json* dropout = Find(*model, "dropout"); dropout != nullptr && *dropout != 0.0) {
    return Unsupported("model with dropout,", "BPE");
  }
  TUTTI_ASSIGN_OR_RETURN(const bool byte_fallback, Flag(*model, "byte_fallback", false, "model"));
  if (byte_fallback) return Unsupported("model with byte_fallback,", "BPE");
  TUTTI_ASSIGN_OR_RETURN(spec->fuse_unk, Flag(*model, "fuse_unk", false, "model"));
  TUTTI_ASSIGN_OR_RETURN(spec->ignore_merges, Flag(*model, "ignore_merges", false, "model"));
  spec->unk_token = Text(*model, "unk_token");
  spec->vocab = std::move(parts->vocab);
  spec->merges = std::move(parts->merges);
  return absl::OkStatus();
}

// The id of what tokenizer_config.json names under `key`: a text, or an object with a content.
int32_t ConfiguredId(const json& config, const char* key, const BytePairSpec& spec) {
  const json* v = Find(config, key);
  if (v == nullptr) return -1;
  const std::string text = v->is_string() ? v->get<std::string>() : Text(*v, "content");
  for (const AddedToken& t : spec.added_tokens) {
    if (t.content == text) return t.id;
  }
  for (const auto& t : spec.vocab) {
    if (t.text == text) return t.id;
  }
  return -1;
}

}  // namespace

absl::StatusOr<BytePairSpec> ReadTokenizerJson(std::string_view text, const json* config) {
  TUTTI_ASSIGN_OR_RETURN(TokenizerJsonParts parts, ParseTokenizerJson(text));
  const json& root = parts.rest;
  BytePairSpec spec;
  TUTTI_RETURN_IF_ERROR(ReadModel(root, &parts, &spec));
  TUTTI_RETURN_IF_ERROR(ReadAddedTokens(root, &spec));
  if (const json* n = Find(root, "normalizer")) TUTTI_RETURN_IF_ERROR(ReadNormalizer(*n, &spec));
  PreTokenizerState state;
  if (const json* p = Find(root, "pre_tokenizer"))
    TUTTI_RETURN_IF_ERROR(ReadPreTokenizer(*p, &state, &spec));
  if (!state.byte_level) return Unsupported("pre_tokenizer without ByteLevel, model", "BPE");
  if (const json* p = Find(root, "post_processor"))
    TUTTI_RETURN_IF_ERROR(ReadPostProcessor(*p, &spec));
  TUTTI_RETURN_IF_ERROR(CheckDecoder(Find(root, "decoder")));
  if (config != nullptr) {
    spec.bos_id = ConfiguredId(*config, "bos_token", spec);
    spec.eos_id = ConfiguredId(*config, "eos_token", spec);
  }
  return spec;
}

absl::StatusOr<std::shared_ptr<const Tokenizer>> TokenizerFromJson(
    std::string_view tokenizer_json, std::string_view tokenizer_config_json) {
  json config;
  if (!tokenizer_config_json.empty()) {
    config =
        json::parse(tokenizer_config_json.begin(), tokenizer_config_json.end(), nullptr, false);
    if (config.is_discarded()) return absl::InvalidArgumentError("tokenizer_config.json: not JSON");
  }
  TUTTI_ASSIGN_OR_RETURN(BytePairSpec spec, ReadTokenizerJson(tokenizer_json, &config));
  return MakeBytePairTokenizer(std::move(spec));
}

}  // namespace tutti::tokenizer
