#include "shared/tokenizer/unicode.h"

#include <algorithm>
#include <map>

#include "shared/tokenizer/unicode_tables.inc"

namespace tutti::tokenizer {
namespace {

CharTable BuildTable() {
  CharTable table;
  std::map<std::vector<uint16_t>, uint8_t> seen;
  std::vector<uint16_t> block;
  size_t next_block = 0;
  for (size_t i = 0; i < std::size(kFlagRuns); i += 2) {
    for (uint32_t left = kFlagRuns[i]; left > 0;) {
      const uint32_t take = std::min<uint32_t>(left, 256 - block.size());
      block.insert(block.end(), take, static_cast<uint16_t>(kFlagRuns[i + 1]));
      left -= take;
      if (block.size() < 256) continue;
      const auto [it, fresh] = seen.try_emplace(block, static_cast<uint8_t>(seen.size()));
      if (fresh) table.blocks.insert(table.blocks.end(), block.begin(), block.end());
      table.block_of[next_block++] = it->second;
      block.clear();
    }
  }
  return table;
}

}  // namespace

const CharTable& Chars() {
  static const CharTable& table = *new CharTable(BuildTable());
  return table;
}

void AppendUtf8(uint32_t c, std::string* out) {
  const auto put = [&](uint32_t byte) { out->push_back(static_cast<char>(byte)); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | c >> 6);
    put(0x80 | (c & 63));
  } else if (c < 0x10000) {
    put(0xE0 | c >> 12);
    put(0x80 | (c >> 6 & 63));
    put(0x80 | (c & 63));
  } else {
    put(0xF0 | c >> 18);
    put(0x80 | (c >> 12 & 63));
    put(0x80 | (c >> 6 & 63));
    put(0x80 | (c & 63));
  }
}

namespace {

// The longest prefix of p[0, left) that could begin a character, for bytes that are no character:
// at least 1.
size_t BadPrefix(const uint8_t* p, size_t left) {
  const uint8_t c = p[0];
  size_t need = 0;
  if (c >= 0xC2 && c < 0xE0) need = 2;
  if (c >= 0xE0 && c < 0xF0) need = 3;
  if (c >= 0xF0 && c < 0xF5) need = 4;
  if (need == 0) return 1;
  size_t n = 1;
  for (; n < need && n < left; ++n) {
    uint8_t low = 0x80, high = 0xBF;
    if (n == 1 && c == 0xE0) low = 0xA0;
    if (n == 1 && c == 0xED) high = 0x9F;
    if (n == 1 && c == 0xF0) low = 0x90;
    if (n == 1 && c == 0xF4) high = 0x8F;
    if (p[n] < low || p[n] > high) break;
  }
  return n;
}

}  // namespace

void AppendLossyUtf8(std::string_view bytes, std::string* out) {
  const char* p = bytes.data();
  const char* const end = p + bytes.size();
  const char* good = p;
  while (p < end) {
    const CodePoint c = DecodeUtf8(p, end);
    if (c.value != kNoCodePoint) {
      p += c.length;
      continue;
    }
    out->append(good, p - good);
    out->append("\xEF\xBF\xBD");
    p += BadPrefix(reinterpret_cast<const uint8_t*>(p), end - p);
    good = p;
  }
  out->append(good, end - good);
}

bool EndsInWholeCharacter(std::string_view bytes) {
  const char* const end = bytes.data() + bytes.size();
  for (size_t back = 1; back <= 4 && back <= bytes.size(); ++back) {
    if ((static_cast<uint8_t>(end[-static_cast<ptrdiff_t>(back)]) & 0xC0) == 0x80) continue;
    const CodePoint c = DecodeUtf8(end - back, end);
    return c.value != kNoCodePoint && c.value != 0xFFFD && c.length == back;
  }
  return false;
}

}  // namespace tutti::tokenizer
