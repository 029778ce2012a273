// Cutting text into the words that a tokenizer's model then sees one by one.
// Determinism: exact.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "shared/base/status.h"

namespace tutti::tokenizer {

// [begin, end) bytes of a text.
struct Piece {
  uint32_t begin = 0, end = 0;
  bool operator==(const Piece&) const = default;
};

// One stage of cutting. Immutable, shareable between threads.
class Splitter {
 public:
  virtual ~Splitter() = default;
  // Appends the pieces of text[piece]. What stands outside of the piece is not looked at: its ends
  // are the text's ends. Never fails, on any bytes.
  virtual void Split(std::string_view text, Piece piece, std::vector<Piece>* out) const = 0;
};

// What becomes of a match, as Hugging Face tokenizers names it.
enum class SplitBehavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

// A stage as it stands in a tokenizer.json.
struct SplitSpec {
  std::string pattern;
  bool literal = false;  // the pattern is a string, not a regular expression
  SplitBehavior behavior = SplitBehavior::kIsolated;
  bool invert = false;  // what does not match is what is cut out
  bool operator==(const SplitSpec&) const = default;
};

// Patterns that have a scanner of their own.
namespace patterns {
inline constexpr std::string_view kGpt2 =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
inline constexpr std::string_view kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
inline constexpr std::string_view kQwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
inline constexpr std::string_view kDigit = R"(\p{N})";
inline constexpr std::string_view kDigits = R"(\p{N}+)";
inline constexpr std::string_view kDigitsUpTo3 = R"(\p{N}{1,3})";
// DeepSeek-V3: kDigitsUpTo3, then kCjk, then kDeepSeekWords.
inline constexpr std::string_view kCjk = "[一-龥぀-ゟ゠-ヿ]+";
inline constexpr std::string_view kDeepSeekWords =
    R"re([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)re";
}  // namespace patterns

// The stages that do what `specs` say one after the other. Known patterns, and known rows of them,
// become scanners; the others run in regex/program.h.
// Errors: INVALID_ARGUMENT  pre_tokenizer pattern <i>: "<pattern>": offset <n>: what is wrong there
absl::StatusOr<std::vector<std::unique_ptr<Splitter>>> MakeSplitters(
    const std::vector<SplitSpec>& specs);

// One stage by its regular expression, whatever it is; the scanners are tested against it. It means
// what it means to Oniguruma, which Hugging Face uses, or is refused. Time is linear in the text.
absl::StatusOr<std::unique_ptr<Splitter>> MakeRegexSplitter(const SplitSpec& spec);

// The scanner of a row of stages, or null. `used` receives how many specs it stands for.
std::unique_ptr<Splitter> MakeScanner(const SplitSpec* specs, size_t num_specs, size_t* used);

}  // namespace tutti::tokenizer
