#include "shared/weights/json_text.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "shared/base/mapped_file.h"
#include "shared/base/strings.h"

namespace tutti::weights {
namespace {

using nlohmann::json;

// Builds the document from the parser's events, so that duplicate keys and depth can be refused.
class Builder : public nlohmann::json_sax<json> {
 public:
  explicit Builder(int depth_max) : depth_max_(depth_max) {}

  bool null() override { return Put(json(nullptr)); }
  bool boolean(bool v) override { return Put(json(v)); }
  bool number_integer(number_integer_t v) override { return Put(json(v)); }
  bool number_unsigned(number_unsigned_t v) override { return Put(json(v)); }
  bool number_float(number_float_t v, const string_t&) override { return Put(json(v)); }
  bool string(string_t& v) override { return Put(json(std::move(v))); }
  bool binary(binary_t&) override { return Fail("binary values are not JSON"); }
  bool start_object(size_t) override { return Open(json::object()); }
  bool start_array(size_t) override { return Open(json::array()); }
  bool end_object() override { return Close(); }
  bool end_array() override { return Close(); }
  bool key(string_t& k) override {
    if (stack_.back()->contains(k)) {
      return Fail(absl::StrCat("key \"", Printable(k), "\" stands twice in one object"));
    }
    key_ = std::move(k);
    return true;
  }
  bool parse_error(size_t position, const std::string&,
                   const nlohmann::detail::exception& e) override {
    // "[json.exception.parse_error.101] parse error at line 1, column 2: <what>"
    std::string_view what = e.what();
    if (const size_t at = what.find(": "); at != what.npos) what = what.substr(at + 2);
    error_ = Printable(what, 200);
    position_ = position;
    return false;
  }

  json& root() { return root_; }
  const std::string& error() const { return error_; }
  // Bytes read when the parser itself failed, else 0.
  size_t position() const { return position_; }

 private:
  json* Attach(json&& v) {
    if (stack_.empty()) {
      root_ = std::move(v);
      return &root_;
    }
    json& parent = *stack_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(v));
      return &parent.back();
    }
    json& slot = parent[key_];
    slot = std::move(v);
    return &slot;
  }
  bool Put(json&& v) {
    Attach(std::move(v));
    return true;
  }
  bool Open(json&& v) {
    if (static_cast<int>(stack_.size()) >= depth_max_) {
      return Fail(absl::StrCat("nested deeper than ", depth_max_, " levels"));
    }
    stack_.push_back(Attach(std::move(v)));
    return true;
  }
  bool Close() {
    stack_.pop_back();
    return true;
  }
  bool Fail(std::string what) {
    error_ = std::move(what);
    return false;
  }

  const int depth_max_;
  json root_;
  std::vector<json*> stack_;  // a parent never moves while its child is open
  std::string key_, error_;
  size_t position_ = 0;
};

std::string LineColumn(std::string_view text, size_t position) {
  const std::string_view before = text.substr(0, std::min(position, text.size()));
  const auto line = 1 + std::count(before.begin(), before.end(), '\n');
  const size_t last = before.rfind('\n');
  return absl::StrCat(":", line, ":",
                      last == before.npos ? before.size() : before.size() - last - 1);
}

}  // namespace

absl::StatusOr<json> ParseJson(std::string_view text, const std::string& name,
                               const JsonLimits& limits) {
  if (text.size() > limits.bytes_max) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ": ", text.size(), " bytes of JSON; at most ", limits.bytes_max));
  }
  Builder builder(limits.depth_max);
  if (json::sax_parse(text.begin(), text.end(), &builder)) return std::move(builder.root());
  return absl::InvalidArgumentError(
      absl::StrCat(name, builder.position() > 0 ? LineColumn(text, builder.position()) : "",
                   ": not valid JSON: ", builder.error()));
}

absl::StatusOr<json> ReadJsonFile(const std::string& path, const JsonLimits& limits) {
  TUTTI_ASSIGN_OR_RETURN(const auto file, MappedFile::Open(path));
  const auto bytes = file->bytes();
  return ParseJson({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, path, limits);
}

}  // namespace tutti::weights
