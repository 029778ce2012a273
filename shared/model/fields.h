// Checked reading of a config object (config.json, GGUF metadata): wrong types and wild values
// become an error that names the key, what stands there and what would be right.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "shared/base/status.h"

namespace tutti::model {

// Reads keys of one JSON object. The first error sticks and later reads give their fallback, so a
// parser reads everything and asks for `status` once. Borrows the object.
class Fields {
 public:
  // `source` stands in messages ("config.json"); `prefix` goes in front of every key ("llama.").
  Fields(const nlohmann::json& object, std::string source, std::string prefix = "");

  bool Has(std::string_view key) const;  // there, and not null
  int64_t Int(std::string_view key, int64_t lo, int64_t hi);
  int64_t IntOr(std::string_view key, int64_t lo, int64_t hi, int64_t fallback);
  double Double(std::string_view key, double lo, double hi);
  double DoubleOr(std::string_view key, double lo, double hi, double fallback);
  bool BoolOr(std::string_view key, bool fallback);
  std::string StringOr(std::string_view key, std::string_view fallback, size_t max_bytes = 256);
  std::vector<std::string> StringsOr(std::string_view key,
                                     size_t max_entries);  // empty when absent
  std::vector<bool> BoolsOr(std::string_view key, size_t max_entries);
  // One integer or a list of them; empty when absent.
  std::vector<int32_t> IdsOr(std::string_view key, int64_t hi, size_t max_entries);
  // The same with any integers.
  std::vector<int64_t> IntsOr(std::string_view key, size_t max_entries);
  // One integer, or a list with one entry per layer, which must all be equal.
  int64_t EqualInts(std::string_view key, int64_t lo, int64_t hi, int64_t fallback);
  // The object under `key`; an empty one when absent. Its errors are taken over with `Absorb`.
  Fields Object(std::string_view key);
  void Absorb(const Fields& other);

  void Fail(std::string_view key, std::string_view what);
  void FailWith(absl::Status status);
  const absl::Status& status() const { return status_; }
  const std::string& source() const { return source_; }

 private:
  const nlohmann::json* Get(std::string_view key) const;

  const nlohmann::json* object_;
  std::string source_, prefix_;
  absl::Status status_;
};

}  // namespace tutti::model
