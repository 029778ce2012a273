// Methods of Python's str, dict, list and tuple, and of `loop`.
#pragma once

#include <string_view>

#include "shared/tokenizer/jinja/runtime.h"
#include "shared/tokenizer/jinja/value.h"

namespace tutti::tokenizer::jinja {

bool HasMethod(const Value& v, std::string_view name);
// Methods that exist in Python but change their object, which the sandbox forbids.
bool ChangesObject(const Value& v, std::string_view name);

// The method as a value. REQUIRES: HasMethod, or a loop's cycle and changed.
Value BindMethod(Runtime& rt, const Value& self, std::string_view name);
// REQUIRES: `function` came from BindMethod.
Value CallMethod(Runtime& rt, const Value& function, const CallArgs& args);

// Arguments of a call by position or name, for functions that Python gives these parameters.
class BoundArgs {
 public:
  // Fails on too many or unknown arguments, and on fewer than `required`.
  BoundArgs(Runtime& rt, std::string_view function, const CallArgs& args,
            std::initializer_list<std::string_view> names, size_t required = 0);
  // Null when not given.
  const Value* operator[](size_t i) const { return slots_[i]; }
  bool given(size_t i) const { return slots_[i] != nullptr; }
  // Each fails when the value is of another kind; `fallback` when it is not given.
  int64_t Int(size_t i, int64_t fallback) const;
  bool Bool(size_t i, bool fallback) const;
  std::string_view Text(size_t i, std::string_view fallback) const;

 private:
  static constexpr size_t kMax = 8;
  Runtime& rt_;
  std::string_view function_;
  const Value* slots_[kMax] = {};
};

}  // namespace tutti::tokenizer::jinja
