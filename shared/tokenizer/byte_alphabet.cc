#include "shared/tokenizer/byte_alphabet.h"

#include "shared/tokenizer/unicode.h"

namespace tutti::tokenizer {

ByteAlphabet::ByteAlphabet() {
  byte_of.fill(-1);
  uint16_t next = 256;
  for (int b = 0; b < 256; ++b) {
    const bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
    char_of[b] = printable ? static_cast<uint16_t>(b) : next++;
    byte_of[char_of[b]] = static_cast<int16_t>(b);
  }
}

bool ByteAlphabet::Read(std::string_view text, std::string* out) const {
  const size_t start = out->size();
  const char* p = text.data();
  const char* const end = p + text.size();
  while (p < end) {
    const CodePoint c = DecodeUtf8(p, end);
    if (c.value >= byte_of.size() || byte_of[c.value] < 0) {
      out->resize(start);
      return false;
    }
    out->push_back(static_cast<char>(byte_of[c.value]));
    p += c.length;
  }
  return true;
}

const ByteAlphabet& Alphabet() {
  static const ByteAlphabet& alphabet = *new ByteAlphabet;
  return alphabet;
}

}  // namespace tutti::tokenizer
