// What is inside a model's files, for people and for scripts. Reads headers only, no weights.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "shared/weights/model_files.h"

namespace tutti::weights {

struct Inspection {
  std::string path;
  std::string format;        // "GGUF", "safetensors", "packed from GGUF", "packed from safetensors"
  std::string name;          // "" when the files give none
  std::string architecture;  // "" when the files give none
  int num_files = 0;
  uint64_t file_bytes = 0;
  uint64_t num_parameters = 0;

  // Sizes that the configuration gives, in the order to be shown; 0 and absent ones are left out.
  // Keys: layers, hidden_size, heads, kv_heads, head_dim, ffn_size, experts, experts_per_token,
  // vocabulary, context_tokens, sliding_window.
  std::vector<std::pair<std::string, int64_t>> dimensions;

  struct Amount {
    std::string name;
    int num_tensors = 0;
    uint64_t num_elements = 0;
    uint64_t bytes = 0;
  };
  std::vector<Amount> types;  // per element type, most bytes first
  std::vector<Amount>
      parts;  // embeddings, attention, ffn, experts, norms, output, other; empty ones left out
  bool tied_output = false;  // no output matrix of its own: the embeddings serve

  std::string tokenizer;  // kind, "" when there is none: "gpt2 (smollm)", "BPE"
  int64_t tokenizer_size = 0;
  std::string chat_template;  // its source, "" when there is none

  uint64_t kv_bytes_per_token = 0;  // K and V in F16 over all layers; 0 when dimensions are missing
};

Inspection Inspect(const ModelFiles& files);

// Keys as the fields; `dimensions` an object, `types` and `parts` arrays of objects.
nlohmann::json ToJson(const Inspection& inspection);
// Lines for a terminal, with the first lines of the chat template.
std::string ToText(const Inspection& inspection);

// "98.4 MB", "30 B": powers of 1000.
std::string HumanBytes(uint64_t bytes);

}  // namespace tutti::weights
