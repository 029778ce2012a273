// Splitting by any regular expression, in PCRE2.
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "shared/tokenizer/splitter.h"

namespace tutti::tokenizer {
namespace {

constexpr size_t kMaxPatternBytes = 16384;
constexpr uint32_t kMatchLimit = 2'000'000;  // backtracking steps of one match

// \s, \S, \w and \d as Oniguruma takes them. (PCRE2's \s has U+180E too, its \w lacks marks.) A \W
// inside of a class stays PCRE2's.
std::string Translate(std::string_view pattern) {
  std::string out;
  bool in_class = false;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '\\' && i + 1 < pattern.size()) {
      const char e = pattern[++i];
      if (e == 's' || e == 'S') {
        out += e == 's' ? "\\p{White_Space}" : "\\P{White_Space}";
      } else if (e == 'd' || e == 'D') {
        out += e == 'd' ? "\\p{Nd}" : "\\P{Nd}";
      } else if (e == 'w' && in_class) {
        out += "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}";
      } else if ((e == 'w' || e == 'W') && !in_class) {
        out += e == 'w' ? "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}]"
                        : "[^\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}]";
      } else {
        out += c;
        out += e;
      }
      continue;
    }
    if (c == '[' && !in_class) {
      in_class = true;
      out += c;
      if (i + 1 < pattern.size() && pattern[i + 1] == '^') out += pattern[++i];
      if (i + 1 < pattern.size() && pattern[i + 1] == ']') out += pattern[++i];
      continue;
    }
    if (c == ']') in_class = false;
    out += c;
  }
  return out;
}

struct MatchMemory {
  pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  MatchMemory() {
    pcre2_set_match_limit(context, kMatchLimit);
    pcre2_set_depth_limit(context, kMatchLimit);
    pcre2_set_heap_limit(context, 65536);  // KiB
  }
  ~MatchMemory() {
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
  }
};

struct Segment {
  Piece piece;
  bool match;
};

class RegexSplitter final : public Splitter {
 public:
  RegexSplitter(pcre2_code* code, SplitBehavior behavior, bool invert)
      : code_(code), behavior_(behavior), invert_(invert) {}
  ~RegexSplitter() override { pcre2_code_free(code_); }

  void Split(std::string_view text, Piece piece, std::vector<Piece>* out) const override {
    std::vector<Segment> segments;
    Find(text, piece, &segments);
    Apply(segments, out);
  }

 private:
  void Find(std::string_view text, Piece piece, std::vector<Segment>* out) const {
    thread_local MatchMemory memory;
    const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data() + piece.begin);
    const size_t size = piece.end - piece.begin;
    size_t at = 0, before = 0;
    const auto push = [&](size_t b, size_t e, bool match) {
      if (b < e) {
        out->push_back(
            {{piece.begin + static_cast<uint32_t>(b), piece.begin + static_cast<uint32_t>(e)},
             match != invert_});
      }
    };
    while (at <= size) {
      int rc = pcre2_match(code_, subject, size, at, 0, memory.data, memory.context);
      if (rc == PCRE2_ERROR_JIT_STACKLIMIT) {
        rc = pcre2_match(code_, subject, size, at, PCRE2_NO_JIT, memory.data, memory.context);
      }
      if (rc < 0) break;  // no more matches, or a limit: the rest stays whole
      const PCRE2_SIZE* v = pcre2_get_ovector_pointer(memory.data);
      size_t b = v[0], e = v[1];
      if (b < before || e < b || e > size) break;  // \K games
      push(before, b, false);
      push(b, e, true);
      before = e;
      at = e;
      if (b == e) {  // an empty match cuts here; go on after the next character
        if (++at > size) break;
        while (at < size && (static_cast<uint8_t>(subject[at]) & 0xC0) == 0x80) ++at;
      }
    }
    push(before, size, false);
  }

  void Apply(const std::vector<Segment>& segments, std::vector<Piece>* out) const {
    const size_t start = out->size();
    bool previous = false;
    switch (behavior_) {
      case SplitBehavior::kIsolated:
        for (const Segment& s : segments) out->push_back(s.piece);
        return;
      case SplitBehavior::kRemoved:
        for (const Segment& s : segments) {
          if (!s.match) out->push_back(s.piece);
        }
        return;
      case SplitBehavior::kContiguous:
      case SplitBehavior::kMergedWithPrevious:
        for (const Segment& s : segments) {
          const bool join =
              behavior_ == SplitBehavior::kContiguous ? s.match == previous : s.match && !previous;
          if (join && out->size() > start) {
            out->back().end = s.piece.end;
          } else {
            out->push_back(s.piece);
          }
          previous = s.match;
        }
        return;
      case SplitBehavior::kMergedWithNext:
        for (size_t i = segments.size(); i-- > 0;) {
          const Segment& s = segments[i];
          if (s.match && !previous && out->size() > start) {
            out->back().begin = s.piece.begin;
          } else {
            out->push_back(s.piece);
          }
          previous = s.match;
        }
        std::reverse(out->begin() + start, out->end());
        return;
    }
  }

  pcre2_code* code_;
  SplitBehavior behavior_;
  bool invert_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Splitter>> MakeRegexSplitter(const SplitSpec& spec) {
  if (spec.pattern.empty() || spec.pattern.size() > kMaxPatternBytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "pattern of ", spec.pattern.size(), " bytes; 1 to ", kMaxPatternBytes, " are supported"));
  }
  const std::string pattern = spec.literal ? spec.pattern : Translate(spec.pattern);
  const uint32_t options = spec.literal ? PCRE2_LITERAL | PCRE2_UTF | PCRE2_MATCH_INVALID_UTF
                                        : PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE |
                                              PCRE2_NEVER_BACKSLASH_C | PCRE2_MATCH_INVALID_UTF;
  pcre2_compile_context* context = pcre2_compile_context_create(nullptr);
  pcre2_set_parens_nest_limit(context, 100);
  int error;
  PCRE2_SIZE offset;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                   options, &error, &offset, context);
  pcre2_compile_context_free(context);
  if (code == nullptr) {
    PCRE2_UCHAR message[256] = {};
    pcre2_get_error_message(error, message, sizeof(message));
    return absl::InvalidArgumentError(
        absl::StrCat("offset ", offset,
                     " of the (translated) pattern: ", reinterpret_cast<const char*>(message)));
  }
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // where there is no JIT, the interpreter runs
  return std::make_unique<RegexSplitter>(code, spec.behavior, spec.invert);
}

absl::StatusOr<std::vector<std::unique_ptr<Splitter>>> MakeSplitters(
    const std::vector<SplitSpec>& specs) {
  std::vector<std::unique_ptr<Splitter>> out;
  for (size_t i = 0; i < specs.size();) {
    size_t used = 1;
    if (auto scanner = MakeScanner(specs.data() + i, specs.size() - i, &used)) {
      out.push_back(std::move(scanner));
    } else {
      auto regex = MakeRegexSplitter(specs[i]);
      if (!regex.ok()) {
        return absl::InvalidArgumentError(
            absl::StrCat("pre_tokenizer pattern ", i, ": ", regex.status().message()));
      }
      out.push_back(*std::move(regex));
    }
    i += used;
  }
  return out;
}

}  // namespace tutti::tokenizer
