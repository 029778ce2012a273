#include "shared/tokenizer/regex/char_set.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <map>
#include <mutex>

#include "absl/strings/str_cat.h"
#include "shared/base/strings.h"
#include "shared/tokenizer/unicode.h"

namespace tutti::tokenizer::regex {
namespace {

using Range = CharSet::Range;

// Planes whose characters differ from each other; of the others a few stand for all.
bool IsMixedPlane(uint32_t plane) { return plane <= 3 || plane == 14; }

// The code points that a PCRE2 expression for one character matches; nullopt: it does not compile.
std::optional<CharSet> Evaluate(const std::string& expression) {
  // Runs of them are taken without a way back, so that long ones need no stack.
  const std::string run = expression + "++";
  int error;
  PCRE2_SIZE offset;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(run.data()), run.size(),
                                   PCRE2_UTF | PCRE2_UCP, &error, &offset, nullptr);
  if (code == nullptr) return std::nullopt;
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
  pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
  std::vector<Range> ranges;
  // Text of the code points from first to last, which are numbered by where they stand.
  const auto scan = [&](uint32_t first, uint32_t last) {
    std::string text;
    std::vector<uint32_t> at;  // [code point] where each begins
    for (uint32_t c = first; c <= last; ++c) {
      at.push_back(static_cast<uint32_t>(text.size()));
      AppendUtf8(c, &text);
    }
    const auto index = [&](size_t offset) {
      return static_cast<uint32_t>(std::lower_bound(at.begin(), at.end(), offset) - at.begin());
    };
    for (size_t from = 0; from < text.size();) {
      const int rc = pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                                 PCRE2_NO_UTF_CHECK, data, nullptr);
      if (rc < 0) break;
      const PCRE2_SIZE* v = pcre2_get_ovector_pointer(data);
      ranges.emplace_back(first + index(v[0]), first + index(v[1]) - 1);
      from = v[1];
    }
  };
  for (uint32_t plane = 0; plane <= 16; ++plane) {
    const uint32_t base = plane << 16;
    if (plane == 0) {
      scan(0, 0xD7FF);
      scan(0xE000, 0xFFFF);
    } else if (IsMixedPlane(plane)) {
      for (uint32_t part = 0; part < 0x10000; part += 0x4000)
        scan(base + part, base + part + 0x3FFF);
    } else {
      const size_t before = ranges.size();
      scan(base + 0x100, base + 0x100);
      if (ranges.size() > before) ranges.back() = {base, base + 0xFFFD};
      scan(base + 0xFFFE, base + 0xFFFF);
    }
  }
  pcre2_match_data_free(data);
  pcre2_code_free(code);
  return CharSet(std::move(ranges));
}

// The same, remembered: reading a property takes a few milliseconds.
std::optional<CharSet> Remembered(const std::string& expression) {
  static auto& mutex = *new std::mutex;
  static auto& known = *new std::map<std::string, std::optional<CharSet>>;
  {
    std::lock_guard lock(mutex);
    if (const auto it = known.find(expression); it != known.end()) return it->second;
  }
  std::optional<CharSet> set = Evaluate(expression);
  std::lock_guard lock(mutex);
  if (known.size() < 512) known.emplace(expression, set);
  return set;
}

// The characters with one of the flags of unicode.h.
CharSet OfFlags(uint16_t flags) {
  static auto& mutex = *new std::mutex;
  static auto& known = *new std::map<uint16_t, CharSet>;
  std::lock_guard lock(mutex);
  if (const auto it = known.find(flags); it != known.end()) return it->second;
  const CharTable& table = Chars();
  std::vector<Range> ranges;
  for (uint32_t c = 0; c <= CharSet::kLast; ++c) {
    if (!(FlagsOf(table, c) & flags)) continue;
    if (!ranges.empty() && ranges.back().second + 1 == c) {
      ++ranges.back().second;
    } else {
      ranges.emplace_back(c, c);
    }
  }
  return known.emplace(flags, CharSet(std::move(ranges))).first->second;
}

// As Unicode's loose matching: letters and digits alone, in lower case.
std::string Loose(std::string_view name) {
  std::string out;
  for (const char c : name) {
    if (c == ' ' || c == '-' || c == '_') continue;
    out.push_back(c >= 'A' && c <= 'Z' ? static_cast<char>(c | 0x20) : c);
  }
  return out;
}

// General categories: the long names, for their short forms.
constexpr std::pair<std::string_view, std::string_view> kCategories[] = {
    {"other", "C"},
    {"control", "Cc"},
    {"format", "Cf"},
    {"unassigned", "Cn"},
    {"privateuse", "Co"},
    {"surrogate", "Cs"},
    {"letter", "L"},
    {"casedletter", "L&"},
    {"lc", "L&"},
    {"lowercaseletter", "Ll"},
    {"modifierletter", "Lm"},
    {"otherletter", "Lo"},
    {"titlecaseletter", "Lt"},
    {"uppercaseletter", "Lu"},
    {"mark", "M"},
    {"combiningmark", "M"},
    {"spacingmark", "Mc"},
    {"enclosingmark", "Me"},
    {"nonspacingmark", "Mn"},
    {"number", "N"},
    {"decimalnumber", "Nd"},
    {"letternumber", "Nl"},
    {"othernumber", "No"},
    {"punctuation", "P"},
    {"connectorpunctuation", "Pc"},
    {"dashpunctuation", "Pd"},
    {"closepunctuation", "Pe"},
    {"finalpunctuation", "Pf"},
    {"initialpunctuation", "Pi"},
    {"otherpunctuation", "Po"},
    {"openpunctuation", "Ps"},
    {"symbol", "S"},
    {"currencysymbol", "Sc"},
    {"modifiersymbol", "Sk"},
    {"mathsymbol", "Sm"},
    {"othersymbol", "So"},
    {"separator", "Z"},
    {"lineseparator", "Zl"},
    {"paragraphseparator", "Zp"},
    {"spaceseparator", "Zs"},
};
constexpr std::string_view kShort[] = {"c",  "cc", "cf", "cn", "co", "cs", "l",  "ll", "lm", "lo",
                                       "lt", "lu", "m",  "mc", "me", "mn", "n",  "nd", "nl", "no",
                                       "p",  "pc", "pd", "pe", "pf", "pi", "po", "ps", "s",  "sc",
                                       "sk", "sm", "so", "z",  "zl", "zp", "zs"};

CharSet Category(std::string_view name) {
  if (name == "L") return OfFlags(kLetter);
  if (name == "N") return OfFlags(kNumber);
  if (name == "M") return OfFlags(kMark);
  if (name == "P") return OfFlags(kPunct);
  if (name == "S") return OfFlags(kSymbol);
  // Surrogates are no characters of a text.
  if (name == "Cs") return CharSet({{0xD800, 0xDFFF}});
  return Remembered(absl::StrCat("\\p{", ToAbsl(name), "}")).value_or(CharSet());
}

}  // namespace

CharSet::CharSet(std::vector<Range> ranges) {
  std::sort(ranges.begin(), ranges.end());
  for (const Range& r : ranges) {
    if (!ranges_.empty() && r.first <= ranges_.back().second + 1) {
      ranges_.back().second = std::max(ranges_.back().second, r.second);
    } else {
      ranges_.push_back(r);
    }
  }
}

bool CharSet::Contains(uint32_t c) const {
  const auto it = std::upper_bound(ranges_.begin(), ranges_.end(), Range{c, UINT32_MAX});
  return it != ranges_.begin() && (it - 1)->second >= c;
}

CharSet CharSet::Union(const CharSet& other) const {
  std::vector<Range> all = ranges_;
  all.insert(all.end(), other.ranges_.begin(), other.ranges_.end());
  return CharSet(std::move(all));
}

CharSet CharSet::Complement() const {
  std::vector<Range> out;
  uint32_t next = 0;
  for (const Range& r : ranges_) {
    if (r.first > next) out.emplace_back(next, r.first - 1);
    next = r.second + 1;
  }
  if (next <= kLast) out.emplace_back(next, kLast);
  return CharSet(std::move(out));
}

CharSet CharSet::Intersection(const CharSet& other) const {
  return Complement().Union(other.Complement()).Complement();
}

CharTableSet::CharTableSet(const CharSet& set) : block_of_(0x1100) {
  std::map<std::vector<uint64_t>, uint16_t> seen;
  std::vector<uint64_t> block(4);
  auto range = set.ranges().begin();
  for (uint32_t b = 0; b < 0x1100; ++b) {
    const uint32_t first = b << 8, last = first | 255;
    std::fill(block.begin(), block.end(), 0);
    while (range != set.ranges().end() && range->first <= last) {
      const uint32_t lo = std::max(range->first, first), hi = std::min(range->second, last);
      for (uint32_t c = lo; c <= hi; ++c) block[c >> 6 & 3] |= uint64_t{1} << (c & 63);
      if (range->second > last) break;
      ++range;
    }
    const auto [it, fresh] = seen.try_emplace(block, static_cast<uint16_t>(seen.size()));
    if (fresh) bits_.insert(bits_.end(), block.begin(), block.end());
    block_of_[b] = it->second;
  }
}

CharSet Spaces() { return OfFlags(kSpace); }
CharSet WordChars() {
  // Without the joiners, which the table has.
  return OfFlags(kWord).Intersection(CharSet({{0x200C, 0x200D}}).Complement());
}
CharSet LoneWordChars() {
  return WordChars().Union(CharSet({{0xB2, 0xB3}, {0xB9, 0xB9}, {0xBC, 0xBE}}));
}
CharSet DecimalDigits() { return Category("Nd"); }
CharSet HexDigits() { return CharSet({{'0', '9'}, {'A', 'F'}, {'a', 'f'}}); }

std::optional<CharSet> PosixClass(std::string_view name) {
  const auto binary = [](const char* property) {
    return Remembered(absl::StrCat("\\p{", property, "}")).value_or(CharSet());
  };
  if (name == "alnum") return binary("Alphabetic").Union(DecimalDigits());
  if (name == "alpha") return binary("Alphabetic");
  if (name == "ascii") return CharSet({{0, 127}});
  if (name == "blank") return Category("Zs").Union(CharSet::Of('\t'));
  if (name == "cntrl") return Category("Cc");
  if (name == "digit") return DecimalDigits();
  if (name == "lower") return binary("Lowercase");
  if (name == "upper") return binary("Uppercase");
  if (name == "space") return Spaces();
  if (name == "xdigit") return HexDigits();
  if (name == "word") return WordChars();
  if (name == "punct") return OfFlags(kPunct | kSymbol);
  if (name == "graph") {
    return Spaces().Union(Category("Cc")).Union(Category("Cn")).Union(Category("Cs")).Complement();
  }
  if (name == "print") return PosixClass("graph")->Union(Category("Zs"));
  return std::nullopt;
}

absl::StatusOr<CharSet> Property(std::string_view name) {
  const std::string loose = Loose(name);
  const std::string shown = Printable(name, 40);
  const bool plain =
      !loose.empty() && loose.size() <= 60 && std::all_of(loose.begin(), loose.end(), [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '&';
      });
  if (!plain) return absl::InvalidArgumentError("no property is called \\p{" + shown + "}");
  if (loose == "any") return CharSet({{0, CharSet::kLast}});
  if (loose == "assigned") return Category("Cn").Complement();
  if (loose == "punct") return OfFlags(kPunct);
  if (loose == "word") return LoneWordChars();
  if (const auto posix = PosixClass(loose)) return *posix;
  for (const std::string_view s : kShort) {
    if (loose != s) continue;
    std::string category(s);
    category[0] = static_cast<char>(category[0] & ~0x20);
    return Category(category);
  }
  for (const auto& [long_name, category] : kCategories) {
    if (loose == long_name) return Category(category);
  }
  if (const auto script = Remembered(absl::StrCat("\\p{sc:", loose, "}"))) return *script;
  if (loose.find('&') == std::string::npos) {
    if (const auto binary = Remembered(absl::StrCat("\\p{", loose, "}"))) return *binary;
  }
  if (loose.starts_with("in")) {
    return absl::InvalidArgumentError(
        "\\p{" + shown + "}: blocks are not read; categories, scripts and binary properties are");
  }
  return absl::InvalidArgumentError("no property is called \\p{" + shown + "}");
}

CharSet CaseClosure(const CharSet& set) {
  std::string text = "(?i)[";
  bool ascii = true;
  for (const auto& [first, last] : set.ranges()) {
    absl::StrAppend(&text, "\\x{", absl::Hex(first), "}-\\x{", absl::Hex(last), "}");
    ascii &= last < 128;
  }
  if (set.ranges().empty()) return set;
  if (ascii) {
    std::vector<Range> out = set.ranges();
    for (uint32_t c = 'a'; c <= 'z'; ++c) {
      if (!set.Contains(c) && !set.Contains(c - 32)) continue;
      out.emplace_back(c, c);
      out.emplace_back(c - 32, c - 32);
      if (c == 'k') out.emplace_back(0x212A, 0x212A);  // the Kelvin sign
      if (c == 's') out.emplace_back(0x17F, 0x17F);    // the long s
    }
    return CharSet(std::move(out));
  }
  return Remembered(text + "]").value_or(set);
}

}  // namespace tutti::tokenizer::regex
