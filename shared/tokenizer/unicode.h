// Unicode as tokenizers need it: reading UTF-8, classes of code points, canonical normalisation.
// The tables are Unicode 14.0.0, built in, so that they are the same on every machine.
// Thread safety: all callable from any thread. Determinism: exact.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tutti::tokenizer {

// What a code point is; a set of these per code point.
enum CharFlags : uint16_t {
  kLetter = 1,      // general category L
  kNumber = 2,      // N
  kSpace = 4,       // the White_Space property: \s
  kMark = 8,        // M
  kPunct = 16,      // P
  kSymbol = 32,     // S
  kWord = 64,       // \w: alphabetic, marks, decimal digits, connectors
  kAssigned = 128,  // assigned in Unicode 14, no surrogate
  kNfcSafe = 256,   // a starter that NFC leaves alone whatever stands around it
};

// [block][code point in block]; two stages of 256.
struct CharTable {
  uint8_t block_of[0x1101];
  std::vector<uint16_t> blocks;
};
const CharTable& Chars();

// Flags of a code point; 0 for anything past U+10FFFF (which stands for bytes that are not UTF-8).
inline uint16_t FlagsOf(const CharTable& table, uint32_t code_point) {
  if (code_point > 0x10FFFF) return 0;
  return table.blocks[(size_t{table.block_of[code_point >> 8]} << 8) | (code_point & 255)];
}

inline constexpr uint32_t kNoCodePoint = 0x110000;
struct CodePoint {
  uint32_t value;   // kNoCodePoint: `length` bytes (1) that are not UTF-8
  uint32_t length;  // bytes
};

// The code point at `p`, p < end.
inline CodePoint DecodeUtf8(const char* p, const char* end) {
  const auto b = [&](int i) { return static_cast<uint8_t>(p[i]); };
  const auto tail = [&](int i) { return (b(i) & 0xC0) == 0x80; };
  const uint32_t c = b(0);
  const ptrdiff_t left = end - p;
  if (c < 0x80) return {c, 1};
  if (c >= 0xC2 && c < 0xE0 && left >= 2 && tail(1)) return {(c & 31) << 6 | (b(1) & 63u), 2};
  if (c >= 0xE0 && c < 0xF0 && left >= 3 && tail(1) && tail(2)) {
    const uint32_t v = (c & 15) << 12 | (b(1) & 63u) << 6 | (b(2) & 63u);
    if (v >= 0x800 && (v < 0xD800 || v > 0xDFFF)) return {v, 3};
  }
  if (c >= 0xF0 && c < 0xF5 && left >= 4 && tail(1) && tail(2) && tail(3)) {
    const uint32_t v = (c & 7) << 18 | (b(1) & 63u) << 12 | (b(2) & 63u) << 6 | (b(3) & 63u);
    if (v >= 0x10000 && v <= 0x10FFFF) return {v, 4};
  }
  return {kNoCodePoint, 1};
}

// Appends a code point's UTF-8 (1 to 4 bytes).
void AppendUtf8(uint32_t code_point, std::string* out);

// Appends `bytes` with every maximal part that is not UTF-8 replaced by U+FFFD (Unicode 14,
// sec. 3.9, "substitution of maximal subparts").
void AppendLossyUtf8(std::string_view bytes, std::string* out);

// Whether the last bytes are a character, and not U+FFFD. Looks at 4 bytes at most.
bool EndsInWholeCharacter(std::string_view bytes);

// Where each byte of a changed text came from: [start, end) of one original character per byte.
using Alignment = std::vector<std::pair<uint32_t, uint32_t>>;

// Canonical normalisation of valid UTF-8 (Unicode Annex 15). False, and nothing written, when the
// text is already normal. With `alignment`: a composed character is aligned to the first character
// that it replaces, as Hugging Face tokenizers does. Linear in the text, but for runs of combining
// marks (n log n).
enum class NormalForm { kNfc, kNfd };
bool Normalize(NormalForm form, std::string_view text, std::string* out, Alignment* alignment);

}  // namespace tutti::tokenizer
