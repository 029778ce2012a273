#include "services/gateway/json_fields.h"

#include <cmath>
#include <vector>

#include "services/gateway/api_error.h"
#include "shared/base/strings.h"

namespace tutti::gateway {

absl::StatusOr<Json> ParseBody(std::string_view body) {
  JsonFault fault;
  absl::StatusOr<Json> json = ParseJsonText(body, {}, &fault);
  switch (fault.kind) {
    case JsonFault::Kind::kNone:
      break;
    case JsonFault::Kind::kSyntax:
      return absl::InvalidArgumentError("the body is not JSON: " + fault.message);
    case JsonFault::Kind::kDuplicateKey:
      return BadParam(fault.path, fault.message, "duplicate_parameter");
    case JsonFault::Kind::kLimit:
      if (!fault.path.empty()) return BadParam(fault.path, fault.message, "limit_exceeded");
      return BadParam("", "the body: " + fault.message, "limit_exceeded");
  }
  TUTTI_RETURN_IF_ERROR(json.status());
  if (!json->is_object()) {
    return absl::InvalidArgumentError("the body must be a JSON object, not " +
                                      std::string(KindOf(*json)));
  }
  return json;
}

std::optional<int64_t> AsInt(const Json& value) {
  if (value.is_number_unsigned()) {
    const auto u = value.get<uint64_t>();
    if (u > static_cast<uint64_t>(INT64_MAX)) return std::nullopt;
    return static_cast<int64_t>(u);
  }
  if (value.is_number_integer()) return value.get<int64_t>();
  if (!value.is_number_float()) return std::nullopt;
  // Doubles past 2^53 stand for many integers.
  const auto d = value.get<double>();
  if (!(std::fabs(d) <= 0x1p53) || d != std::floor(d)) return std::nullopt;
  return static_cast<int64_t>(d);
}

std::string_view KindOf(const Json& value) {
  switch (value.type()) {
    case Json::value_t::null:
      return "null";
    case Json::value_t::boolean:
      return "a boolean";
    case Json::value_t::string:
      return "a string";
    case Json::value_t::array:
      return "an array";
    case Json::value_t::object:
      return "an object";
    case Json::value_t::number_float:
      return "a number with a fraction";
    default:
      return "an integer";
  }
}

const Json* Fields::Get(const std::string& name) {
  known_.insert(name);
  const auto it = object_.find(name);
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

void Fields::Fail(const std::string& name, std::string_view message, std::string_view code) {
  if (status_.ok()) status_ = BadParam(path_ + name, message, code);
}

std::optional<std::string> Fields::String(const std::string& name, size_t max_bytes) {
  const Json* v = Get(name);
  if (v == nullptr) return std::nullopt;
  if (!v->is_string()) {
    Fail(name, "must be a string, not " + std::string(KindOf(*v)), "invalid_type");
    return std::nullopt;
  }
  const auto& s = v->get_ref<const std::string&>();
  if (s.size() > max_bytes) {
    Fail(name, std::to_string(s.size()) + " bytes; at most " + std::to_string(max_bytes));
    return std::nullopt;
  }
  return s;
}

std::optional<bool> Fields::Bool(const std::string& name) {
  const Json* v = Get(name);
  if (v == nullptr) return std::nullopt;
  if (!v->is_boolean()) {
    Fail(name, "must be true or false, not " + std::string(KindOf(*v)), "invalid_type");
    return std::nullopt;
  }
  return v->get<bool>();
}

std::optional<int64_t> Fields::Int(const std::string& name, int64_t min, int64_t max) {
  const Json* v = Get(name);
  if (v == nullptr) return std::nullopt;
  const std::optional<int64_t> i = AsInt(*v);
  if (!i && !v->is_number_integer()) {
    Fail(name, "must be an integer, not " + std::string(KindOf(*v)), "invalid_type");
    return std::nullopt;
  }
  if (!i || *i < min || *i > max) {
    Fail(name, v->dump() + ", must be " + std::to_string(min) + " to " + std::to_string(max),
         "invalid_value");
    return std::nullopt;
  }
  return i;
}

std::optional<uint64_t> Fields::Seed(const std::string& name, bool* negative) {
  const Json* v = Get(name);
  if (v == nullptr) return std::nullopt;
  if (v->is_number_unsigned()) return v->get<uint64_t>();
  if (const auto i = AsInt(*v)) {
    *negative = *i < 0;
    return sampling::SeedFromInt(*i);
  }
  Fail(name,
       "must be an integer from -2^63 to 2^64 - 1, not " +
           (v->is_number() ? v->dump() : std::string(KindOf(*v))),
       "invalid_type");
  return std::nullopt;
}

std::optional<float> Fields::Number(const std::string& name, const sampling::Range& range) {
  const Json* v = Get(name);
  if (v == nullptr) return std::nullopt;
  if (!v->is_number()) {
    Fail(name, "must be a number, not " + std::string(KindOf(*v)), "invalid_type");
    return std::nullopt;
  }
  const auto f = static_cast<float>(v->get<double>());  // 1e-60 is no more than 0 here
  if (!range.Holds(f)) {
    Fail(name, v->dump() + ", must be " + range.Text(), "invalid_value");
    return std::nullopt;
  }
  return f;
}

void Fields::Ignored(const std::string& name) {
  if (Get(name) != nullptr) ignored_.push_back(path_ + name);
}

const Json* Fields::Array(const std::string& name, size_t max_size) {
  const Json* v = Get(name);
  if (v == nullptr) return nullptr;
  if (!v->is_array()) {
    Fail(name, "must be an array, not " + std::string(KindOf(*v)), "invalid_type");
    return nullptr;
  }
  if (v->size() > max_size) {
    Fail(name, std::to_string(v->size()) + " entries; at most " + std::to_string(max_size));
    return nullptr;
  }
  return v;
}

const Json* Fields::Object(const std::string& name) {
  const Json* v = Get(name);
  if (v == nullptr) return nullptr;
  if (!v->is_object()) {
    Fail(name, "must be an object, not " + std::string(KindOf(*v)), "invalid_type");
    return nullptr;
  }
  return v;
}

void Fields::Unsupported(const std::string& name, std::string_view instead) {
  if (Get(name) == nullptr) return;
  Fail(name, "is not supported" + (instead.empty() ? "" : "; " + std::string(instead)),
       "unsupported_parameter");
}

void Fields::UnsupportedUnless(const std::string& name, const Json& harmless,
                               std::string_view instead) {
  const Json* v = Get(name);
  if (v == nullptr || *v == harmless) return;
  Fail(name,
       "is not supported (other than " + harmless.dump() + ")" +
           (instead.empty() ? "" : "; " + std::string(instead)),
       "unsupported_parameter");
}

absl::Status Fields::Finish() {
  if (!status_.ok()) return status_;
  for (auto it = object_.begin(); it != object_.end(); ++it) {
    if (known_.find(it.key()) == known_.end()) {
      if (it->is_null()) continue;  // absent, whatever it would be
      return BadParam(path_ + Printable(it.key()), "unknown field", "unknown_parameter");
    }
  }
  return absl::OkStatus();
}

}  // namespace tutti::gateway
