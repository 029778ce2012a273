#include "shared/base/json_text.h"

#include <random>
#include <unordered_set>
#include <utility>
#include <vector>

#include "shared/base/hash.h"
#include "shared/base/strings.h"

namespace tutti {
namespace {

using Json = nlohmann::ordered_json;

// Objects with fewer keys are searched one key after the other.
constexpr size_t kHashFrom = 8;

// Another one in each process, so that nobody can send keys that all hash alike.
uint64_t HashSeed() {
  static const uint64_t seed =
      (static_cast<uint64_t>(std::random_device{}()) << 32) ^ std::random_device{}();
  return seed;
}

struct KeyHash {
  size_t operator()(const std::string& key) const { return Hash64(key, HashSeed()); }
};
struct KeyEqual {
  int64_t* comparisons;
  bool operator()(const std::string& a, const std::string& b) const {
    ++*comparisons;
    return a == b;
  }
};
using KeySet = std::unordered_set<std::string, KeyHash, KeyEqual>;

// Builds the value from the parser's events; false ends the parse.
class Builder {
 public:
  using number_integer_t = Json::number_integer_t;
  using number_unsigned_t = Json::number_unsigned_t;
  using number_float_t = Json::number_float_t;
  using string_t = Json::string_t;
  using binary_t = Json::binary_t;

  Builder(const JsonLimits& limits, JsonWork* work) : limits_(limits), work_(work) {}

  bool null() { return Add(nullptr); }
  bool boolean(bool v) { return Add(v); }
  bool number_integer(number_integer_t v) { return Add(v); }
  bool number_unsigned(number_unsigned_t v) { return Add(v); }
  bool number_float(number_float_t v, const string_t&) { return Add(v); }
  bool string(string_t& v) { return Add(std::move(v)); }
  bool binary(binary_t&) { return Fault(JsonFault::Kind::kSyntax, "binary"); }
  bool start_object(size_t) { return Open(Json::value_t::object); }
  bool start_array(size_t) { return Open(Json::value_t::array); }
  bool end_object() { return Close(); }
  bool end_array() { return Close(); }

  bool key(string_t& key) {
    Level& level = levels_.back();
    auto& object = level.value->get_ref<Json::object_t&>();
    if (key.size() > limits_.key_bytes) {
      return Fault(JsonFault::Kind::kLimit, "a key of " + std::to_string(key.size()) +
                                                " bytes; at most " +
                                                std::to_string(limits_.key_bytes));
    }
    if (object.size() >= limits_.keys) {
      return Fault(JsonFault::Kind::kLimit,
                   "has more than " + std::to_string(limits_.keys) + " keys");
    }
    bool twice = false;
    if (object.size() < kHashFrom) {
      for (const auto& [other, value] : object) {
        ++work_->key_comparisons;
        twice |= other == key;
      }
    } else {
      if (level.keys == nullptr) {
        level.keys = std::make_unique<KeySet>(64, KeyHash{}, KeyEqual{&work_->key_comparisons});
        for (const auto& [other, value] : object) level.keys->insert(other);
      }
      twice = !level.keys->insert(key).second;
    }
    if (twice) {
      level.key = &key;
      return Fault(JsonFault::Kind::kDuplicateKey, "stands twice in one object");
    }
    // Not the object's own insertion, which would search all keys.
    static_cast<Json::object_t::Container&>(object).emplace_back(std::move(key), nullptr);
    level.key = &object.back().first;
    return true;
  }

  template <typename Exception>
  bool parse_error(size_t, const std::string&, const Exception& e) {
    std::string what = e.what();
    // "[json.exception.parse_error.101] parse error at line 1, column 2: ..."
    if (const size_t at = what.find("] "); at != std::string::npos) what.erase(0, at + 2);
    fault_ = {JsonFault::Kind::kSyntax, "", Printable(what, 300)};
    return false;
  }

  Json Take() { return std::move(root_); }
  const JsonFault& fault() const { return fault_; }

 private:
  struct Level {
    Json* value;
    const std::string* key = nullptr;  // of an object: the last one read
    std::unique_ptr<KeySet> keys;      // of an object with many
  };

  bool Fault(JsonFault::Kind kind, std::string message) {
    fault_ = {kind, "", std::move(message)};
    for (const Level& level : levels_) {
      if (level.value->is_array()) {
        // The value that is being read is the last, unless it was not begun.
        const bool inside = &level != &levels_.back();
        fault_.path += "[" + std::to_string(level.value->size() - (inside ? 1 : 0)) + "]";
      } else if (level.key != nullptr) {
        const bool inside = &level != &levels_.back() || kind == JsonFault::Kind::kDuplicateKey;
        if (!inside) continue;  // a fault of the object, not of its last value
        fault_.path += (fault_.path.empty() ? "" : ".") + Printable(*level.key);
      }
    }
    return false;
  }

  bool Count() {
    if (++work_->values <= static_cast<int64_t>(limits_.values)) return true;
    return Fault(JsonFault::Kind::kLimit,
                 "more than " + std::to_string(limits_.values) + " values in one text");
  }

  // The place of the next value.
  template <typename T>
  Json* Put(T&& v) {
    if (levels_.empty()) {
      root_ = Json(std::forward<T>(v));
      return &root_;
    }
    Json& in = *levels_.back().value;
    if (in.is_array()) {
      auto& array = in.get_ref<Json::array_t&>();
      return &array.emplace_back(std::forward<T>(v));
    }
    Json& last = in.get_ref<Json::object_t&>().back().second;
    last = Json(std::forward<T>(v));
    return &last;
  }

  template <typename T>
  bool Add(T&& v) {
    if (!Count()) return false;
    Put(std::forward<T>(v));
    return true;
  }

  bool Open(Json::value_t type) {
    if (!Count()) return false;
    if (++containers_ > limits_.containers) {
      return Fault(JsonFault::Kind::kLimit, "more than " + std::to_string(limits_.containers) +
                                                " arrays and objects in one text");
    }
    if (levels_.size() >= static_cast<size_t>(limits_.depth)) {
      const bool fault =
          Fault(JsonFault::Kind::kLimit, "nests deeper than " + std::to_string(limits_.depth));
      fault_.path.clear();  // too long to help
      return fault;
    }
    Level level;
    level.value = Put(type);
    levels_.push_back(std::move(level));
    return true;
  }

  bool Close() {
    levels_.pop_back();
    return true;
  }

  const JsonLimits& limits_;
  JsonWork* const work_;
  Json root_;
  // From the root to the value being read. Pointers stay: an array or object grows only when the
  // value is its last level.
  std::vector<Level> levels_;
  size_t containers_ = 0;
  JsonFault fault_;
};

}  // namespace

absl::StatusOr<Json> ParseJsonText(std::string_view text, const JsonLimits& limits,
                                   JsonFault* fault, JsonWork* work) {
  JsonWork own_work;
  JsonFault own_fault;
  if (work == nullptr) work = &own_work;
  if (fault == nullptr) fault = &own_fault;
  if (text.size() > limits.bytes) {
    *fault = {JsonFault::Kind::kLimit, "",
              std::to_string(text.size()) + " bytes; at most " + std::to_string(limits.bytes)};
    return absl::InvalidArgumentError(fault->message);
  }
  Builder builder(limits, work);
  if (Json::sax_parse(text, &builder)) return builder.Take();
  *fault = builder.fault();
  if (fault->kind == JsonFault::Kind::kSyntax)
    return absl::InvalidArgumentError("not JSON: " + fault->message);
  return absl::InvalidArgumentError((fault->path.empty() ? "" : fault->path + ": ") +
                                    fault->message);
}

}  // namespace tutti
