// What a folder says about templates and special tokens, by where it says it.
#include "shared/tokenizer/text_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "shared/testing/model_writer.h"
#include "shared/tokenizer/unicode.h"

namespace tutti::tokenizer {
namespace {

using ::testing::HasSubstr;
using tutti::testing::TempDir;

constexpr char kTokenizer[] = R"({"added_tokens": [{"id": 2, "content": "<s>", "special": true}],
  "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
  "decoder": {"type": "ByteLevel"},
  "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}})";

std::string Rendered(const TempDir& dir, bool tools) {
  const auto model = LoadTextModel(dir.path());
  if (!model.ok()) return std::string(model.status().message());
  TemplateInput input;
  input.messages = {{{"role", "user"}, {"content", "hi"}}};
  if (tools) input.tools = {{{"type", "function"}}};
  const auto text = model->Render(input);
  return text.ok() ? *text : "error: " + std::string(text.status().message());
}

TEST(TextModelTest, ARequestWithToolsTakesTheTemplateForThem) {
  const TempDir dir;
  dir.Write("tokenizer.json", kTokenizer);
  const char* both = R"({"chat_template": [{"name": "default", "template": "D"},
                                           {"name": "tool_use", "template": "T{{ tools | length }}"}]})";
  dir.Write("tokenizer_config.json", both);
  EXPECT_EQ(Rendered(dir, false), "D");
  EXPECT_EQ(Rendered(dir, true), "T1");
  dir.Write("tokenizer_config.json", R"({"chat_template": "D"})");
  EXPECT_EQ(Rendered(dir, true), "D");
  dir.Write("tokenizer_config.json", R"({"chat_template": [
      {"name": "default", "template": "D"}, {"name": "tool_use", "template": "{% oops %}"}]})");
  EXPECT_EQ(Rendered(dir, false), "D");
  EXPECT_THAT(Rendered(dir, true), HasSubstr("tool_use"));
  // A template file goes before the list.
  dir.Write("tokenizer_config.json", both);
  dir.Write("chat_template.jinja", "F");
  EXPECT_EQ(Rendered(dir, true), "F");
}

TEST(TextModelTest, SpecialTokensAreVariablesWhereverTheyStand) {
  const TempDir dir;
  dir.Write("tokenizer.json", kTokenizer);
  dir.Write("chat_template.jinja",
            "{{ bos_token }}|{{ eos_token }}|{{ image_token }}|{{ cls_token }}");
  EXPECT_EQ(Rendered(dir, false), "|||");
  dir.Write("special_tokens_map.json",
            R"({"bos_token": {"content": "<s>", "lstrip": false}, "eos_token": "</m>",
                "cls_token": "<c>"})");
  EXPECT_EQ(Rendered(dir, false), "<s>|</m>||<c>");
  dir.Write("tokenizer_config.json",
            R"({"eos_token": "</t>", "extra_special_tokens": {"image_token": "<img>"}})");
  EXPECT_EQ(Rendered(dir, false), "<s>|</t>|<img>|<c>");
}

TEST(NormalizeTest, MarksThatAreNewToTheReferenceAreNotReordered) {
  const auto nfd = [](std::string_view text) {
    std::string out;
    return Normalize(NormalForm::kNfd, text, &out, nullptr) ? out : std::string(text);
  };
  EXPECT_EQ(nfd("a\u0315\u0323"), "a\u0323\u0315");          // classes 232 and 220
  EXPECT_EQ(nfd("a\u0315\u0DCA"), "a\u0DCA\u0315");          // class 9, of Unicode 3
  EXPECT_EQ(nfd("a\u0315\U00010F46"), "a\u0315\U00010F46");  // class 220, of Unicode 11
  EXPECT_EQ(nfd("a\u0315\u1ABF"), "a\u0315\u1ABF");          // class 220, of Unicode 13
  EXPECT_EQ(nfd("\U00011938"), "\U00011938");                // composed in Unicode 13
}

}  // namespace
}  // namespace tutti::tokenizer
