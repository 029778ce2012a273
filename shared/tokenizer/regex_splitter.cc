// Splitting by any regular expression (regex/program.h), or by a string.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "shared/base/strings.h"
#include "shared/tokenizer/regex/program.h"
#include "shared/tokenizer/splitter.h"

namespace tutti::tokenizer {
namespace {

constexpr size_t kMaxPatternBytes = 16384;

struct Segment {
  Piece piece;
  bool match;
};

class RegexSplitter final : public Splitter {
 public:
  // `program`: null when the pattern is a string.
  RegexSplitter(std::unique_ptr<regex::Program> program, const SplitSpec& spec)
      : program_(std::move(program)),
        literal_(spec.pattern),
        behavior_(spec.behavior),
        invert_(spec.invert) {}

  void Split(std::string_view text, Piece piece, std::vector<Piece>* out) const override {
    std::vector<Segment> segments;
    Find(text.substr(piece.begin, piece.end - piece.begin), piece.begin, &segments);
    Apply(segments, out);
  }

 private:
  // `base`: where the text begins in the whole one.
  void Find(std::string_view text, uint32_t base, std::vector<Segment>* out) const {
    size_t before = 0;
    const auto push = [&](size_t b, size_t e, bool match) {
      if (b < e) {
        out->push_back(
            {{base + static_cast<uint32_t>(b), base + static_cast<uint32_t>(e)}, match != invert_});
      }
    };
    const auto found = [&](size_t b, size_t e) {
      push(before, b, false);
      push(b, e, true);
      before = e;
    };
    if (program_ == nullptr) {
      for (size_t at = text.find(literal_); at != text.npos;
           at = text.find(literal_, at + literal_.size()))
        found(at, at + literal_.size());
    } else {
      regex::Program::Search search(*program_, text);
      size_t b, e;
      while (search.Next(&b, &e)) found(b, e);
    }
    push(before, text.size(), false);
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

  const std::unique_ptr<regex::Program> program_;
  const std::string literal_;
  const SplitBehavior behavior_;
  const bool invert_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Splitter>> MakeRegexSplitter(const SplitSpec& spec) {
  if (spec.pattern.empty() || spec.pattern.size() > kMaxPatternBytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "pattern of ", spec.pattern.size(), " bytes; 1 to ", kMaxPatternBytes, " are supported"));
  }
  if (spec.literal) return std::make_unique<RegexSplitter>(nullptr, spec);
  auto program = regex::Program::Compile(spec.pattern);
  if (!program.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", Printable(spec.pattern, 400), "\": ", program.status().message()));
  }
  return std::make_unique<RegexSplitter>(*std::move(program), spec);
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
