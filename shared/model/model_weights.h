// The weights of a decoder in memory, packed for the matmul kernels, and how they get there.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "kernels/packed_matrix.h"
#include "shared/model/load.h"
#include "shared/model/registry.h"
#include "shared/weights/model_files.h"

namespace tutti::model {

// y = W x + bias.
struct Linear {
  kernels::PackedMatrix weight;  // [out, in]
  std::vector<float> bias;       // [out], or empty
};

struct NormWeights {
  std::vector<float> gain;  // [n]; empty: there is no such norm
  std::vector<float> bias;  // [n] with LayerNorm; else empty
};

struct FfnWeights {
  Linear gate;  // gated only
  Linear up, down;
};

// Of a layer that is a mixture.
struct MoeWeights {
  kernels::PackedMatrix router;    // [experts, hidden] of a float type
  std::vector<float> choice_bias;  // [experts], or empty
  // Empty when all run elsewhere; one that does while others stay has no rows.
  std::vector<FfnWeights> experts;
  // What experts read of a row, wherever they run.
  bool experts_read_f32 = false, experts_read_quantized = false;
  FfnWeights shared;                    // when there is a shared expert
  kernels::PackedMatrix shared_router;  // [1, hidden] of a float type, or empty
};

// Of a layer with latent attention.
struct LatentWeights {
  Linear q_a;  // where queries have a latent vector
  NormWeights q_a_norm;
  Linear kv_a;  // [kv_rank + rope_dim, hidden]
  NormWeights kv_a_norm;
  // Per head: into the latent space [kv_rank, nope_dim], and out of it [value_dim, kv_rank].
  std::vector<kernels::PackedMatrix> into, out_of;
};

struct LayerWeights {
  NormWeights attn_norm, attn_post_norm, q_norm, k_norm;
  Linear q, k, v, attn_out;  // fused tensors of a file are cut into these
  LatentWeights latent;      // instead of k and v
  NormWeights ffn_norm, ffn_post_norm;
  FfnWeights ffn;  // of a dense layer
  MoeWeights moe;
};

struct ModelWeights {
  kernels::PackedMatrix embedding;  // [vocabulary, hidden]; also the output when tied
  kernels::PackedMatrix output;     // [vocabulary, hidden]; empty when tied
  kernels::PackedMatrix positions;  // [context, hidden] with learned positions
  NormWeights final_norm;
  std::vector<LayerWeights> layers;

  size_t bytes() const;  // of all packed matrices
};

// What a shard and its callers must know of a model's experts.
struct ExpertDescription {
  std::string name;
  uint64_t fingerprint = 0;  // ExpertFingerprint
  int64_t hidden = 0;
  int num_layers = 0, experts_per_layer = 0;
  bool reads_f32 = false, reads_quantized = false;
  kernels::Activation activation = kernels::Activation::kSilu;
  std::vector<int> layers;   // [num_layers] layer of the model
  int64_t expert_bytes = 0;  // of the largest one in memory
};
// A model's files, opened to load single experts.
struct ExpertFiles {
  std::shared_ptr<const weights::ModelFiles> files;
  ParsedModel model;
  ExpertDescription experts;
};
// Reads no weights. Errors: as LoadDecoder; INVALID_ARGUMENT  the model has no experts
absl::StatusOr<ExpertFiles> OpenExperts(const std::string& path, int ffn_slices);

// One routed expert alone, for a shard that loads what it is asked for. `layer` is a layer of the
// model that is a mixture. Errors: as LoadWeights; INVALID_ARGUMENT names a wrong layer or expert.
absl::StatusOr<FfnWeights> LoadExpert(const weights::ModelFiles& files, const ParsedModel& model,
                                      int layer, int expert);

// Packs every tensor of the model, in parallel over tensors, letting go of the file's pages behind
// it. Of a packed directory: borrows every matrix from the mapped files, and reads them once to
// compare checksums, in parallel over ranges.
// Errors: INVALID_ARGUMENT  names a tensor that is missing, or has the wrong shape or type
//         DATA_LOSS         names a range of a packed directory whose checksum differs
absl::StatusOr<ModelWeights> LoadWeights(const weights::ModelFiles& files, const ParsedModel& model,
                                         const LoadOptions& options);

}  // namespace tutti::model
