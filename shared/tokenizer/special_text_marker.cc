#include "shared/tokenizer/special_text_marker.h"

#include <functional>
#include <utility>

namespace tutti::tokenizer {
namespace {

using nlohmann::ordered_json;

constexpr int kCandidates = 16;

// Signs of the Phaistos Disc, from U+101D0: symbols that Python's repr prints as they are (a
// character for private use would be escaped), and that nobody writes.
std::string Candidate(int i) { return {'\xf0', '\x90', '\x87', static_cast<char>(0x90 + i)}; }

// Calls `f` with each string and key, until one returns true.
bool AnyText(const ordered_json& value, const std::function<bool(const std::string&)>& f) {
  if (value.is_string()) return f(value.get_ref<const std::string&>());
  if (value.is_array()) {
    for (const ordered_json& item : value) {
      if (AnyText(item, f)) return true;
    }
  }
  if (value.is_object()) {
    for (const auto& [key, item] : value.get_ref<const ordered_json::object_t&>()) {
      if (f(key) || AnyText(item, f)) return true;
    }
  }
  return false;
}

}  // namespace

absl::Status SpecialTextMarker::Mark(std::initializer_list<ordered_json*> values) {
  const auto any = [&](const std::function<bool(const std::string&)>& f) {
    for (const ordered_json* v : values) {
      if (AnyText(*v, f)) return true;
    }
    return false;
  };
  if (!any([&](const std::string& s) { return !tokenizer_.SpecialBreaks(s).empty(); }))
    return absl::OkStatus();
  for (int i = 0; i < kCandidates && mark_.empty(); ++i) {
    const std::string mark = Candidate(i);
    if (!any([&](const std::string& s) { return s.find(mark) != s.npos; })) mark_ = mark;
  }
  if (mark_.empty()) {
    return absl::InvalidArgumentError(
        "chat: holds the text of special tokens and all of U+101D0 to U+101DF; one of these "
        "characters must be free to tell the two apart");
  }
  for (ordered_json* v : values) MarkAll(v);
  return absl::OkStatus();
}

std::string SpecialTextMarker::Marked(const std::string& text) const {
  const std::vector<uint32_t> breaks = tokenizer_.SpecialBreaks(text);
  std::string out;
  if (breaks.empty()) return out;
  out.reserve(text.size() + breaks.size() * mark_.size());
  size_t done = 0;
  for (const uint32_t at : breaks) {
    out.append(text, done, at - done).append(mark_);
    done = at;
  }
  return out.append(text, done);
}

void SpecialTextMarker::MarkAll(ordered_json* value) const {
  if (value->is_string()) {
    std::string marked = Marked(value->get_ref<const std::string&>());
    if (!marked.empty()) *value = std::move(marked);
  } else if (value->is_array()) {
    for (ordered_json& item : *value) MarkAll(&item);
  } else if (value->is_object()) {
    auto& object = value->get_ref<ordered_json::object_t&>();
    ordered_json::object_t out;
    for (auto& [key, item] : object) {
      MarkAll(&item);
      std::string marked = Marked(key);
      // Not the object's own insertion, which would search all keys.
      static_cast<ordered_json::object_t::Container&>(out).emplace_back(
          marked.empty() ? key : std::move(marked), std::move(item));
    }
    object.swap(out);
  }
}

void SpecialTextMarker::Unmark(std::string* text, std::vector<uint32_t>* breaks) const {
  if (mark_.empty()) return;
  size_t kept = 0, done = 0;
  std::string& s = *text;
  for (;;) {
    const size_t at = s.find(mark_, done);
    const size_t end = at == s.npos ? s.size() : at;
    if (kept != done) s.replace(kept, end - done, s, done, end - done);
    kept += end - done;
    if (at == s.npos) break;
    breaks->push_back(static_cast<uint32_t>(kept));
    done = at + mark_.size();
  }
  s.resize(kept);
}

}  // namespace tutti::tokenizer
