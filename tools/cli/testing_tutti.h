// For tests: the command line in this process, and a model that it can talk to.
#pragma once

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "shared/model/testing_llama.h"
#include "shared/tokenizer/byte_alphabet.h"
#include "tools/cli/commands.h"

namespace tutti::cli {

struct Result {
  int code;
  std::string out, err;
  nlohmann::json Json() const { return nlohmann::json::parse(out, nullptr, false); }
};
inline Result RunTutti(std::vector<std::string> args) {
  args.insert(args.begin(), "tutti");
  std::vector<char*> argv;
  for (auto& a : args) argv.push_back(a.data());
  ::testing::internal::CaptureStdout();
  ::testing::internal::CaptureStderr();
  Result r{Main(static_cast<int>(argv.size()), argv.data())};
  r.out = ::testing::internal::GetCapturedStdout();
  r.err = ::testing::internal::GetCapturedStderr();
  return r;
}

// The UTF-8 of a code point below U+0800.
inline std::string Utf8(uint16_t c) {
  if (c < 0x80) return std::string(1, static_cast<char>(c));
  return {static_cast<char>(0xC0 | (c >> 6)), static_cast<char>(0x80 | (c & 63))};
}

// `tiny` as a GGUF file that reads bytes.
inline std::string ByteLlama(model::TinyLlama tiny, bool with_tokenizer = true) {
  tiny.vocab = 256;
  tiny.more_metadata = [&](testing::GgufWriter& w) {
    if (!with_tokenizer) return;
    std::vector<std::string> tokens;
    for (const uint16_t c : tokenizer::Alphabet().char_of) tokens.push_back(Utf8(c));
    w.String("tokenizer.ggml.model", "gpt2").String("tokenizer.ggml.pre", "gpt-2");
    w.Strings("tokenizer.ggml.tokens", tokens).Strings("tokenizer.ggml.merges", {});
  };
  return tiny.Image();
}

}  // namespace tutti::cli
