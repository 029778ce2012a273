#include "shared/weights/gguf_split.h"

#include <algorithm>
#include <cctype>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "shared/base/strings.h"

namespace tutti::weights {
namespace {

constexpr std::string_view kSuffix = ".gguf";
constexpr size_t kDigits = 5;

// Five digits at `at`; -1: something else stands there.
int Number(std::string_view s, size_t at) {
  int value = 0;
  for (size_t i = at; i < at + kDigits; ++i) {
    if (!std::isdigit(static_cast<unsigned char>(s[i]))) return -1;
    value = value * 10 + (s[i] - '0');
  }
  return value;
}

bool IsSplitKey(std::string_view key) { return key.starts_with("split."); }

}  // namespace

std::string SplitName::Part(int n) const {
  return absl::StrCat(prefix, absl::StrFormat("-%05d-of-%05d.gguf", n, count));
}

std::optional<SplitName> ParseSplitName(const std::string& path) {
  constexpr std::string_view kOf = "-of-";
  constexpr size_t kTail = 1 + kDigits + kOf.size() + kDigits + kSuffix.size();
  if (path.size() < kTail || !path.ends_with(kSuffix)) return std::nullopt;
  const size_t at = path.size() - kTail;
  if (path[at] != '-' || std::string_view(path).substr(at + 1 + kDigits, kOf.size()) != kOf)
    return std::nullopt;
  SplitName name{path.substr(0, at), Number(path, at + 1),
                 Number(path, at + 1 + kDigits + kOf.size())};
  if (name.number < 1 || name.count < 1 || name.number > name.count) return std::nullopt;
  return name;
}

absl::StatusOr<SplitInfo> ReadSplitInfo(const GgufContents& contents, const std::string& name) {
  SplitInfo info;
  const auto read = [&](const char* key, int64_t lo, int64_t hi, int64_t* value) -> absl::Status {
    const auto it = contents.metadata.find(key);
    if (it == contents.metadata.end()) return absl::OkStatus();
    if (!it->is_number_integer() || (it->is_number_unsigned() && it->get<uint64_t>() > INT64_MAX) ||
        it->get<int64_t>() < lo || it->get<int64_t>() > hi) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, ": metadata \"", key, "\" is ",
                       Printable(it->dump(-1, ' ', true, nlohmann::json::error_handler_t::replace)),
                       "; a number in [", lo, ", ", hi, "]"));
    }
    *value = it->get<int64_t>();
    return absl::OkStatus();
  };
  int64_t count = 0, number = 0;
  TUTTI_RETURN_IF_ERROR(read("split.count", 0, kSplitPartsMax, &count));
  if (count <= 1) return info;  // 0 in files that were put together again
  TUTTI_RETURN_IF_ERROR(read("split.no", 0, count - 1, &number));
  TUTTI_RETURN_IF_ERROR(read("split.tensors.count", 0, int64_t{1} << 32, &info.num_tensors));
  info.count = static_cast<int>(count);
  info.number = static_cast<int>(number) + 1;
  return info;
}

absl::Status CheckPartMetadata(const GgufContents& first, const GgufContents& part,
                               const std::string& name) {
  for (const GgufValue& value : part.values) {
    if (IsSplitKey(value.key)) continue;
    const auto same = std::find_if(first.values.begin(), first.values.end(),
                                   [&](const GgufValue& v) { return v.key == value.key; });
    if (same == first.values.end() || !std::ranges::equal(same->bytes, value.bytes)) {
      return absl::InvalidArgumentError(absl::StrCat(name, ": metadata \"", Printable(value.key),
                                                     same == first.values.end()
                                                         ? "\" is not in the first part"
                                                         : "\" differs from the first part's",
                                                     "; the parts do not belong together"));
    }
  }
  return absl::OkStatus();
}

}  // namespace tutti::weights
