// The 256 characters in which byte-level vocabularies write bytes (GPT-2): a printable Latin-1 byte
// is itself, the others are U+0100 and up, so that a space reads "Ġ". Determinism: exact.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace tutti::tokenizer {

struct ByteAlphabet {
  std::array<uint16_t, 256> char_of;  // code point of a byte
  std::array<int16_t, 512> byte_of;   // byte of a code point, -1: none

  ByteAlphabet();

  // Bytes that a byte takes up in the vocabulary's writing: 1 or 2.
  int WrittenLength(uint8_t byte) const { return char_of[byte] < 0x80 ? 1 : 2; }
  // Appends the bytes that `text` writes. False, and nothing appended, when a character is no
  // byte's.
  bool Read(std::string_view text, std::string* out) const;
};
const ByteAlphabet& Alphabet();

}  // namespace tutti::tokenizer
