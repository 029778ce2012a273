// Models cut into several GGUF files ("name-00001-of-00003.gguf"): metadata stands in the first
// part, tensors in all of them. What the parts say of each other is read and checked here.
#pragma once

#include <optional>
#include <string>

#include "shared/weights/gguf.h"

namespace tutti::weights {

// What a part's name says.
struct SplitName {
  std::string prefix;  // with the folder: "/models/name"
  int number = 1;      // of the part, from 1
  int count = 1;       // of parts

  std::string Part(int number) const;  // the path of another part
};
inline constexpr int kSplitPartsMax = 4096;

// nullopt: not the name of a part (another form, or a number that is none of 1 to the count).
std::optional<SplitName> ParseSplitName(const std::string& path);

// What a part's metadata says. count 0: the file is whole.
struct SplitInfo {
  int number = 1;           // of the part, from 1 (split.no counts from 0)
  int count = 0;            // split.count
  int64_t num_tensors = 0;  // split.tensors.count, of all parts; 0: not given
};

// `name` stands in front of messages.
// Errors: INVALID_ARGUMENT  a split.* value has the wrong type or a wild value
absl::StatusOr<SplitInfo> ReadSplitInfo(const GgufContents& contents, const std::string& name);

// Of a part only its tensors count: what its metadata says besides split.* must be what the first
// part says.
// Errors: INVALID_ARGUMENT  a value differs from the first part's, or is not there; names the key
absl::Status CheckPartMetadata(const GgufContents& first, const GgufContents& part,
                               const std::string& name);

}  // namespace tutti::weights
