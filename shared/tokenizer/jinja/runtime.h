// The limits of one render, its first error, and the making of values under those limits.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "shared/base/status.h"
#include "shared/tokenizer/jinja/value.h"

namespace tutti::tokenizer::jinja {

// What a template may use. Going past one is RESOURCE_EXHAUSTED.
struct Limits {
  int64_t steps = 20'000'000;                 // evaluated nodes; 64 copied bytes count as one
  int64_t memory_bytes = int64_t{256} << 20;  // values alive at once
  int64_t output_bytes = int64_t{64} << 20;
  int depth = 240;          // nested evaluation: blocks, macros, expressions
  int64_t range = 100'000;  // items of one range(), as Jinja's sandbox has it
};

// Errors are sticky: the first one is kept, and callers unwind when failed() says so. Values made
// after a failure are undefined ones. Thread safety: one render, one thread.
class Runtime {
 public:
  explicit Runtime(const Limits& limits) : limits_(limits) {}
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  const Limits& limits() const { return limits_; }
  bool failed() const { return failed_; }
  const absl::Status& status() const { return status_; }
  int line = 0;  // of the node being evaluated; stands in errors

  // Each returns an undefined value, so that `return rt.Fail(...)` unwinds.
  Value Fail(std::string_view message);  // a wrong operation in the template
  Value FailUndefined(const Value& v) { return Fail(v.hint()); }
  Value Refuse(std::string_view message);  // raise_exception
  Value Exhaust(std::string_view what);    // a limit

  // False (and failed) when the budget is used up.
  bool Step(int64_t n = 1) {
    steps_ += n;
    if (steps_ > limits_.steps) {
      Exhaust("steps");
      return false;
    }
    return !failed_;
  }
  // Before making `bytes` of something.
  bool Room(int64_t bytes) {
    if (bytes > limits_.memory_bytes || memory_ + bytes > limits_.memory_bytes) {
      Exhaust("memory");
      return false;
    }
    return Step(bytes / 64 + 1);
  }
  int64_t memory() const { return memory_; }
  void Hold(int64_t bytes) { memory_ += bytes; }  // text under construction; negative gives back

  Value Str(std::string s);
  Value Str(std::string_view s) { return Str(std::string(s)); }
  Value Str(const char* s) { return Str(std::string(s)); }
  Value Missing(std::string hint);
  Value List(std::vector<Value> items, SeqKind kind = SeqKind::kList);
  Value Tuple(std::vector<Value> items) { return List(std::move(items), SeqKind::kTuple); }
  // Later duplicates of a key win, at the place of the first. Fails on unhashable keys.
  Value Dict(std::vector<std::pair<Value, Value>> entries);

  // Counts an object against the memory of this render.
  void Adopt(Object& object, int64_t bytes);

 private:
  const Limits limits_;
  bool failed_ = false;
  absl::Status status_;
  int64_t steps_ = 0;
  int64_t memory_ = 0;
};

// A string being built under the limits of a render.
class Text {
 public:
  explicit Text(Runtime& rt) : rt_(rt) {}
  ~Text() { rt_.Hold(-held_); }
  Text(const Text&) = delete;
  Text& operator=(const Text&) = delete;

  bool Add(std::string_view s) {
    if (!rt_.Room(static_cast<int64_t>(s.size()))) return false;
    s_.append(s);
    rt_.Hold(static_cast<int64_t>(s.size()));
    held_ += static_cast<int64_t>(s.size());
    return true;
  }
  bool Add(char c) { return Add(std::string_view(&c, 1)); }
  bool Repeat(std::string_view s, int64_t times);
  const std::string& str() const { return s_; }
  std::string Take() {
    rt_.Hold(-held_);
    held_ = 0;
    return std::move(s_);
  }
  Value Done() { return rt_.Str(Take()); }

 private:
  Runtime& rt_;
  std::string s_;
  int64_t held_ = 0;
};

bool IsAscii(std::string_view s);

}  // namespace tutti::tokenizer::jinja
