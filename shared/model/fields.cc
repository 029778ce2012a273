#include "shared/model/fields.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "shared/base/strings.h"

namespace tutti::model {
namespace {

const nlohmann::json& EmptyObject() {
  static const nlohmann::json empty = nlohmann::json::object();
  return empty;
}

// A short form of a value for messages; long arrays are not printed.
std::string Show(const nlohmann::json& value) {
  if (value.is_array()) return absl::StrCat("a list of ", value.size());
  if (value.is_object()) return "an object";
  return Printable(value.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace), 60);
}

bool ToInt(const nlohmann::json& value, int64_t* out) {
  if (value.is_number_unsigned()) {
    const uint64_t u = value.get<uint64_t>();
    if (u > static_cast<uint64_t>(INT64_MAX)) return false;
    *out = static_cast<int64_t>(u);
    return true;
  }
  if (!value.is_number_integer()) return false;
  *out = value.get<int64_t>();
  return true;
}

}  // namespace

Fields::Fields(const nlohmann::json& object, std::string source, std::string prefix)
    : object_(&object), source_(std::move(source)), prefix_(std::move(prefix)) {
  if (!object.is_object()) {
    FailWith(absl::InvalidArgumentError(source_ + ": must be an object, is " + Show(object)));
    object_ = &EmptyObject();
  }
}

const nlohmann::json* Fields::Get(std::string_view key) const {
  const auto it = object_->find(prefix_ + std::string(key));
  return it == object_->end() || it->is_null() ? nullptr : &*it;
}

bool Fields::Has(std::string_view key) const { return Get(key) != nullptr; }

void Fields::FailWith(absl::Status status) {
  if (status_.ok()) status_ = std::move(status);
}

void Fields::Fail(std::string_view key, std::string_view what) {
  const nlohmann::json* value = Get(key);
  FailWith(absl::InvalidArgumentError(absl::StrCat(
      source_, ": ", prefix_, ToAbsl(key),
      value ? " is " + Show(*value) : std::string(" is missing"), "; ", ToAbsl(what))));
}

void Fields::Absorb(const Fields& other) {
  if (!other.status().ok()) FailWith(other.status());
}

int64_t Fields::Int(std::string_view key, int64_t lo, int64_t hi) {
  if (!Has(key)) {
    Fail(key, "it is needed");
    return lo;
  }
  return IntOr(key, lo, hi, lo);
}

int64_t Fields::IntOr(std::string_view key, int64_t lo, int64_t hi, int64_t fallback) {
  const nlohmann::json* value = Get(key);
  if (value == nullptr) return fallback;
  int64_t v = 0;
  if (!ToInt(*value, &v) || v < lo || v > hi) {
    Fail(key, absl::StrFormat("it must be a whole number in [%d, %d]", lo, hi));
    return fallback;
  }
  return v;
}

double Fields::Double(std::string_view key, double lo, double hi) {
  if (!Has(key)) {
    Fail(key, "it is needed");
    return lo;
  }
  return DoubleOr(key, lo, hi, lo);
}

double Fields::DoubleOr(std::string_view key, double lo, double hi, double fallback) {
  const nlohmann::json* value = Get(key);
  if (value == nullptr) return fallback;
  const double v = value->is_number() ? value->get<double>() : -1;
  if (!value->is_number() || !(v >= lo && v <= hi)) {
    Fail(key, absl::StrFormat("it must be a number in [%g, %g]", lo, hi));
    return fallback;
  }
  return v;
}

bool Fields::BoolOr(std::string_view key, bool fallback) {
  const nlohmann::json* value = Get(key);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) {
    Fail(key, "it must be true or false");
    return fallback;
  }
  return value->get<bool>();
}

std::string Fields::StringOr(std::string_view key, std::string_view fallback, size_t max_bytes) {
  const nlohmann::json* value = Get(key);
  if (value == nullptr) return std::string(fallback);
  const std::string* s = value->get_ptr<const std::string*>();
  if (s == nullptr || s->size() > max_bytes) {
    Fail(key, absl::StrFormat("it must be a text of at most %d bytes", max_bytes));
    return std::string(fallback);
  }
  return *s;
}

std::vector<std::string> Fields::StringsOr(std::string_view key, size_t max_entries) {
  const nlohmann::json* value = Get(key);
  if (value == nullptr) return {};
  std::vector<std::string> out;
  if (value->is_array() && value->size() <= max_entries) {
    for (const auto& v : *value) {
      const std::string* s = v.get_ptr<const std::string*>();
      if (s == nullptr) break;
      out.push_back(*s);
    }
    if (out.size() == value->size()) return out;
  }
  Fail(key, absl::StrFormat("it must be a list of at most %d texts", max_entries));
  return {};
}

std::vector<bool> Fields::BoolsOr(std::string_view key, size_t max_entries) {
  const nlohmann::json* value = Get(key);
  if (value == nullptr) return {};
  std::vector<bool> out;
  if (value->is_array() && value->size() <= max_entries) {
    for (const auto& v : *value) {
      if (!v.is_boolean()) break;
      out.push_back(v.get<bool>());
    }
    if (out.size() == value->size()) return out;
  }
  Fail(key, absl::StrFormat("it must be a list of at most %d truth values", max_entries));
  return {};
}

std::vector<int32_t> Fields::IdsOr(std::string_view key, int64_t hi, size_t max_entries) {
  const nlohmann::json* value = Get(key);
  if (value == nullptr) return {};
  std::vector<int32_t> out;
  const auto take = [&](const nlohmann::json& v) {
    int64_t id = 0;
    if (!ToInt(v, &id) || id < 0 || id > hi) return false;
    out.push_back(static_cast<int32_t>(id));
    return true;
  };
  bool good = true;
  if (value->is_array()) {
    good = value->size() <= max_entries;
    for (size_t i = 0; good && i < value->size(); ++i) good = take((*value)[i]);
  } else {
    good = take(*value);
  }
  if (good) return out;
  Fail(key, absl::StrFormat("it must be a token id in [0, %d], or a list of at most %d", hi,
                            max_entries));
  return {};
}

std::vector<int64_t> Fields::IntsOr(std::string_view key, size_t max_entries) {
  const nlohmann::json* value = Get(key);
  if (value == nullptr) return {};
  std::vector<int64_t> out;
  int64_t v = 0;
  if (value->is_array() && value->size() <= max_entries) {
    for (const auto& element : *value) {
      if (!ToInt(element, &v)) break;
      out.push_back(v);
    }
    if (out.size() == value->size()) return out;
  } else if (ToInt(*value, &v)) {
    return {v};
  }
  Fail(key,
       absl::StrFormat("it must be a whole number, or a list of at most %d of them", max_entries));
  return {};
}

int64_t Fields::EqualInts(std::string_view key, int64_t lo, int64_t hi, int64_t fallback) {
  const nlohmann::json* value = Get(key);
  if (value == nullptr || !value->is_array()) return IntOr(key, lo, hi, fallback);
  int64_t first = 0;
  for (size_t i = 0; i < value->size(); ++i) {
    int64_t v = 0;
    if (!ToInt((*value)[i], &v) || v < lo || v > hi || (i > 0 && v != first)) {
      FailWith(absl::UnimplementedError(absl::StrCat(
          source_, ": ", prefix_, ToAbsl(key), " is ", Show((*value)[i]), " in layer ", i,
          i > 0 ? absl::StrCat(" and ", first, " in layer 0; layers of one size are built")
                : absl::StrFormat("; it must be a whole number in [%d, %d]", lo, hi))));
      return fallback;
    }
    first = v;
  }
  if (value->empty()) Fail(key, "it must not be empty");
  return first;
}

Fields Fields::Object(std::string_view key) {
  const nlohmann::json* value = Get(key);
  if (value == nullptr) return Fields(EmptyObject(), source_ + ": " + prefix_ + std::string(key));
  return Fields(*value, source_ + ": " + prefix_ + std::string(key));
}

}  // namespace tutti::model
