// Any bytes as text, for one tokenizer of each split pattern: nothing is lost, both ways of
// encoding agree, offsets are in order, and a stream's pieces join to the whole.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "shared/base/check.h"
#include "shared/base/strings.h"
#include "shared/tokenizer/byte_alphabet.h"
#include "shared/tokenizer/byte_pair_tokenizer.h"

namespace {

using namespace tutti::tokenizer;

std::shared_ptr<const Tokenizer> Make(std::initializer_list<std::string_view> patterns, bool nfc) {
  BytePairSpec spec;
  const auto written = [](std::string_view bytes) {
    std::string out;
    for (const char c : bytes) AppendUtf8(Alphabet().char_of[static_cast<uint8_t>(c)], &out);
    return out;
  };
  for (int b = 0; b < 256; ++b) {
    const char c = static_cast<char>(b);
    spec.vocab.push_back({written({&c, 1}), b});
  }
  const std::pair<const char*, const char*> merges[] = {
      {" ", " "}, {"  ", "  "}, {"a", "a"},   {"aa", "aa"},     {"\n", "\n"},
      {" ", "t"}, {" t", "h"},  {" th", "e"}, {"\xE4", "\xB8"}, {"\xE4\xB8", "\xAD"}};
  for (const auto& [l, r] : merges) {
    spec.merges.emplace_back(written(l), written(r));
    spec.vocab.push_back({written(std::string(l) + r), static_cast<int32_t>(spec.vocab.size())});
  }
  const auto next = static_cast<int32_t>(spec.vocab.size());
  spec.added_tokens = {
      {.id = next, .content = "<|x|>", .special = true},
      {.id = next + 1, .content = "<|", .lstrip = true, .rstrip = true, .special = true},
      {.id = next + 2, .content = "word", .single_word = true, .normalized = true}};
  for (const auto p : patterns) spec.splits.push_back({.pattern = std::string(p)});
  if (nfc) spec.normalizers = {NormalForm::kNfc};
  auto t = MakeBytePairTokenizer(std::move(spec));
  TUTTI_CHECK(t.ok());
  return *t;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace patterns;
  static const std::vector<std::shared_ptr<const Tokenizer>> tokenizers = {
      Make({kGpt2}, false),
      Make({kDigit, kGpt2}, false),
      Make({kLlama3}, false),
      Make({kQwen2}, true),
      Make({kDigitsUpTo3, kCjk, kDeepSeekWords}, false),
      Make({R"(\w+|\s+$|[^\w\s]+)"}, false)};
  if (size == 0) return 0;
  const size_t which = data[0] % tokenizers.size();
  const Tokenizer& t = *tokenizers[which];
  const EncodeOptions options{.parse_special = (data[0] & 64) != 0};
  const std::string_view text(reinterpret_cast<const char*>(data + 1), size - 1);
  const auto ids = t.Encode(text, options);
  const Encoding e = t.EncodeWithOffsets(text, options);
  TUTTI_CHECK(ids == e.ids && ids.size() == e.offsets.size());
  uint32_t last = 0;
  for (const auto& [begin, end] : e.offsets) {
    TUTTI_CHECK(begin <= end && end <= text.size() && (which == 3 || begin >= last));
    last = begin;
  }
  const std::string decoded = t.decoder()->Decode(ids, false);
  TUTTI_CHECK(tutti::IsValidUtf8(decoded));
  // Special tokens may take spaces along, NFC changes text; else what went in comes out.
  if (!options.parse_special && which != 3 && tutti::IsValidUtf8(text))
    TUTTI_CHECK(decoded == text);
  StreamDecoder stream(t.decoder(), false);
  std::string joined;
  for (const int32_t id : ids) joined += stream.Push(id);
  joined += stream.Flush();
  TUTTI_CHECK(joined == decoded);
  return 0;
}
