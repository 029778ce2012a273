#include "shared/weights/inspect.h"

#include <algorithm>
#include <filesystem>
#include <map>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "shared/base/strings.h"
#include "shared/weights/json_text.h"

namespace tutti::weights {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

std::string StringAt(const json& object, const std::string& key) {
  if (!object.is_object()) return "";
  const auto it = object.find(key);
  return it != object.end() && it->is_string() ? it->get<std::string>() : "";
}

// A count; of an array (one per layer) the largest. 0 when absent or of another type.
int64_t CountAt(const json& object, const std::string& key) {
  if (!object.is_object()) return 0;
  const auto it = object.find(key);
  if (it == object.end()) return 0;
  const auto count = [](const json& v) {
    return v.is_number_integer() ? std::clamp<int64_t>(v.get<int64_t>(), 0, INT64_C(1) << 40) : 0;
  };
  if (!it->is_array()) return count(*it);
  int64_t largest = 0;
  for (const json& v : *it) largest = std::max(largest, count(v));
  return largest;
}

int64_t FirstCount(const json& object, std::initializer_list<const char*> keys) {
  for (const char* key : keys) {
    if (const int64_t n = CountAt(object, key); n > 0) return n;
  }
  return 0;
}

struct Names {
  const char* name;
  const char* gguf;  // after "<architecture>."
  std::initializer_list<const char*> hugging_face;
};
const Names kDimensions[] = {
    {"layers", "block_count", {"num_hidden_layers", "n_layer"}},
    {"hidden_size", "embedding_length", {"hidden_size", "n_embd"}},
    {"heads", "attention.head_count", {"num_attention_heads", "n_head"}},
    {"kv_heads", "attention.head_count_kv", {"num_key_value_heads"}},
    {"head_dim", "attention.key_length", {"head_dim"}},
    {"ffn_size", "feed_forward_length", {"intermediate_size", "n_inner"}},
    {"experts", "expert_count", {"num_local_experts", "num_experts", "n_routed_experts"}},
    {"experts_per_token", "expert_used_count", {"num_experts_per_tok"}},
    {"vocabulary", "vocab_size", {"vocab_size"}},
    {"context_tokens", "context_length", {"max_position_embeddings", "n_positions", "n_ctx"}},
    {"sliding_window", "attention.sliding_window", {"sliding_window"}},
};

bool Contains(std::string_view s, std::initializer_list<std::string_view> parts) {
  return std::any_of(parts.begin(), parts.end(),
                     [&](std::string_view p) { return s.find(p) != s.npos; });
}

// The part of a model that a tensor belongs to, by its name in GGUF and in the hub's models.
const char* PartOf(std::string_view name) {
  if (Contains(name, {"norm", "ln_1", "ln_2", "ln_f", "layernorm"})) return "norms";
  if (name.starts_with("output.") || Contains(name, {"lm_head", "score."})) return "output";
  if (Contains(name, {"token_embd", "position_embd", "embed", "wte", "wpe"})) return "embeddings";
  if (Contains(name, {"_exps", "_shexp", "gate_inp", "experts", "shared_expert", "block_sparse_moe",
                      "mlp.gate."})) {
    return "experts";
  }
  if (Contains(name, {"attn"})) return "attention";
  if (Contains(name, {"ffn", "mlp"})) return "ffn";
  return "other";
}
constexpr const char* kParts[] = {"embeddings", "attention", "ffn",  "experts",
                                  "norms",      "output",    "other"};

// The chat template as tokenizer::LoadTextModel finds it.
std::string ChatTemplateSource(const ModelFiles& files, const fs::path& dir) {
  if (files.format() == Format::kGguf) return StringAt(files.config(), "tokenizer.chat_template");
  if (const auto file = MappedFile::Open((dir / "chat_template.jinja").string()); file.ok()) {
    return {reinterpret_cast<const char*>((*file)->bytes().data()), (*file)->bytes().size()};
  }
  const json& config = files.tokenizer_config();
  if (!config.is_object() || !config.contains("chat_template")) return "";
  if (config["chat_template"].is_array()) {
    for (const json& named : config["chat_template"]) {
      if (StringAt(named, "name") == "default") return StringAt(named, "template");
    }
  }
  return StringAt(config, "chat_template");
}

void InspectTokenizer(const ModelFiles& files, Inspection* out) {
  const fs::path dir = files.folder();
  out->chat_template = ChatTemplateSource(files, dir);
  if (files.format() == Format::kGguf) {
    out->tokenizer = StringAt(files.config(), "tokenizer.ggml.model");
    const std::string pre = StringAt(files.config(), "tokenizer.ggml.pre");
    if (!out->tokenizer.empty() && !pre.empty()) out->tokenizer += " (" + pre + ")";
    if (const MetadataArray* tokens = files.FindArray("tokenizer.ggml.tokens")) {
      out->tokenizer_size = static_cast<int64_t>(tokens->size());
    }
    return;
  }
  const auto tokenizer = ReadJsonFile((dir / "tokenizer.json").string());
  if (!tokenizer.ok() || !tokenizer->is_object()) return;
  const auto model = tokenizer->find("model");
  if (model == tokenizer->end() || !model->is_object()) return;
  out->tokenizer = StringAt(*model, "type");
  if (const auto vocab = model->find("vocab"); vocab != model->end()) {
    out->tokenizer_size = static_cast<int64_t>(vocab->size());
  }
}

}  // namespace

Inspection Inspect(const ModelFiles& files) {
  Inspection out;
  const bool gguf = files.format() == Format::kGguf;
  const json& config = files.config();
  out.path = files.path();
  out.format = gguf ? "GGUF" : "safetensors";
  if (files.packed() != nullptr) out.format = "packed from " + out.format;
  out.num_files = static_cast<int>(files.files().size());
  for (const auto& f : files.files()) out.file_bytes += f->bytes().size();
  out.architecture = StringAt(config, gguf ? "general.architecture" : "model_type");
  out.name = StringAt(config, gguf ? "general.name" : "_name_or_path");

  InspectTokenizer(files, &out);
  std::map<std::string, int64_t> dims;
  for (const Names& d : kDimensions) {
    int64_t n = gguf ? CountAt(config, out.architecture + "." + d.gguf)
                     : FirstCount(config, d.hugging_face);
    if (n == 0 && std::string_view(d.name) == "head_dim" && dims["heads"] > 0)
      n = dims["hidden_size"] / dims["heads"];
    if (n == 0 && std::string_view(d.name) == "kv_heads") n = dims["heads"];
    if (n == 0 && gguf && std::string_view(d.name) == "vocabulary") n = out.tokenizer_size;
    if (n == 0) continue;
    dims[d.name] = n;
    out.dimensions.emplace_back(d.name, n);
  }
  const auto at_most = [&](const char* name, int64_t limit) {
    return dims[name] > 0 && dims[name] <= limit;
  };
  if (at_most("layers", 1 << 20) && at_most("kv_heads", 1 << 20) && at_most("head_dim", 1 << 20)) {
    out.kv_bytes_per_token =
        static_cast<uint64_t>(2 * 2 * dims["layers"] * dims["kv_heads"] * dims["head_dim"]);
  }

  std::map<std::string, Inspection::Amount> types, parts;
  bool has_output = false;
  for (const TensorInfo& t : files.tensors()) {
    const auto elements = static_cast<uint64_t>(t.NumElements());
    out.num_parameters += elements;
    const char* part = PartOf(t.name);
    has_output |= std::string_view(part) == "output";
    for (Inspection::Amount* a : {&types[std::string(Traits(t.dtype).name)], &parts[part]}) {
      ++a->num_tensors;
      a->num_elements += elements;
      a->bytes += t.StoredBytes();
    }
  }
  out.tied_output = !has_output && !files.tensors().empty();
  for (auto& [name, amount] : types) {
    amount.name = name;
    out.types.push_back(amount);
  }
  std::sort(out.types.begin(), out.types.end(),
            [](const auto& a, const auto& b) { return a.bytes > b.bytes; });
  for (const char* part : kParts) {
    if (const auto it = parts.find(part); it != parts.end()) {
      it->second.name = part;
      out.parts.push_back(it->second);
    }
  }
  return out;
}

json ToJson(const Inspection& in) {
  const auto amounts = [](const std::vector<Inspection::Amount>& list) {
    json out = json::array();
    for (const auto& a : list) {
      out.push_back({{"name", a.name},
                     {"tensors", a.num_tensors},
                     {"elements", a.num_elements},
                     {"bytes", a.bytes}});
    }
    return out;
  };
  json dims = json::object();
  for (const auto& [name, n] : in.dimensions) dims[name] = n;
  return {{"path", in.path},
          {"format", in.format},
          {"name", in.name},
          {"architecture", in.architecture},
          {"files", in.num_files},
          {"file_bytes", in.file_bytes},
          {"parameters", in.num_parameters},
          {"dimensions", dims},
          {"types", amounts(in.types)},
          {"parts", amounts(in.parts)},
          {"tied_output", in.tied_output},
          {"tokenizer", {{"kind", in.tokenizer}, {"size", in.tokenizer_size}}},
          {"chat_template", in.chat_template.empty() ? json(nullptr) : json(in.chat_template)},
          {"kv_bytes_per_token", in.kv_bytes_per_token}};
}

std::string HumanBytes(uint64_t bytes) {
  constexpr const char* kUnits[] = {"B", "kB", "MB", "GB", "TB", "PB", "EB"};
  auto value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 999.95 && unit + 1 < std::size(kUnits)) {
    value /= 1000;
    ++unit;
  }
  return unit == 0 ? absl::StrCat(bytes, " B") : absl::StrFormat("%.1f %s", value, kUnits[unit]);
}

std::string ToText(const Inspection& in) {
  std::string out;
  const auto line = [&](std::string_view label, const std::string& value) {
    absl::StrAppendFormat(&out, "%-18s %s\n", ToAbsl(label), value);
  };
  line("file", Printable(in.path, 1000));
  line("format",
       absl::StrCat(in.format, ", ", in.num_files, in.num_files == 1 ? " file, " : " files, ",
                    HumanBytes(in.file_bytes)));
  if (!in.name.empty()) line("name", Printable(in.name, 200));
  line("architecture", in.architecture.empty() ? "not given" : Printable(in.architecture));
  line("parameters", absl::StrFormat("%.1f million", static_cast<double>(in.num_parameters) / 1e6));
  for (const auto& [name, n] : in.dimensions) {
    std::string label = name;
    std::replace(label.begin(), label.end(), '_', ' ');
    line(label, absl::StrCat(n));
  }
  if (in.kv_bytes_per_token > 0) line("KV per token", HumanBytes(in.kv_bytes_per_token) + " (F16)");
  const auto table = [&](const char* title, const std::vector<Inspection::Amount>& amounts) {
    absl::StrAppendFormat(&out, "\n%-12s %8s %14s %12s %6s\n", title, "tensors", "elements",
                          "bytes", "share");
    uint64_t all = 0;
    for (const auto& a : amounts) all += a.bytes;
    for (const auto& a : amounts) {
      absl::StrAppendFormat(&out, "%-12s %8d %14d %12s %5.1f%%\n", a.name, a.num_tensors,
                            a.num_elements, HumanBytes(a.bytes),
                            100.0 * static_cast<double>(a.bytes) / static_cast<double>(all));
    }
  };
  table("type", in.types);
  table("part", in.parts);
  if (in.tied_output) absl::StrAppend(&out, "(the output layer shares the embeddings)\n");
  absl::StrAppend(&out, "\n");
  line("tokenizer", in.tokenizer.empty() ? "none"
                                         : absl::StrCat(Printable(in.tokenizer), ", ",
                                                        in.tokenizer_size, " tokens"));
  if (in.chat_template.empty()) {
    line("chat template", "none");
  } else {
    line("chat template", absl::StrCat(in.chat_template.size(), " bytes:"));
    int lines = 0;
    for (const auto part : absl::StrSplit(in.chat_template, '\n')) {
      if (++lines > 6) {
        absl::StrAppend(&out, "  ...\n");
        break;
      }
      absl::StrAppend(&out, "  ", Printable(ToStd(part), 110), "\n");
    }
  }
  return out;
}

}  // namespace tutti::weights
