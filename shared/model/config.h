// What a dense decoder is, as data: every family of shared/model is one ModelConfig plus the
// forward pass of transformer.h. Two families that differ only by options share every line of
// arithmetic.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/kernels.h"
#include "shared/base/status.h"
#include "shared/moe/gating.h"

namespace tutti::model {

// Rotary position embedding (Su et al., arXiv:2104.09864) and its stretched forms.
struct RopeConfig {
  enum class Scaling : uint8_t { kNone, kLinear, kLlama3, kYarn };

  double theta = 10000.0;
  Scaling scaling = Scaling::kNone;
  double factor = 1.0;            // all but kNone: how far the context was stretched
  double original_context = 0;    // kLlama3, kYarn: the context before that, in tokens
  double low_freq_factor = 1.0;   // kLlama3
  double high_freq_factor = 4.0;  // kLlama3
  double beta_fast = 32.0;        // kYarn
  double beta_slow = 1.0;         // kYarn
  bool truncate = true;           // kYarn: round the correction range to whole dimensions
  double attention_factor = 1.0;  // multiplies cos and sin (kYarn)
  std::vector<double>
      divisors;  // GGUF `rope_freqs`: frequency i is divided by divisors[i]; or empty
};

// DeepSeek's multi-head latent attention (V2, arXiv:2405.04434, section 2.1): of a position the
// cache keeps one latent vector, from which keys and values of all heads are made, and one turned
// key that all heads share. Here it is always the absorbed form: a head's query is taken into the
// latent space and its output out of it, so attention runs over [latent, turned key] as over one KV
// head whose values are the first `kv_rank` dimensions of its keys (docs/decisions/0035).
struct LatentConfig {
  int kv_rank = 0;   // 0: plain attention
  int q_rank = 0;    // queries are made from a latent vector of their own; 0: from the hidden state
  int nope_dim = 0;  // of a head's query and key before absorption: without position,
  int rope_dim = 0;  // and turned by it
  int value_dim = 0;       // of a head's output
  float norm_eps = 1e-6f;  // of the norms of the latent vectors
};

enum class NormKind : uint8_t { kRms, kLayer };

// Where a sublayer f normalises: kPre x + f(norm(x)); kPost norm(x + f(x)) (the original GPT);
// kSandwich x + norm(f(norm(x))) (Gemma 2 and 3).
enum class NormPlacement : uint8_t { kPre, kPost, kSandwich };

struct ModelConfig {
  std::string architecture;  // "llama", "qwen3", ...
  std::string name;          // for people; not part of the fingerprint

  // Dimensions.
  int num_layers = 0, hidden_size = 0, ffn_size = 0, vocab_size = 0;
  int num_heads = 0, num_kv_heads = 0, head_dim = 0;
  int context_tokens = 0;

  // Blocks.
  NormKind norm = NormKind::kRms;
  NormPlacement placement = NormPlacement::kPre;
  float norm_eps = 1e-6f;
  float norm_gain_offset = 0.0f;  // Gemma keeps gains as w with (1 + w) meant
  bool final_norm = true;
  kernels::Activation activation = kernels::Activation::kSilu;
  bool gated_ffn = true;  // f(gate) * up, else f(up)
  bool qkv_bias = false, attn_out_bias = false, ffn_bias = false;
  bool tied_embeddings = false;
  float embedding_scale = 1.0f;  // Gemma: sqrt(hidden_size)
  float logit_softcap = 0.0f;    // 0: none

  // Mixture of experts; gating.num_experts == 0: none. `ffn_size` is then of the dense layers.
  moe::GatingOptions gating;
  int expert_ffn_size = 0;
  int shared_ffn_size = 0;      // an expert that every row sees; 0: none
  bool shared_gate = false;     // scaled by a sigmoid of its own (Qwen2-MoE)
  bool choice_bias = false;     // DeepSeek-V3: see moe::Route
  std::vector<bool> layer_moe;  // [num_layers] which layers are mixtures, when there are any

  // A dense FFN cut along ffn_size into so many experts that every row sees (docs/determinism.md,
  // "Mixture of experts"), which may run elsewhere; 0: the layer itself. Not in any file: it is
  // chosen with LoadOptions. 1 gives the bits, and the fingerprint, of 0.
  int ffn_slices = 0;

  // [num_layers] which layer of the files each one is; empty: all of them, in order. Not in any
  // file: it is chosen with LoadOptions (skip_layers.h).
  std::vector<int> file_layers;

  // Attention.
  // With latent attention num_kv_heads is 1 and head_dim is kv_rank + rope_dim: what kernels and
  // pages see.
  LatentConfig latent;
  float attention_scale = 0.0f;    // multiplies q . k
  float attention_softcap = 0.0f;  // 0: none
  bool qk_norm = false;            // RMSNorm over each head of q and k, before RoPE
  bool qk_norm_whole = false;      // over all heads together (OLMoE)
  float qkv_clip = 0.0f;           // q, k and v are clamped to [-clip, clip] before RoPE; 0: not
  int sliding_window = 0;          // a row sees this many positions, itself included; 0: all
  std::vector<bool> layer_slides;  // [num_layers] which layers have the window

  // Positions.
  bool learned_positions = false;  // a table added to the embeddings; else RoPE
  int rotary_dim = 0;  // the first `rotary_dim` of each head turn; 0 with learned positions
  bool rope_interleaved = false;  // pairs (2i, 2i + 1) instead of (i, i + rotary_dim / 2)
  RopeConfig rope;
  bool has_local_rope = false;  // Gemma 3: layers with the window have a RoPE of their own
  RopeConfig local_rope;

  // Ends of a generation. The first `num_keyed_eos` stand in the files under a key; the others are
  // control tokens known by their names, which follow from the content: they are not part of the
  // fingerprint.
  std::vector<int32_t> eos_ids;
  size_t num_keyed_eos = SIZE_MAX;  // more than there are: all of them

  // What was left out or decided while parsing, for people; not part of the fingerprint.
  std::vector<std::string> notes;

  int FileLayer(int layer) const {
    return file_layers.empty() ? layer : file_layers[static_cast<size_t>(layer)];
  }
  bool is_moe(int layer) const { return gating.num_experts > 0 && layer_moe[layer]; }
  int num_moe_layers() const {
    return gating.num_experts > 0
               ? static_cast<int>(std::count(layer_moe.begin(), layer_moe.end(), true))
               : 0;
  }
  // Layers whose FFN is made of experts, chosen ones or slices; `moe_layer` counts these alone.
  bool has_experts(int layer) const { return ffn_slices > 0 || is_moe(layer); }
  int num_expert_layers() const { return ffn_slices > 0 ? num_layers : num_moe_layers(); }
  int experts_per_layer() const { return ffn_slices > 0 ? ffn_slices : gating.num_experts; }
  // Slice s has the FFN's units [SliceBegin(s), SliceBegin(s + 1)), multiples of kSliceUnit.
  static constexpr int kSliceUnit = 256;
  int SliceBegin(int slice) const {
    const int units = (ffn_size + kSliceUnit - 1) / kSliceUnit;
    return slice == ffn_slices ? ffn_size : slice * units / ffn_slices * kSliceUnit;
  }
  bool is_latent() const { return latent.kv_rank > 0; }
  // What a page keeps as a position's value; 0: it is part of the key.
  int page_value_dim() const { return is_latent() ? 0 : head_dim; }
  int q_size() const { return num_heads * head_dim; }
  // Of the input of the output projection.
  int attn_size() const { return num_heads * (is_latent() ? latent.value_dim : head_dim); }
  int kv_size() const { return num_kv_heads * head_dim; }

  // Bounds on every dimension and the relations between them, so that no product below overflows.
  // Errors: INVALID_ARGUMENT names the field, its value and what would be right
  absl::Status Validate() const;

  // Every field that changes an answer, as text with floats by their bits: what is hashed into the
  // fingerprint. Determinism: exact.
  std::string CanonicalText() const;
};

// Names of tensors without ".weight" and ".bias"; "{}" stands for the layer. An empty name: the
// model has no such tensor. Either q, k, v or qkv, and either gate, up or gate_up, are set.
struct TensorNames {
  std::string prefix;  // put in front of all but `output`
  std::string embedding, positions, final_norm, output;
  std::string attn_norm, attn_post_norm, q, k, v, qkv, attn_out, q_norm, k_norm;
  // Latent attention: `q` then makes heads [nope, rope], from q_a where there is one; either kv_b
  // [heads, nope + value, rank] or k_b [heads, rank, nope] and v_b [heads, value, rank].
  std::string q_a, q_a_norm, kv_a, kv_a_norm, kv_b, k_b, v_b;
  std::string ffn_norm, ffn_post_norm, gate, up, gate_up, down;
  // Mixtures. "{e}" stands for the expert; without it all experts of a layer are one tensor
  // [experts, out, in].
  std::string router, choice_bias, expert_gate, expert_up, expert_down;
  std::string shared_gate, shared_up, shared_down, shared_router;
  bool transposed = false;  // matrices of a block are stored [in, out] (GPT-2's Conv1D)
};

}  // namespace tutti::model
