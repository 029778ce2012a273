// Values that can be called, and the `loop` object.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "shared/tokenizer/jinja/ast.h"
#include "shared/tokenizer/jinja/value.h"

namespace tutti::tokenizer::jinja {

// The variables of one block; lookups go outwards.
struct Scope {
  std::map<std::string, Value, std::less<>> variables;
  std::shared_ptr<Scope> parent;
};

// A macro (with the scope it was written in), a method bound to its receiver, or a global function.
struct FunctionObject : Object {
  const Statement* macro = nullptr;
  std::shared_ptr<Scope> scope;  // macros
  std::string name;              // methods and globals
  Value self;                    // methods
  bool is_macro() const { return macro != nullptr; }
  bool is_method = false;
};

struct LoopObject : Object {
  std::vector<Value> items;
  size_t index = 0;     // 0-based, of the current item
  int value_depth = 1;  // nesting of what it holds
  bool has_last_changed = false;
  std::vector<Value> last_changed;  // arguments of the last loop.changed()
  bool ended = false;               // keeps nothing new then, so it cannot come to hold itself
};

}  // namespace tutti::tokenizer::jinja
