// Any bytes as a template: a result or an error, within the limits; never a crash, a leak or a
// hang.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "shared/tokenizer/chat_template.h"
#include "shared/tokenizer/jinja/runtime.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view source(reinterpret_cast<const char*>(data), size);
  const auto parsed = tutti::tokenizer::ChatTemplate::Parse(source);
  if (!parsed.ok()) return 0;
  static const auto* input = [] {
    auto* in = new tutti::tokenizer::TemplateInput;
    in->messages = nlohmann::ordered_json::parse(
        R"([{"role":"system","content":"S"},{"role":"user","content":"Grüße \n x","n":[1,2.5,null,true]}])");
    in->tools = nlohmann::ordered_json::parse(R"([{"type":"function","function":{"name":"f"}}])");
    in->variables = nlohmann::ordered_json::parse(R"({"bos_token":"<s>","eos_token":"</s>"})");
    return in;
  }();
  // Small, so that a sanitizer build is quick; what passes them takes the same ways out.
  (void)parsed->Render(*input,
                       {.steps = 300'000, .memory_bytes = 16 << 20, .output_bytes = 4 << 20});
  return 0;
}
