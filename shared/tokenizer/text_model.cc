#include "shared/tokenizer/text_model.h"

#include <filesystem>
#include <string_view>

#include "shared/base/mapped_file.h"
#include "shared/tokenizer/chat_messages.h"
#include "shared/tokenizer/special_text_marker.h"
#include "shared/weights/model_files.h"

namespace tutti::tokenizer {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr size_t kMaxConfigBytes = 64 << 20;

std::string_view Text(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

// null when there is no such file, or it is no JSON.
json ReadJson(const fs::path& path) {
  const auto file = MappedFile::Open(path.string());
  if (!file.ok() || (*file)->bytes().size() > kMaxConfigBytes) return nullptr;
  const std::string_view text = Text(**file);
  json out = json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  return out.is_discarded() ? json(nullptr) : out;
}

std::string StringAt(const json& object, const char* key) {
  if (!object.is_object()) return "";
  const auto it = object.find(key);
  if (it == object.end()) return "";
  if (it->is_string()) return it->get<std::string>();
  // A special token may stand there as {"content": "<s>", ...}.
  return it->is_object() ? StringAt(*it, "content") : "";
}

// A string, or a list of {name, template}: the one of that name. For "default" the first one, when
// none has the name.
std::string TemplateIn(const json& config, std::string_view name) {
  if (!config.is_object()) return "";
  const auto it = config.find("chat_template");
  const bool plain = name == "default";
  if (it == config.end() || !it->is_array())
    return plain ? StringAt(config, "chat_template") : std::string();
  std::string first;
  for (const json& entry : *it) {
    const std::string source = StringAt(entry, "template");
    if (StringAt(entry, "name") == name) return source;
    if (first.empty()) first = source;
  }
  return plain ? first : std::string();
}

void SetTemplate(const std::string& source, TextModel* out) {
  if (source.empty()) {
    out->template_status = absl::InvalidArgumentError("chat: the model has no chat template");
    return;
  }
  auto parsed = ChatTemplate::Parse(source);
  if (parsed.ok()) {
    out->chat_template = *std::move(parsed);
  } else {
    out->template_status =
        Annotate(absl::InvalidArgumentError(std::string(parsed.status().message())),
                 "chat: the model's template cannot be used");
  }
}

// The template for requests with tools, where the files have one of its own.
void SetToolTemplate(const std::string& source, TextModel* out) {
  if (source.empty()) return;
  auto parsed = ChatTemplate::Parse(source);
  if (parsed.ok()) {
    out->tool_template = *std::move(parsed);
  } else {
    out->tool_template_status =
        Annotate(absl::InvalidArgumentError(std::string(parsed.status().message())),
                 "chat: the model's template \"tool_use\" cannot be used");
  }
}

void SetVariable(const std::string& name, std::string_view value, TextModel* out) {
  if (!value.empty()) out->variables[name] = std::string(value);
}

absl::StatusOr<TextModel> FromGguf(const weights::ModelFiles& files) {
  TextModel out;
  TUTTI_ASSIGN_OR_RETURN(out.tokenizer, TokenizerFromModel(files));
  out.name = StringAt(files.config(), "general.name");
  if (out.name.empty()) out.name = files.Name();
  SetVariable("bos_token", out.tokenizer->TokenText(out.tokenizer->bos_id()), &out);
  SetVariable("eos_token", out.tokenizer->TokenText(out.tokenizer->eos_id()), &out);
  SetTemplate(StringAt(files.config(), "tokenizer.chat_template"), &out);
  SetToolTemplate(StringAt(files.config(), "tokenizer.chat_template.tool_use"), &out);
  return out;
}

absl::StatusOr<TextModel> FromFolder(const std::string& path, const fs::path& folder) {
  TextModel out;
  TUTTI_ASSIGN_OR_RETURN(out.tokenizer, LoadTokenizer(path));
  out.name = fs::absolute(folder).lexically_normal().filename().string();
  const json config = ReadJson(folder / "tokenizer_config.json");
  // tokenizer_config.json goes before special_tokens_map.json, as in transformers.
  const json map = ReadJson(folder / "special_tokens_map.json");
  for (const char* name : {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token",
                           "cls_token", "mask_token"}) {
    const std::string text = StringAt(config, name);
    SetVariable(name, text.empty() ? StringAt(map, name) : text, &out);
  }
  // Names that a model gives to more of them ("image_token"), beside the list or in it.
  for (const json* source : {&map, &config}) {
    if (!source->is_object()) continue;
    for (const char* list : {"extra_special_tokens", "model_specific_special_tokens"}) {
      const auto it = source->find(list);
      if (it == source->end() || !it->is_object()) continue;
      for (const auto& [name, token] : it->items())
        SetVariable(name, StringAt(*it, name.c_str()), &out);
    }
  }
  const auto file = MappedFile::Open((folder / "chat_template.jinja").string());
  const bool usable = file.ok() && (*file)->bytes().size() <= kMaxConfigBytes;
  SetTemplate(usable ? std::string(Text(**file)) : TemplateIn(config, "default"), &out);
  const fs::path more = folder / "additional_chat_templates" / "tool_use.jinja";
  const auto tools = MappedFile::Open(more.string());
  if (tools.ok() && (*tools)->bytes().size() <= kMaxConfigBytes) {
    SetToolTemplate(std::string(Text(**tools)), &out);
  } else if (!usable) {
    SetToolTemplate(TemplateIn(config, "tool_use"), &out);
  }
  return out;
}

}  // namespace

TemplateInput TextModel::WithVariables(TemplateInput input) const {
  for (const auto& [name, value] : variables.items()) {
    if (!input.variables.contains(name)) input.variables[name] = value;
  }
  return input;
}

absl::StatusOr<std::string> TextModel::Render(TemplateInput input) const {
  const bool tools = input.tools.is_array() && !input.tools.empty();
  if (tools && !tool_template_status.ok()) return tool_template_status;
  const auto& chosen = tools && tool_template.has_value() ? tool_template : chat_template;
  if (!chosen.has_value()) return template_status;
  return chosen->Render(WithVariables(std::move(input)));
}

absl::StatusOr<TextModel::Rendered> TextModel::RenderChat(TemplateInput input,
                                                          bool parse_special) const {
  if (!chat_template.has_value()) return template_status;
  TUTTI_RETURN_IF_ERROR(NormalizeMessages(&input.messages));
  if (input.continue_final_message) input.add_generation_prompt = false;
  Rendered out;
  SpecialTextMarker marker(*tokenizer);
  if (!parse_special) {
    TUTTI_RETURN_IF_ERROR(marker.Mark({&input.messages, &input.tools, &input.variables}));
  }
  TUTTI_ASSIGN_OR_RETURN(out.text, Render(input));
  if (!input.tools.is_null()) {
    TemplateInput without = input;
    without.tools = nullptr;
    const auto text = chat_template->Render(WithVariables(std::move(without)));
    if (text.ok() && *text == out.text) {
      return WithReason(
          absl::InvalidArgumentError(
              "tools: the model's chat template has no place for tools; describe them "
              "in the system message, or leave them out"),
          "TOOLS_UNSUPPORTED");
    }
  }
  if (input.continue_final_message)
    TUTTI_RETURN_IF_ERROR(CutAfterLastMessage(input.messages, &out.text));
  marker.Unmark(&out.text, &out.breaks);
  return out;
}

absl::StatusOr<TextModel> LoadTextModel(const std::string& path) {
  std::error_code error;
  const bool packed = weights::PackedFiles::Is(path);
  if (!packed && fs::is_directory(path, error)) return FromFolder(path, path);
  if (fs::path(path).filename() == "tokenizer.json") {
    return FromFolder(path, fs::path(path).parent_path());
  }
  TUTTI_ASSIGN_OR_RETURN(const auto files, weights::ModelFiles::Open(path));
  if (!packed || files->format() == weights::Format::kGguf) return FromGguf(*files);
  TUTTI_ASSIGN_OR_RETURN(TextModel out, FromFolder(files->folder(), files->folder()));
  out.name = files->Name();
  return out;
}

}  // namespace tutti::tokenizer
