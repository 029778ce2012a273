// Canonical decomposition, reordering and composition (Unicode Standard Annex 15), carrying along
// where each character came from.
#include <algorithm>
#include <unordered_map>

#include "shared/tokenizer/unicode.h"
#include "shared/tokenizer/unicode_tables.inc"

namespace tutti::tokenizer {
namespace {

constexpr uint32_t kSBase = 0xAC00, kLBase = 0x1100, kVBase = 0x1161, kTBase = 0x11A7;
constexpr uint32_t kLCount = 19, kVCount = 21, kTCount = 28;

// Combining marks that Unicode has since version 10. The reference (Hugging Face tokenizers 0.23)
// normalises by version 9, so to it they are characters without a class: [first, last].
constexpr std::pair<uint32_t, uint32_t> kNewMarks[] = {
    {0x7FD, 0x7FD},     {0x898, 0x89F},     {0x8CA, 0x8D3},     {0x9FE, 0x9FE},
    {0xC3C, 0xC3C},     {0xD3B, 0xD3C},     {0xEBA, 0xEBA},     {0x1715, 0x1715},
    {0x1ABF, 0x1ACE},   {0x1DF6, 0x1DFA},   {0xA82C, 0xA82C},   {0x10D24, 0x10D27},
    {0x10EAB, 0x10EAC}, {0x10F46, 0x10F50}, {0x10F82, 0x10F85}, {0x11070, 0x11070},
    {0x1133B, 0x1133B}, {0x1145E, 0x1145E}, {0x11839, 0x1183A}, {0x1193D, 0x1193E},
    {0x11943, 0x11943}, {0x119E0, 0x119E0}, {0x11A34, 0x11A34}, {0x11A47, 0x11A47},
    {0x11A99, 0x11A99}, {0x11D42, 0x11D42}, {0x11D44, 0x11D45}, {0x11D97, 0x11D97},
    {0x16FF0, 0x16FF1}, {0x1E130, 0x1E136}, {0x1E2AE, 0x1E2AE}, {0x1E2EC, 0x1E2EF}};
constexpr uint32_t kNewComposite = 0x11938;  // the one with a decomposition

bool IsNewMark(uint32_t c) {
  const auto* it = std::upper_bound(std::begin(kNewMarks), std::end(kNewMarks),
                                    std::pair<uint32_t, uint32_t>{c, UINT32_MAX});
  return it != std::begin(kNewMarks) && (it - 1)->second >= c;
}

struct NormalTables {
  std::unordered_map<uint32_t, std::pair<uint32_t, uint32_t>> decompose;
  std::unordered_map<uint64_t, uint32_t> compose;
  std::vector<std::pair<uint32_t, uint8_t>> combining;  // (first code point of a run, class)

  NormalTables() {
    for (size_t i = 0; i < std::size(kDecompositions); i += 4) {
      const uint32_t* d = kDecompositions + i;
      if (d[0] == kNewComposite) continue;
      decompose[d[0]] = {d[1], d[2]};
      if (d[3]) compose[uint64_t{d[1]} << 32 | d[2]] = d[0];
    }
    uint32_t start = 0;
    for (size_t i = 0; i < std::size(kCombiningRuns); i += 2) {
      combining.emplace_back(start, static_cast<uint8_t>(kCombiningRuns[i + 1]));
      start += kCombiningRuns[i];
    }
  }

  int CombiningClass(uint32_t c) const {
    if (c < 0x300 || IsNewMark(c)) return 0;
    auto it =
        std::upper_bound(combining.begin(), combining.end(), std::pair<uint32_t, uint8_t>{c, 255});
    return (it - 1)->second;
  }

  // 0: the pair does not compose.
  uint32_t Compose(uint32_t a, uint32_t b) const {
    if (a >= kLBase && a < kLBase + kLCount && b >= kVBase && b < kVBase + kVCount)
      return kSBase + ((a - kLBase) * kVCount + (b - kVBase)) * kTCount;
    if (a >= kSBase && a < kSBase + kLCount * kVCount * kTCount && (a - kSBase) % kTCount == 0 &&
        b > kTBase && b < kTBase + kTCount)
      return a + (b - kTBase);
    const auto it = compose.find(uint64_t{a} << 32 | b);
    return it == compose.end() ? 0 : it->second;
  }
};

const NormalTables& Tables() {
  static const NormalTables& tables = *new NormalTables;
  return tables;
}

// A character on its way. `change` says what it does to the text it came from: 1 inserted after the
// one before, 0 replaces one character, -n replaces one and removes n after it.
struct Moving {
  uint32_t c;
  int change;
  int combining_class;
};

// At most 4 levels deep: Unicode's decompositions are.
void Decompose(const NormalTables& t, uint32_t c, int* change, std::vector<Moving>* out) {
  if (c >= kSBase && c < kSBase + kLCount * kVCount * kTCount) {
    const uint32_t s = c - kSBase;
    out->push_back({kLBase + s / (kVCount * kTCount), *change, 0});
    out->push_back({kVBase + s % (kVCount * kTCount) / kTCount, 1, 0});
    if (s % kTCount != 0) out->push_back({kTBase + s % kTCount, 1, 0});
    *change = 1;
    return;
  }
  const auto it = c < 0xC0 ? t.decompose.end() : t.decompose.find(c);
  if (it == t.decompose.end()) {
    out->push_back({c, *change, t.CombiningClass(c)});
    *change = 1;
    return;
  }
  Decompose(t, it->second.first, change, out);
  if (it->second.second != 0) Decompose(t, it->second.second, change, out);
}

void Reorder(std::vector<Moving>* s) {
  for (auto it = s->begin(); it != s->end();) {
    if (it->combining_class == 0) {
      ++it;
      continue;
    }
    auto run_end = it;
    while (run_end != s->end() && run_end->combining_class != 0) ++run_end;
    std::stable_sort(it, run_end, [](const Moving& a, const Moving& b) {
      return a.combining_class < b.combining_class;
    });
    it = run_end;
  }
}

void Compose(const NormalTables& t, std::vector<Moving>* s) {
  size_t out = 0;
  size_t starter = SIZE_MAX;
  int last_class = 0;  // of the character before, in the output after the starter
  for (size_t i = 0; i < s->size(); ++i) {
    const Moving m = (*s)[i];
    const bool adjacent = starter != SIZE_MAX && out == starter + 1;
    if (starter != SIZE_MAX && (adjacent || last_class < m.combining_class)) {
      if (const uint32_t c = t.Compose((*s)[starter].c, m.c)) {
        (*s)[starter].c = c;
        (*s)[starter].change += m.change - 1;
        continue;
      }
    }
    if (m.combining_class == 0) starter = out;
    last_class = m.combining_class;
    (*s)[out++] = m;
  }
  s->resize(out);
}

bool AlreadyNfc(std::string_view text) {
  const CharTable& table = Chars();
  const char* p = text.data();
  const char* const end = p + text.size();
  while (p < end) {
    if (static_cast<uint8_t>(*p) < 0x80) {
      ++p;
      continue;
    }
    const CodePoint c = DecodeUtf8(p, end);
    if (!(FlagsOf(table, c.value) & kNfcSafe)) return false;
    p += c.length;
  }
  return true;
}

bool AllAscii(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return static_cast<uint8_t>(c) < 0x80; });
}

}  // namespace

bool Normalize(NormalForm form, std::string_view text, std::string* out, Alignment* alignment) {
  if (form == NormalForm::kNfc ? AlreadyNfc(text) : AllAscii(text)) return false;
  const NormalTables& t = Tables();
  std::vector<Moving> s;
  std::vector<uint32_t> lengths;  // of the original characters
  s.reserve(text.size());
  for (const char *p = text.data(), *end = p + text.size(); p < end;) {
    const CodePoint c = DecodeUtf8(p, end);
    int change = 0;
    lengths.push_back(c.length);
    // A byte that is not UTF-8 travels as a code point of its own past the end, and comes out as it
    // was.
    if (c.value == kNoCodePoint) {
      s.push_back({kNoCodePoint + static_cast<uint8_t>(*p), 0, 0});
    } else {
      Decompose(t, c.value, &change, &s);
    }
    p += c.length;
  }
  Reorder(&s);
  if (form == NormalForm::kNfc) Compose(t, &s);

  out->clear();
  if (alignment != nullptr) alignment->clear();
  size_t original = 0;  // the next original character
  uint32_t offset = 0;  // its byte
  std::pair<uint32_t, uint32_t> before = {0, 0};
  for (const Moving& m : s) {
    const size_t at = out->size();
    if (m.c >= kNoCodePoint) {
      out->push_back(static_cast<char>(m.c - kNoCodePoint));
    } else {
      AppendUtf8(m.c, out);
    }
    auto where = before;
    if (m.change <= 0 && original < lengths.size()) {
      where = {offset, offset + lengths[original]};
      for (int n = m.change; n <= 0 && original < lengths.size(); ++n) {
        offset += lengths[original++];
        before = {offset - lengths[original - 1], offset};
      }
    }
    if (alignment != nullptr) alignment->insert(alignment->end(), out->size() - at, where);
  }
  return *out != text;
}

}  // namespace tutti::tokenizer
