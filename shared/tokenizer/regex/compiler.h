// From a pattern's tree to the instructions of a Program.
#pragma once

#include <vector>

#include "shared/tokenizer/regex/program.h"

namespace tutti::tokenizer::regex {

class Compiler {
 public:
  explicit Compiler(Program* program) : program_(*program) {}
  absl::Status Run(const Node& root);

 private:
  using Op = Program::Op;
  // What a node's matches begin with; `empty`: it may match without taking a character.
  struct First {
    CharSet set;
    bool empty = false;
  };

  int32_t Here() const { return static_cast<int32_t>(program_.code_.size()); }
  int32_t Add(Op op, int32_t a = 0, int32_t b = 0);
  int32_t AddChoice(Op op, int32_t a = 0, int32_t b = 0);
  int32_t SetId(const CharSet& set);
  First FirstOf(const Node& node) const;
  absl::Status Emit(const Node& node);
  absl::Status EmitChoice(const Node& node);
  absl::Status EmitRepeat(const Node& node);
  absl::Status EmitLook(const Node& node);
  absl::Status EmitAtomic(const Node& node);
  // Up to `times` optional ones.
  absl::Status EmitOptional(const Node& kid, int times, bool lazy);
  absl::Status Sequences(const Node& node, Program::Sequences* out);

  Program& program_;
  std::vector<CharSet> sets_;
  bool in_atomic_ = false;
  size_t num_emitted_ = 0;  // nodes, which may be empty
};

}  // namespace tutti::tokenizer::regex
