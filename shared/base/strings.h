// The one bridge between std::string_view (our headers) and absl::string_view (a different type in
// the Abseil that Debian ships).
#pragma once

#include <string>
#include <string_view>

#include "absl/strings/string_view.h"

namespace tutti {

inline absl::string_view ToAbsl(std::string_view s) { return {s.data(), s.size()}; }
inline std::string_view ToStd(absl::string_view s) { return {s.data(), s.size()}; }

// True when `s` is well-formed UTF-8 (no overlongs, surrogates, or code points past U+10FFFF). When
// it is not and `bad_offset` is given, that receives the byte offset of the first bad sequence.
bool IsValidUtf8(std::string_view s, size_t* bad_offset = nullptr);

// `s` with control characters and bytes that are not UTF-8 shown as \xNN, cut to `max_bytes` with
// "..." so that hostile text can stand in an error message.
std::string Printable(std::string_view s, size_t max_bytes = 80);

// `s` as one word for names: each run of white space, control characters, quotes, commas and bytes
// that are not UTF-8 is one "-"; none stands at either end. "SmolLM2 135M" -> "SmolLM2-135M".
std::string OneWord(std::string_view s);

}  // namespace tutti
