// A tiny Llama as a GGUF image, for this room's tests: right by default, with a hook to spoil it.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "shared/base/philox.h"
#include "shared/testing/model_writer.h"

namespace tutti::model {

struct TinyLlama {
  int64_t layers = 2, hidden = 32, ffn = 64, heads = 4, kv_heads = 2, vocab = 48, context = 64;
  uint32_t eos = 2;
  std::string architecture = "llama";
  // Called with each tensor before it is written.
  std::function<void(const std::string& name, std::vector<int64_t>& shape,
                     std::vector<float>& values)>
      spoil;
  std::string skip;  // a tensor left out
  std::function<void(testing::GgufWriter&)> more_metadata;

  std::string Image() const {
    testing::GgufWriter w;
    w.String("general.architecture", architecture).String("general.name", "tiny");
    const auto u32 = [&](const char* key, int64_t v) {
      w.U32(architecture + "." + key, static_cast<uint32_t>(v));
    };
    u32("block_count", layers);
    u32("context_length", context);
    u32("embedding_length", hidden);
    u32("feed_forward_length", ffn);
    u32("attention.head_count", heads);
    u32("attention.head_count_kv", kv_heads);
    w.F32(architecture + ".attention.layer_norm_rms_epsilon", 1e-5f);
    w.U32("tokenizer.ggml.eos_token_id", eos);
    if (more_metadata) more_metadata(w);
    uint32_t stream = 0;
    const auto put = [&](const std::string& name, std::vector<int64_t> shape) {
      int64_t n = 1;
      for (int64_t d : shape) n *= d;
      std::vector<float> values(static_cast<size_t>(n), 1.0f);
      if (shape.size() == 2) {
        for (int64_t i = 0; i < n; ++i) {
          const auto block = Philox4x32(3, {static_cast<uint32_t>(i), stream, 0, 0});
          values[static_cast<size_t>(i)] = UnitUniform(block[0]) - 0.5f;
        }
      }
      ++stream;
      if (spoil) spoil(name, shape, values);
      if (name != skip) w.Tensor(name, shape, values);
    };
    const int64_t kv = hidden / heads * kv_heads;
    put("token_embd.weight", {vocab, hidden});
    put("output_norm.weight", {hidden});
    for (int64_t i = 0; i < layers; ++i) {
      const std::string b = "blk." + std::to_string(i) + ".";
      put(b + "attn_norm.weight", {hidden});
      put(b + "ffn_norm.weight", {hidden});
      put(b + "attn_q.weight", {hidden, hidden});
      put(b + "attn_k.weight", {kv, hidden});
      put(b + "attn_v.weight", {kv, hidden});
      put(b + "attn_output.weight", {hidden, hidden});
      put(b + "ffn_gate.weight", {ffn, hidden});
      put(b + "ffn_up.weight", {ffn, hidden});
      put(b + "ffn_down.weight", {hidden, ffn});
    }
    return w.Image();
  }
};

}  // namespace tutti::model
