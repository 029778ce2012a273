// Any pattern, a zero byte, any text: an error or a search that ends in steps in proportion to the
// text, whose matches follow each other.
#include <string_view>

#include "shared/tokenizer/regex/program.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using tutti::tokenizer::regex::Program;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t zero = input.find('\0');
  const std::string_view pattern = input.substr(0, zero);
  if (pattern.size() > 1000) return 0;
  const auto program = Program::Compile(pattern);
  if (!program.ok() || zero == std::string_view::npos) return 0;
  const std::string_view text = input.substr(zero + 1);
  Program::Search search(**program, text);
  size_t begin, end, before = 0;
  while (search.Next(&begin, &end)) {
    if (begin < before || end < begin || end > text.size()) __builtin_trap();
    before = end;
  }
  if (search.steps() > 16 * ((*program)->num_instructions() + 4) * (text.size() + 4))
    __builtin_trap();
  return 0;
}
