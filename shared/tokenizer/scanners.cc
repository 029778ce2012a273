// Hand-written scanners for the split patterns that most byte-level models use. Each does exactly
// what its regular expression does: the test runs both on random text.
#include <algorithm>

#include "shared/tokenizer/splitter.h"
#include "shared/tokenizer/unicode.h"

namespace tutti::tokenizer {
namespace {

// A text with the classes of its characters. Positions are byte offsets; `end` is the text's end.
struct Cursor {
  const char* text;
  uint32_t end;
  const CharTable& table = Chars();

  struct Char {
    uint32_t value;
    uint16_t flags;  // 0 at the end
    uint32_t next;   // where the next one begins
  };
  Char At(uint32_t at) const {
    if (at >= end) return {kNoCodePoint, 0, end};
    const auto b = static_cast<uint8_t>(text[at]);
    if (b < 0x80) return {b, table.blocks[b], at + 1};
    const CodePoint c = DecodeUtf8(text + at, text + end);
    return {c.value, FlagsOf(table, c.value), at + c.length};
  }
  // The end of the run of characters from `at` whose flags, masked, are non-zero / zero.
  uint32_t RunOf(uint32_t at, uint16_t mask) const {
    while (at < end) {
      const Char c = At(at);
      if (!(c.flags & mask)) break;
      at = c.next;
    }
    return at;
  }
  uint32_t RunWithout(uint32_t at, uint16_t mask) const {
    while (at < end) {
      const Char c = At(at);
      if (c.flags & mask) break;
      at = c.next;
    }
    return at;
  }
  uint32_t Newlines(uint32_t at) const {
    while (at < end && (text[at] == '\r' || text[at] == '\n')) ++at;
    return at;
  }
  char Byte(uint32_t at) const { return at < end ? text[at] : '\0'; }
};

inline bool IsNewline(uint32_t c) { return c == '\r' || c == '\n'; }

// The end of 's 't 're 've 'm 'll 'd at `at`, which holds an apostrophe; 0: none of them.
uint32_t Contraction(const Cursor& s, uint32_t at) {
  const char a = s.Byte(at + 1);
  if (a == 's' || a == 't' || a == 'm' || a == 'd') return at + 2;
  const char b = s.Byte(at + 2);
  if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return at + 3;
  return 0;
}

// The same in any case; U+017F, the long s, is an s then.
uint32_t ContractionAnyCase(const Cursor& s, uint32_t at) {
  const auto lower = [](char c) { return static_cast<char>(c | 0x20); };
  const char a = lower(s.Byte(at + 1));
  if (a == 's' || a == 't' || a == 'm' || a == 'd') return at + 2;
  const char b = lower(s.Byte(at + 2));
  if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return at + 3;
  if (s.Byte(at + 1) == '\xC5' && s.Byte(at + 2) == '\xBF') return at + 3;
  return 0;
}

// \s+(?!\S)|\s+ : all of the run of spaces at `at` when the text ends with it, else all but its
// last character, else that one.
uint32_t Spaces(const Cursor& s, uint32_t at) {
  uint32_t last = at, p = at;
  while (p < s.end) {
    const auto c = s.At(p);
    if (!(c.flags & kSpace)) break;
    last = p;
    p = c.next;
  }
  return p == s.end || last == at ? p : last;
}

// \s*[\r\n]+|\s+(?!\S)|\s+ : as far as the last line break of the run of spaces, else as above.
uint32_t SpacesByLine(const Cursor& s, uint32_t at) {
  uint32_t last = at, p = at, after_newline = 0;
  while (p < s.end) {
    const auto c = s.At(p);
    if (!(c.flags & kSpace)) break;
    last = p;
    p = c.next;
    if (IsNewline(c.value)) after_newline = p;
  }
  if (after_newline != 0) return after_newline;
  return p == s.end || last == at ? p : last;
}

// Next(cursor, at) returns the end of the match that begins at `at` (at < end), or `at`: none does.

struct Gpt2 {
  static uint32_t Next(const Cursor& s, uint32_t at) {
    const auto c = s.At(at);
    if (c.value == '\'') {
      if (const uint32_t e = Contraction(s, at)) return e;
    }
    uint32_t from = at;
    uint16_t flags = c.flags;
    if (c.value == ' ') {
      const auto n = s.At(at + 1);
      if (at + 1 >= s.end || (n.flags & kSpace)) return Spaces(s, at);
      from = at + 1;
      flags = n.flags;
    }
    if (flags & kLetter) return s.RunOf(from, kLetter);
    if (flags & kNumber) return s.RunOf(from, kNumber);
    if (flags & kSpace) return Spaces(s, from);
    return s.RunWithout(from, kSpace | kLetter | kNumber);
  }
};

template <int kMaxDigits>
struct Llama3 {
  static uint32_t Next(const Cursor& s, uint32_t at) {
    const auto c = s.At(at);
    if (c.value == '\'') {
      if (const uint32_t e = ContractionAnyCase(s, at)) return e;
    }
    if (c.flags & kLetter) return s.RunOf(c.next, kLetter);
    if (c.flags & kNumber) {
      uint32_t p = c.next;
      for (int n = 1; n < kMaxDigits; ++n) {
        const auto d = s.At(p);
        if (!(d.flags & kNumber)) break;
        p = d.next;
      }
      return p;
    }
    if (!IsNewline(c.value)) {
      const auto n = s.At(c.next);
      if (n.flags & kLetter) return s.RunOf(n.next, kLetter);
      const bool others_follow = c.next < s.end && !(n.flags & (kSpace | kLetter | kNumber));
      if (!(c.flags & kSpace) || (c.value == ' ' && others_follow)) {
        return s.Newlines(s.RunWithout(c.next, kSpace | kLetter | kNumber));
      }
    }
    return SpacesByLine(s, at);
  }
};

struct DeepSeekWords {
  static uint32_t Next(const Cursor& s, uint32_t at) {
    const auto c = s.At(at);
    const auto n = s.At(c.next);
    const auto ascii_letter = [](uint32_t v) { return (v | 0x20) >= 'a' && (v | 0x20) <= 'z'; };
    if (c.value < 0x80 && (c.flags & (kPunct | kSymbol)) && n.value < 0x80 &&
        ascii_letter(n.value)) {
      uint32_t p = n.next;
      while (p < s.end && ascii_letter(static_cast<uint8_t>(s.text[p]))) ++p;
      return p;
    }
    if (c.flags & (kLetter | kMark)) return s.RunOf(c.next, kLetter | kMark);
    if (!(c.flags & (kPunct | kSymbol)) && !IsNewline(c.value) && (n.flags & (kLetter | kMark))) {
      return s.RunOf(n.next, kLetter | kMark);
    }
    if ((c.flags & (kPunct | kSymbol)) || (c.value == ' ' && (n.flags & (kPunct | kSymbol)))) {
      return s.Newlines(s.RunOf(c.next, kPunct | kSymbol));
    }
    if (c.flags & kSpace) return SpacesByLine(s, at);
    return at;
  }
};

template <int kMin, int kMax>  // kMax 0: any number
struct Digits {
  static uint32_t Next(const Cursor& s, uint32_t at) {
    uint32_t p = at;
    for (int n = 0; kMax == 0 || n < kMax; ++n) {
      const auto c = s.At(p);
      if (!(c.flags & kNumber)) break;
      p = c.next;
    }
    return p;
  }
};

inline bool IsCjk(uint32_t v) {
  return (v >= 0x4E00 && v <= 0x9FA5) || (v >= 0x3040 && v <= 0x30FF);
}

struct Cjk {
  static uint32_t Next(const Cursor& s, uint32_t at) {
    for (uint32_t p = at;;) {
      const auto c = s.At(p);
      if (p >= s.end || !IsCjk(c.value)) return p;
      p = c.next;
    }
  }
};

// Runs a scanner over [at, end); what no match covers becomes pieces of its own.
template <class Scanner>
void Scan(const Cursor& s, uint32_t at, std::vector<Piece>* out) {
  uint32_t gap = at;
  while (at < s.end) {
    const uint32_t e = Scanner::Next(s, at);
    if (e == at) {
      at = s.At(at).next;
      continue;
    }
    if (gap < at) out->push_back({gap, at});
    out->push_back({at, e});
    gap = at = e;
  }
  if (gap < at) out->push_back({gap, at});
}

template <class Scanner>
class OneScanner final : public Splitter {
 public:
  void Split(std::string_view text, Piece piece, std::vector<Piece>* out) const override {
    Scan<Scanner>({text.data(), piece.end}, piece.begin, out);
  }
};

// The pieces that First matches, and between them what Rest makes of the text.
template <class First, class Rest>
class TwoScanners final : public Splitter {
 public:
  void Split(std::string_view text, Piece piece, std::vector<Piece>* out) const override {
    const Cursor whole = {text.data(), piece.end};
    uint32_t gap = piece.begin;
    for (uint32_t at = piece.begin; at < piece.end;) {
      const uint32_t e = First::Next(whole, at);
      if (e == at) {
        at = whole.At(at).next;
        continue;
      }
      if (gap < at) Scan<Rest>({text.data(), at}, gap, out);
      out->push_back({at, e});
      gap = at = e;
    }
    if (gap < piece.end) Scan<Rest>({text.data(), piece.end}, gap, out);
  }
};

// DeepSeek's first two stages in one: numbers, or a run of Chinese or Japanese characters.
struct DigitsOrCjk {
  static uint32_t Next(const Cursor& s, uint32_t at) {
    const auto c = s.At(at);
    if (c.flags & kNumber) return Digits<1, 3>::Next(s, at);
    return IsCjk(c.value) ? Cjk::Next(s, at) : at;
  }
};

struct KnownRow {
  std::vector<std::string_view> patterns;
  std::unique_ptr<Splitter> (*make)();
};

template <class S>
std::unique_ptr<Splitter> Make() {
  return std::make_unique<S>();
}

const std::vector<KnownRow>& KnownRows() {  // the longer ones first
  using namespace patterns;
  static const auto& rows = *new std::vector<KnownRow>{
      {{kDigitsUpTo3, kCjk, kDeepSeekWords}, Make<TwoScanners<DigitsOrCjk, DeepSeekWords>>},
      {{kDigit, kGpt2}, Make<TwoScanners<Digits<1, 1>, Gpt2>>},
      {{kDigits, kGpt2}, Make<TwoScanners<Digits<1, 0>, Gpt2>>},
      {{kGpt2}, Make<OneScanner<Gpt2>>},
      {{kLlama3}, Make<OneScanner<Llama3<3>>>},
      {{kQwen2}, Make<OneScanner<Llama3<1>>>},
      {{kDigit}, Make<OneScanner<Digits<1, 1>>>},
      {{kDigits}, Make<OneScanner<Digits<1, 0>>>},
      {{kDigitsUpTo3}, Make<OneScanner<Digits<1, 3>>>},
      {{kCjk}, Make<OneScanner<Cjk>>},
      {{kDeepSeekWords}, Make<OneScanner<DeepSeekWords>>},
  };
  return rows;
}

}  // namespace

std::unique_ptr<Splitter> MakeScanner(const SplitSpec* specs, size_t num_specs, size_t* used) {
  for (const KnownRow& row : KnownRows()) {
    if (row.patterns.size() > num_specs) continue;
    bool same = true;
    for (size_t i = 0; i < row.patterns.size(); ++i) {
      same &= !specs[i].literal && !specs[i].invert &&
              specs[i].behavior == SplitBehavior::kIsolated && specs[i].pattern == row.patterns[i];
    }
    if (!same) continue;
    *used = row.patterns.size();
    return row.make();
  }
  return nullptr;
}

}  // namespace tutti::tokenizer
