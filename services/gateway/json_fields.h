// Strict reading of JSON requests: wrong types and unknown fields are errors that name the field.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "shared/base/json_text.h"
#include "shared/base/limits.h"
#include "shared/base/status.h"
#include "shared/sampling/ranges.h"

namespace tutti::gateway {

using Json = nlohmann::ordered_json;

using limits::kMaxBodyBytes;

// Cost: linear in the body (shared/base/json_text.h).
// Errors: INVALID_ARGUMENT  not JSON (with the place), not an object, past a limit of
// shared/base/limits.h, a key twice in one object
absl::StatusOr<Json> ParseBody(std::string_view body);

// The integer that `value` is: an integer, or a number such as 1.0 that some clients send for one.
// Unset: it is none, or does not fit.
std::optional<int64_t> AsInt(const Json& value);

// What a value is, for messages: "a string", "null", ...
std::string_view KindOf(const Json& value);

// The fields of one object. Each getter marks its field as known; a JSON null counts as absent.
// Errors are sticky and come out of Finish.
class Fields {
 public:
  // `path` stands before the names in errors ("messages[0].").
  explicit Fields(const Json& object, std::string path = "")
      : object_(object), path_(std::move(path)) {}

  // Null when absent.
  const Json* Get(const std::string& name);
  std::optional<std::string> String(const std::string& name, size_t max_bytes = kMaxBodyBytes);
  std::optional<bool> Bool(const std::string& name);
  std::optional<int64_t> Int(const std::string& name, int64_t min, int64_t max);
  // A seed, negative ones included (shared/sampling/ranges.h). `negative`: how it was written.
  std::optional<uint64_t> Seed(const std::string& name, bool* negative);
  std::optional<float> Number(const std::string& name, const sampling::Range& range);
  const Json* Array(const std::string& name, size_t max_size);
  const Json* Object(const std::string& name);

  // The field exists in the API that this one follows, but not here: an error when given (unless it
  // has the value that changes nothing).
  void Unsupported(const std::string& name, std::string_view instead = "");
  void UnsupportedUnless(const std::string& name, const Json& harmless,
                         std::string_view instead = "");

  // The field exists in the API that this one follows and cannot change a token: any value is taken
  // and noted, so that the answer can name it.
  void Ignored(const std::string& name);
  // The names of such fields that were given, with this object's path.
  const std::vector<std::string>& ignored() const { return ignored_; }

  void Fail(const std::string& name, std::string_view message, std::string_view code = "");
  // Takes over an error of a part of the request.
  void Adopt(absl::Status status) {
    if (status_.ok()) status_ = std::move(status);
  }
  bool failed() const { return !status_.ok(); }
  // The first error, or an unknown field.
  absl::Status Finish();

 private:
  const Json& object_;
  const std::string path_;
  std::set<std::string, std::less<>> known_;
  std::vector<std::string> ignored_;
  absl::Status status_;
};

}  // namespace tutti::gateway
