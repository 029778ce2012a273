#include "shared/tokenizer/tokenizer_json_sax.h"

#include "absl/strings/str_cat.h"
#include "shared/base/strings.h"

namespace tutti::tokenizer {
namespace {

using nlohmann::json;
constexpr size_t kMaxDepth = 48;

class Handler final : public nlohmann::json_sax<json> {
 public:
  TokenizerJsonParts parts;
  absl::Status error;

  bool null() override { return Value(nullptr); }
  bool boolean(bool v) override { return Value(v); }
  bool number_integer(number_integer_t v) override {
    return mode_ == Mode::kVocab ? VocabError("is negative") : Value(v);
  }
  bool number_unsigned(number_unsigned_t v) override {
    if (mode_ != Mode::kVocab) return Value(v);
    if (v >= static_cast<uint64_t>(kMaxVocabSize)) return VocabError("is too large an id");
    parts.vocab.push_back({std::move(token_), static_cast<int32_t>(v)});
    return true;
  }
  bool number_float(number_float_t v, const string_t&) override { return Value(v); }
  bool binary(binary_t&) override { return Fail("binary value"); }

  bool string(string_t& v) override {
    if (mode_ == Mode::kMerges) {
      if (pair_ >= 0) {
        if (pair_ > 1) return MergeError("has more than two parts");
        (pair_++ == 0 ? left_ : right_) = std::move(v);
        return true;
      }
      const size_t space = v.find(' ');
      if (space == std::string::npos || v.find(' ', space + 1) != std::string::npos) {
        return MergeError("is not two tokens with a space between them");
      }
      parts.merges.emplace_back(v.substr(0, space), v.substr(space + 1));
      return true;
    }
    return Value(std::move(v));
  }

  bool key(string_t& v) override {
    if (mode_ == Mode::kVocab) {
      token_ = std::move(v);
    } else if (mode_ == Mode::kTree) {
      keys_.back() = std::move(v);
    }
    return true;
  }

  bool start_object(std::size_t) override {
    if (mode_ == Mode::kTree && AtModel("vocab")) return Enter(Mode::kVocab);
    if (mode_ == Mode::kVocab) return VocabError("is not a number");
    if (mode_ == Mode::kMerges) return MergeError("is an object");
    if (mode_ == Mode::kSkip) return Deeper();
    return Open(json::object());
  }
  bool start_array(std::size_t) override {
    if (mode_ == Mode::kTree && AtModel("merges")) return Enter(Mode::kMerges);
    if (mode_ == Mode::kTree && AtModel("vocab")) {
      parts.vocab_is_list = true;
      skipped_ = 1;
      return Enter(Mode::kSkip);
    }
    if (mode_ == Mode::kVocab) return VocabError("is not a number");
    if (mode_ == Mode::kMerges) {
      if (pair_ >= 0) return MergeError("has an array in it");
      pair_ = 0;
      return true;
    }
    if (mode_ == Mode::kSkip) return Deeper();
    return Open(json::array());
  }
  bool end_object() override {
    if (mode_ == Mode::kVocab) return Enter(Mode::kTree);
    return Close();
  }
  bool end_array() override {
    if (mode_ == Mode::kMerges) {
      if (pair_ < 0) return Enter(Mode::kTree);
      if (pair_ != 2) return MergeError("has not two parts");
      parts.merges.emplace_back(std::move(left_), std::move(right_));
      pair_ = -1;
      return true;
    }
    return Close();
  }
  bool parse_error(std::size_t position, const std::string& token,
                   const nlohmann::detail::exception&) override {
    return Fail(absl::StrCat("byte ", position, ": not JSON, at \"", Printable(token, 40), "\""));
  }

 private:
  enum class Mode { kTree, kVocab, kMerges, kSkip };

  bool Fail(std::string message) {
    if (error.ok()) error = absl::InvalidArgumentError(absl::StrCat("tokenizer.json: ", message));
    return false;
  }
  bool VocabError(const char* what) {
    return Fail(absl::StrCat("model.vocab[\"", Printable(token_, 40), "\"] ", what));
  }
  bool MergeError(const char* what) {
    return Fail(absl::StrCat("model.merges[", parts.merges.size(), "] ", what));
  }
  bool AtModel(std::string_view field) const {
    return keys_.size() == 2 && keys_[0] == "model" && keys_[1] == field &&
           open_.back()->is_object();
  }
  bool Enter(Mode mode) {
    mode_ = mode;
    return true;
  }
  bool Deeper() {
    ++skipped_;
    return true;
  }
  // Puts a value where the tree is; returns its place.
  json* Place(json value) {
    if (open_.empty()) {
      parts.rest = std::move(value);
      return &parts.rest;
    }
    json& parent = *open_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return &parent.back();
    }
    json& place = parent[keys_.back()];
    place = std::move(value);
    return &place;
  }
  bool Value(json value) {
    switch (mode_) {
      case Mode::kVocab:
        return VocabError("is not a number");
      case Mode::kMerges:
        return MergeError("is not a string");
      case Mode::kSkip:
        return true;
      case Mode::kTree:
        break;
    }
    Place(std::move(value));
    return true;
  }
  bool Open(json value) {
    if (open_.size() >= kMaxDepth) return Fail("nested too deeply");
    open_.push_back(Place(std::move(value)));
    keys_.emplace_back();
    return true;
  }
  bool Close() {
    if (mode_ == Mode::kSkip) {
      if (--skipped_ == 0) mode_ = Mode::kTree;
      return true;
    }
    open_.pop_back();
    keys_.pop_back();
    return true;
  }

  Mode mode_ = Mode::kTree;
  std::vector<json*> open_;  // parents stay put while a child is open: only the innermost one grows
  std::vector<std::string> keys_;
  std::string token_, left_, right_;
  int pair_ = -1;  // parts seen of a merge written as an array; -1: outside of one
  size_t skipped_ = 0;
};

}  // namespace

absl::StatusOr<TokenizerJsonParts> ParseTokenizerJson(std::string_view text) {
  Handler handler;
  const bool ok = nlohmann::json::sax_parse(text.begin(), text.end(), &handler);
  if (!handler.error.ok()) return handler.error;
  if (!ok) return absl::InvalidArgumentError("tokenizer.json: not JSON");
  if (!handler.parts.rest.is_object())
    return absl::InvalidArgumentError("tokenizer.json: not a JSON object");
  return std::move(handler.parts);
}

}  // namespace tutti::tokenizer
