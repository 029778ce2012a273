// Any bytes as a tokenizer.json: an error or a tokenizer, which then encodes and decodes.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "shared/base/check.h"
#include "shared/tokenizer/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto t = tutti::tokenizer::TokenizerFromJson(text, R"({"eos_token":"</s>"})");
  if (!t.ok()) return 0;
  for (const std::string_view s :
       {std::string_view("Hello, wörld! 123\n\n  \xE4\xB8\xAD</s>"), text.substr(0, 200)}) {
    const tutti::tokenizer::EncodeOptions options{.parse_special = true, .add_special = true};
    const auto ids = (*t)->Encode(s, options);
    const auto with_offsets = (*t)->EncodeWithOffsets(s, options);
    TUTTI_CHECK(ids == with_offsets.ids);
    TUTTI_CHECK(ids.size() == with_offsets.offsets.size());
    for (const auto& [begin, end] : with_offsets.offsets)
      TUTTI_CHECK(begin <= end && end <= s.size());
    (*t)->decoder()->Decode(ids, true);
  }
  return 0;
}
