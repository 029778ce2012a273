#include "shared/model/weight_parts.h"

#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "shared/base/strings.h"
#include "shared/model/strict.h"

namespace tutti::model {
namespace {

class Walk {
 public:
  Walk(const weights::ModelFiles& files, const ParsedModel& model)
      : files_(files), config_(model.config), names_(model.names) {}

  absl::StatusOr<WeightParts> Run(ModelWeights* w);
  absl::StatusOr<WeightParts> RunExperts(int index, MoeWeights* w) {
    TUTTI_RETURN_IF_ERROR(config_.is_moe(index) ? Experts(index, w) : Slices(index, w));
    return std::move(parts_);
  }

 private:
  std::string NameAt(const std::string& pattern, int layer) const {
    return names_.prefix +
           absl::StrReplaceAll(pattern, {{"{}", absl::StrCat(config_.FileLayer(layer))}});
  }
  absl::StatusOr<const weights::TensorInfo*> Find(const std::string& name,
                                                  std::vector<int64_t> shape);
  absl::Status Vector(const std::string& name, int64_t begin, int64_t size, int64_t stored,
                      std::vector<float>* out);
  // Cuts the matrix `name` [sum of rows, cols], and its bias, into `parts`.
  struct Part {
    Linear* out;
    int64_t rows;
  };
  absl::Status Linears(const std::string& name, std::vector<Part> parts, int64_t cols, bool bias);
  absl::Status Matrix(const std::string& name, int64_t rows, int64_t cols,
                      kernels::PackedMatrix* out);
  absl::Status Norm(const std::string& pattern, int layer, int64_t size, NormWeights* out);
  absl::Status Attention(int index, LayerWeights* out);
  absl::Status LatentAttention(int index, LayerWeights* out);
  absl::Status Ffn(int index, LayerWeights* out);
  absl::Status Slices(int index, MoeWeights* out);
  absl::Status Moe(int index, LayerWeights* out);
  absl::Status Experts(int index, MoeWeights* out);
  absl::Status FloatMatrix(const std::string& name, int64_t rows, int64_t cols,
                           kernels::PackedMatrix* out);

  size_t Range() const { return parts_.ranges.size() - 1; }  // of the parts being found

  const weights::ModelFiles& files_;
  const ModelConfig& config_;
  const TensorNames& names_;
  WeightParts parts_;
  std::set<std::string_view> used_;  // names of the tensors found
};

absl::StatusOr<const weights::TensorInfo*> Walk::Find(const std::string& name,
                                                      std::vector<int64_t> shape) {
  const weights::TensorInfo* tensor = files_.Find(name);
  if (tensor == nullptr)
    return absl::InvalidArgumentError(absl::StrCat("tensor ", Printable(name), " is missing"));
  if (tensor->shape != shape) {
    return absl::InvalidArgumentError(absl::StrCat("tensor ", Printable(name), ": shape [",
                                                   absl::StrJoin(tensor->shape, ", "),
                                                   "] must be [", absl::StrJoin(shape, ", "), "]"));
  }
  used_.insert(tensor->name);
  return tensor;
}

absl::Status Walk::Vector(const std::string& name, int64_t begin, int64_t size, int64_t stored,
                          std::vector<float>* out) {
  TUTTI_ASSIGN_OR_RETURN(const weights::TensorInfo* t, Find(name, {stored}));
  const DTypeTraits& traits = Traits(t->dtype);
  if (traits.quantized) {
    return absl::InvalidArgumentError(absl::StrCat(
        "tensor ", Printable(name), ": type ", ToAbsl(traits.name), " must be F32, F16 or BF16"));
  }
  parts_.vectors.push_back({t, begin, size, out, Range()});
  return absl::OkStatus();
}

absl::Status Walk::Linears(const std::string& name, std::vector<Part> parts, int64_t cols,
                           bool bias) {
  int64_t all_rows = 0;
  for (const Part& part : parts) all_rows += part.rows;
  const std::string weight = name + ".weight";
  const std::vector<int64_t> shape = names_.transposed ? std::vector<int64_t>{cols, all_rows}
                                                       : std::vector<int64_t>{all_rows, cols};
  TUTTI_ASSIGN_OR_RETURN(const weights::TensorInfo* t, Find(weight, shape));
  if (names_.transposed && Traits(t->dtype).quantized) {
    return absl::InvalidArgumentError(absl::StrCat(
        "tensor ", Printable(weight), ": stored [in, out], so it must be F32, F16 or BF16"));
  }
  int64_t row = 0;
  for (const Part& part : parts) {
    const size_t bytes =
        t->StoredBytes() / static_cast<size_t>(all_rows) * static_cast<size_t>(part.rows);
    parts_.matrices.push_back(
        {t, row, part.rows, cols, names_.transposed, &part.out->weight, bytes, Range()});
    if (bias)
      TUTTI_RETURN_IF_ERROR(Vector(name + ".bias", row, part.rows, all_rows, &part.out->bias));
    row += part.rows;
  }
  return absl::OkStatus();
}

absl::Status Walk::Matrix(const std::string& name, int64_t rows, int64_t cols,
                          kernels::PackedMatrix* out) {
  TUTTI_ASSIGN_OR_RETURN(const weights::TensorInfo* t, Find(name, {rows, cols}));
  parts_.matrices.push_back({t, 0, rows, cols, false, out, t->StoredBytes(), Range()});
  return absl::OkStatus();
}

absl::Status Walk::Norm(const std::string& pattern, int layer, int64_t size, NormWeights* out) {
  if (pattern.empty()) return absl::OkStatus();
  const std::string name = NameAt(pattern, layer);
  TUTTI_RETURN_IF_ERROR(Vector(name + ".weight", 0, size, size, &out->gain));
  if (config_.norm == NormKind::kLayer)
    TUTTI_RETURN_IF_ERROR(Vector(name + ".bias", 0, size, size, &out->bias));
  return absl::OkStatus();
}

absl::Status Walk::Attention(int index, LayerWeights* out) {
  parts_.ranges.push_back(absl::StrCat("layers.", config_.FileLayer(index), ".attention"));
  const ModelConfig& c = config_;
  TUTTI_RETURN_IF_ERROR(Norm(names_.attn_norm, index, c.hidden_size, &out->attn_norm));
  TUTTI_RETURN_IF_ERROR(Norm(names_.attn_post_norm, index, c.hidden_size, &out->attn_post_norm));
  TUTTI_RETURN_IF_ERROR(
      Norm(names_.q_norm, index, c.qk_norm_whole ? c.q_size() : c.head_dim, &out->q_norm));
  TUTTI_RETURN_IF_ERROR(
      Norm(names_.k_norm, index, c.qk_norm_whole ? c.kv_size() : c.head_dim, &out->k_norm));
  if (c.is_latent()) return LatentAttention(index, out);
  const auto linears = [&](const std::string& pattern, std::vector<Part> parts, int64_t cols,
                           bool bias) {
    return Linears(NameAt(pattern, index), std::move(parts), cols, bias);
  };
  if (!names_.qkv.empty()) {
    TUTTI_RETURN_IF_ERROR(
        linears(names_.qkv, {{&out->q, c.q_size()}, {&out->k, c.kv_size()}, {&out->v, c.kv_size()}},
                c.hidden_size, c.qkv_bias));
  } else {
    TUTTI_RETURN_IF_ERROR(linears(names_.q, {{&out->q, c.q_size()}}, c.hidden_size, c.qkv_bias));
    TUTTI_RETURN_IF_ERROR(linears(names_.k, {{&out->k, c.kv_size()}}, c.hidden_size, c.qkv_bias));
    TUTTI_RETURN_IF_ERROR(linears(names_.v, {{&out->v, c.kv_size()}}, c.hidden_size, c.qkv_bias));
  }
  return linears(names_.attn_out, {{&out->attn_out, c.hidden_size}}, c.q_size(), c.attn_out_bias);
}

absl::Status Walk::LatentAttention(int index, LayerWeights* out) {
  const ModelConfig& c = config_;
  const LatentConfig& l = c.latent;
  LatentWeights& w = out->latent;
  const auto linear = [&](const std::string& pattern, Linear* to, int64_t rows, int64_t cols,
                          bool bias) {
    return Linears(NameAt(pattern, index), {{to, rows}}, cols, bias);
  };
  int64_t q_cols = c.hidden_size;
  if (l.q_rank > 0) {
    TUTTI_RETURN_IF_ERROR(linear(names_.q_a, &w.q_a, l.q_rank, c.hidden_size, false));
    TUTTI_RETURN_IF_ERROR(Norm(names_.q_a_norm, index, l.q_rank, &w.q_a_norm));
    q_cols = l.q_rank;
  }
  const int64_t heads = c.num_heads, rank = l.kv_rank, nope = l.nope_dim, value = l.value_dim;
  TUTTI_RETURN_IF_ERROR(linear(names_.q, &out->q, heads * (nope + l.rope_dim), q_cols, false));
  TUTTI_RETURN_IF_ERROR(linear(names_.kv_a, &w.kv_a, rank + l.rope_dim, c.hidden_size, false));
  TUTTI_RETURN_IF_ERROR(Norm(names_.kv_a_norm, index, rank, &w.kv_a_norm));

  w.into.resize(static_cast<size_t>(heads));
  w.out_of.resize(static_cast<size_t>(heads));
  const bool joint = !names_.kv_b.empty();
  const std::string k_name = NameAt(joint ? names_.kv_b : names_.k_b, index) + ".weight";
  const weights::TensorInfo *k, *v;
  if (joint) {
    TUTTI_ASSIGN_OR_RETURN(k, Find(k_name, {heads * (nope + value), rank}));
    v = k;
  } else {
    TUTTI_ASSIGN_OR_RETURN(k, Find(k_name, {heads, rank, nope}));
    TUTTI_ASSIGN_OR_RETURN(v, Find(NameAt(names_.v_b, index) + ".weight", {heads, value, rank}));
  }
  const auto bytes = [&](const weights::TensorInfo* t) {
    return t->StoredBytes() / static_cast<size_t>(joint ? 2 * heads : heads);
  };
  for (int64_t h = 0; h < heads; ++h) {
    kernels::PackedMatrix *into = &w.into[static_cast<size_t>(h)],
                          *out_of = &w.out_of[static_cast<size_t>(h)];
    const int64_t first = h * (nope + value);  // of kv_b
    if (joint) {
      parts_.matrices.push_back(
          {k, 0, rank, nope, /*transposed=*/true, into, bytes(k), Range(), first});
    } else {
      parts_.matrices.push_back({k, h * rank, rank, nope, false, into, bytes(k), Range()});
    }
    parts_.matrices.push_back(
        {v, joint ? first + nope : h * value, value, rank, false, out_of, bytes(v), Range()});
  }
  return linear(names_.attn_out, &out->attn_out, c.hidden_size, c.attn_size(), c.attn_out_bias);
}

absl::Status Walk::Ffn(int index, LayerWeights* out) {
  parts_.ranges.push_back(FfnRangeName(config_, index));
  const ModelConfig& c = config_;
  TUTTI_RETURN_IF_ERROR(Norm(names_.ffn_norm, index, c.hidden_size, &out->ffn_norm));
  TUTTI_RETURN_IF_ERROR(Norm(names_.ffn_post_norm, index, c.hidden_size, &out->ffn_post_norm));
  if (c.is_moe(index)) return Moe(index, out);
  if (c.ffn_slices > 0) return Slices(index, &out->moe);
  const auto linears = [&](const std::string& pattern, std::vector<Part> parts, int64_t cols,
                           bool bias) {
    return Linears(NameAt(pattern, index), std::move(parts), cols, bias);
  };
  FfnWeights& ffn = out->ffn;
  if (!names_.gate_up.empty()) {
    TUTTI_RETURN_IF_ERROR(linears(names_.gate_up, {{&ffn.gate, c.ffn_size}, {&ffn.up, c.ffn_size}},
                                  c.hidden_size, c.ffn_bias));
  } else {
    if (c.gated_ffn) {
      TUTTI_RETURN_IF_ERROR(
          linears(names_.gate, {{&ffn.gate, c.ffn_size}}, c.hidden_size, c.ffn_bias));
    }
    TUTTI_RETURN_IF_ERROR(linears(names_.up, {{&ffn.up, c.ffn_size}}, c.hidden_size, c.ffn_bias));
  }
  return linears(names_.down, {{&ffn.down, c.hidden_size}}, c.ffn_size, c.ffn_bias);
}

// Slices of a dense FFN: rows of gate and up, columns of down.
absl::Status Walk::Slices(int index, MoeWeights* out) {
  const ModelConfig& c = config_;
  if (names_.transposed)
    return absl::InvalidArgumentError("ffn_slices: matrices are stored [in, out] in this family");
  const bool fused = !names_.gate_up.empty();
  const auto find = [&](const std::string& pattern, int64_t rows, int64_t cols) {
    return Find(NameAt(pattern, index) + ".weight", {rows, cols});
  };
  const int64_t ffn = c.ffn_size, hidden = c.hidden_size;
  TUTTI_ASSIGN_OR_RETURN(
      const weights::TensorInfo* gate,
      fused ? find(names_.gate_up, 2 * ffn, hidden) : find(names_.gate, ffn, hidden));
  const weights::TensorInfo* up = gate;
  if (!fused) {
    TUTTI_ASSIGN_OR_RETURN(up, find(names_.up, ffn, hidden));
  }
  TUTTI_ASSIGN_OR_RETURN(const weights::TensorInfo* down, find(names_.down, hidden, ffn));
  for (const weights::TensorInfo* t : {gate, up})
    (Traits(t->dtype).quantized ? out->experts_read_quantized : out->experts_read_f32) = true;
  out->experts.resize(static_cast<size_t>(c.ffn_slices));
  for (int s = 0; s < c.ffn_slices; ++s) {
    parts_.ranges.push_back(ExpertRangeName(config_, index, s));
    const int64_t begin = c.SliceBegin(s), size = c.SliceBegin(s + 1) - begin;
    FfnWeights& w = out->experts[static_cast<size_t>(s)];
    const auto bytes = [&](const weights::TensorInfo* t) {
      return t->StoredBytes() / static_cast<size_t>(c.ffn_slices) / (t == up && fused ? 2 : 1);
    };
    parts_.matrices.push_back(
        {gate, begin, size, hidden, false, &w.gate.weight, bytes(gate), Range()});
    parts_.matrices.push_back(
        {up, begin + (fused ? ffn : 0), size, hidden, false, &w.up.weight, bytes(up), Range()});
    parts_.matrices.push_back(
        {down, 0, hidden, size, false, &w.down.weight, bytes(down), Range(), begin, ffn});
    for (auto part = parts_.matrices.end() - 3; part != parts_.matrices.end(); ++part)
      part->slice = true;
  }
  return absl::OkStatus();
}

// One row [cols] may be stored as a vector.
absl::Status Walk::FloatMatrix(const std::string& name, int64_t rows, int64_t cols,
                               kernels::PackedMatrix* out) {
  const weights::TensorInfo* tensor = files_.Find(name);
  const bool is_row = rows == 1 && tensor != nullptr && tensor->shape == std::vector<int64_t>{cols};
  if (!is_row) {
    TUTTI_ASSIGN_OR_RETURN(tensor, Find(name, {rows, cols}));
  }
  if (Traits(tensor->dtype).quantized) {
    return absl::InvalidArgumentError(absl::StrCat("tensor ", Printable(name), ": type ",
                                                   ToAbsl(Traits(tensor->dtype).name),
                                                   " must be F32, F16 or BF16"));
  }
  used_.insert(tensor->name);
  parts_.matrices.push_back({tensor, 0, rows, cols, false, out, tensor->StoredBytes(), Range()});
  return absl::OkStatus();
}

absl::Status Walk::Moe(int index, LayerWeights* out) {
  const ModelConfig& c = config_;
  MoeWeights& moe = out->moe;
  const int64_t num = c.gating.num_experts, hidden = c.hidden_size, shared = c.shared_ffn_size;
  TUTTI_RETURN_IF_ERROR(
      FloatMatrix(NameAt(names_.router, index) + ".weight", num, hidden, &moe.router));
  if (c.choice_bias)
    TUTTI_RETURN_IF_ERROR(Vector(NameAt(names_.choice_bias, index), 0, num, num, &moe.choice_bias));
  if (shared > 0) {
    const auto linear = [&](const std::string& pattern, Linear* to, int64_t rows, int64_t cols) {
      return Linears(NameAt(pattern, index), {{to, rows}}, cols, false);
    };
    TUTTI_RETURN_IF_ERROR(linear(names_.shared_gate, &moe.shared.gate, shared, hidden));
    TUTTI_RETURN_IF_ERROR(linear(names_.shared_up, &moe.shared.up, shared, hidden));
    TUTTI_RETURN_IF_ERROR(linear(names_.shared_down, &moe.shared.down, hidden, shared));
  }
  if (c.shared_gate) {
    TUTTI_RETURN_IF_ERROR(FloatMatrix(NameAt(names_.shared_router, index) + ".weight", 1, hidden,
                                      &moe.shared_router));
  }
  return Experts(index, &moe);
}

absl::Status Walk::Experts(int index, MoeWeights* out) {
  const int64_t num = config_.gating.num_experts, hidden = config_.hidden_size,
                size = config_.expert_ffn_size;
  out->experts.resize(static_cast<size_t>(num));
  for (int64_t e = 0; e < num; ++e) {
    parts_.ranges.push_back(ExpertRangeName(config_, index, e));
    FfnWeights& w = out->experts[static_cast<size_t>(e)];
    struct Matrix {
      const std::string& pattern;
      int64_t rows, cols;
      kernels::PackedMatrix* to;
    };
    for (const Matrix& m : {Matrix{names_.expert_gate, size, hidden, &w.gate.weight},
                            Matrix{names_.expert_up, size, hidden, &w.up.weight},
                            Matrix{names_.expert_down, hidden, size, &w.down.weight}}) {
      const bool stacked = m.pattern.find("{e}") == std::string::npos;
      const std::string name =
          absl::StrReplaceAll(NameAt(m.pattern, index), {{"{e}", absl::StrCat(e)}}) + ".weight";
      const std::vector<int64_t> shape = stacked ? std::vector<int64_t>{num, m.rows, m.cols}
                                                 : std::vector<int64_t>{m.rows, m.cols};
      TUTTI_ASSIGN_OR_RETURN(const weights::TensorInfo* t, Find(name, shape));
      if (m.to != &w.down.weight) {
        (Traits(t->dtype).quantized ? out->experts_read_quantized : out->experts_read_f32) = true;
      }
      const size_t bytes = t->StoredBytes() / static_cast<size_t>(stacked ? num : 1);
      parts_.matrices.push_back(
          {t, stacked ? e * m.rows : 0, m.rows, m.cols, false, m.to, bytes, Range()});
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<WeightParts> Walk::Run(ModelWeights* w) {
  w->layers.resize(config_.num_layers);
  parts_.ranges.push_back("embedding");
  TUTTI_RETURN_IF_ERROR(Matrix(names_.prefix + names_.embedding + ".weight", config_.vocab_size,
                               config_.hidden_size, &w->embedding));
  if (config_.learned_positions) {
    TUTTI_RETURN_IF_ERROR(Matrix(names_.prefix + names_.positions + ".weight",
                                 config_.context_tokens, config_.hidden_size, &w->positions));
  }
  for (int i = 0; i < config_.num_layers; ++i) {
    TUTTI_RETURN_IF_ERROR(Attention(i, &w->layers[i]));
    TUTTI_RETURN_IF_ERROR(Ffn(i, &w->layers[i]));
  }
  parts_.ranges.push_back("head");
  if (config_.final_norm)
    TUTTI_RETURN_IF_ERROR(Norm(names_.final_norm, 0, config_.hidden_size, &w->final_norm));
  if (!config_.tied_embeddings) {
    TUTTI_RETURN_IF_ERROR(
        Matrix(names_.output + ".weight", config_.vocab_size, config_.hidden_size, &w->output));
  }
  // Layers that are left out on purpose (skip_layers.h) have tensors that nothing reads.
  if (config_.file_layers.empty())
    TUTTI_RETURN_IF_ERROR(CheckUnusedTensors(files_, config_, used_));
  return std::move(parts_);
}

}  // namespace

std::string ExpertRangeName(const ModelConfig& config, int layer, int64_t expert) {
  return absl::StrCat("layers.", config.FileLayer(layer), ".experts.", expert);
}

std::string FfnRangeName(const ModelConfig& config, int layer) {
  return absl::StrCat("layers.", config.FileLayer(layer), ".ffn");
}

absl::StatusOr<WeightParts> FindWeightParts(const weights::ModelFiles& files,
                                            const ParsedModel& model, ModelWeights* weights) {
  return Walk(files, model).Run(weights);
}

absl::StatusOr<WeightParts> FindExpertParts(const weights::ModelFiles& files,
                                            const ParsedModel& model, int layer,
                                            MoeWeights* weights) {
  return Walk(files, model).RunExperts(layer, weights);
}

}  // namespace tutti::model
