#include "shared/model/weight_parts.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "shared/base/strings.h"

namespace tutti::model {
namespace {

class Walk {
 public:
  Walk(const weights::ModelFiles& files, const ParsedModel& model)
      : files_(files), config_(model.config), names_(model.names) {}

  absl::StatusOr<WeightParts> Run(ModelWeights* w);

 private:
  std::string NameAt(const std::string& pattern, int layer) const {
    return names_.prefix + absl::StrReplaceAll(pattern, {{"{}", absl::StrCat(layer)}});
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
  absl::Status Ffn(int index, LayerWeights* out);

  size_t Range() const { return parts_.ranges.size() - 1; }  // of the parts being found

  const weights::ModelFiles& files_;
  const ModelConfig& config_;
  const TensorNames& names_;
  WeightParts parts_;
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
  parts_.ranges.push_back(absl::StrCat("layers.", index, ".attention"));
  const ModelConfig& c = config_;
  TUTTI_RETURN_IF_ERROR(Norm(names_.attn_norm, index, c.hidden_size, &out->attn_norm));
  TUTTI_RETURN_IF_ERROR(Norm(names_.attn_post_norm, index, c.hidden_size, &out->attn_post_norm));
  TUTTI_RETURN_IF_ERROR(Norm(names_.q_norm, index, c.head_dim, &out->q_norm));
  TUTTI_RETURN_IF_ERROR(Norm(names_.k_norm, index, c.head_dim, &out->k_norm));
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

absl::Status Walk::Ffn(int index, LayerWeights* out) {
  parts_.ranges.push_back(absl::StrCat("layers.", index, ".ffn"));
  const ModelConfig& c = config_;
  TUTTI_RETURN_IF_ERROR(Norm(names_.ffn_norm, index, c.hidden_size, &out->ffn_norm));
  TUTTI_RETURN_IF_ERROR(Norm(names_.ffn_post_norm, index, c.hidden_size, &out->ffn_post_norm));
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
  return std::move(parts_);
}

}  // namespace

absl::StatusOr<WeightParts> FindWeightParts(const weights::ModelFiles& files,
                                            const ParsedModel& model, ModelWeights* weights) {
  return Walk(files, model).Run(weights);
}

}  // namespace tutti::model
