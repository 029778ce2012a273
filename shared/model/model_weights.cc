#include "shared/model/model_weights.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "shared/base/strings.h"

namespace tutti::model {
namespace {

// Rows [row_begin, row_begin + rows) of a stored matrix, to be packed into `out`.
struct PackTask {
  const weights::TensorInfo* tensor;
  int64_t row_begin, rows, cols;
  bool transposed;  // stored [cols, all rows]
  kernels::PackedMatrix* out;
  size_t file_bytes;
};

// Collects what to pack while it checks that every tensor is there with the right shape.
class Loader {
 public:
  Loader(const weights::ModelFiles& files, const ParsedModel& model)
      : files_(files), config_(model.config), names_(model.names) {}

  absl::StatusOr<ModelWeights> Run(const LoadOptions& options);

 private:
  std::string NameAt(const std::string& pattern, int layer) const {
    return names_.prefix + absl::StrReplaceAll(pattern, {{"{}", absl::StrCat(layer)}});
  }
  absl::StatusOr<const weights::TensorInfo*> Find(const std::string& name,
                                                  std::vector<int64_t> shape);
  absl::Status Vector(const std::string& name, int64_t offset, int64_t size, int64_t stored,
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
  absl::Status Layer(int index, LayerWeights* out);
  absl::Status Pack(const PackTask& task) const;

  const weights::ModelFiles& files_;
  const ModelConfig& config_;
  const TensorNames& names_;
  std::vector<PackTask> tasks_;
};

absl::StatusOr<const weights::TensorInfo*> Loader::Find(const std::string& name,
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

absl::Status Loader::Vector(const std::string& name, int64_t offset, int64_t size, int64_t stored,
                            std::vector<float>* out) {
  TUTTI_ASSIGN_OR_RETURN(const weights::TensorInfo* t, Find(name, {stored}));
  const DTypeTraits& traits = Traits(t->dtype);
  if (traits.quantized) {
    return absl::InvalidArgumentError(absl::StrCat(
        "tensor ", Printable(name), ": type ", ToAbsl(traits.name), " must be F32, F16 or BF16"));
  }
  std::vector<float> all(stored);
  kernels::DequantizeBlocks(t->dtype, t->data.data(), stored, all.data());
  out->assign(all.begin() + offset, all.begin() + offset + size);
  return absl::OkStatus();
}

absl::Status Loader::Linears(const std::string& name, std::vector<Part> parts, int64_t cols,
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
        t->data.size() / static_cast<size_t>(all_rows) * static_cast<size_t>(part.rows);
    tasks_.push_back({t, row, part.rows, cols, names_.transposed, &part.out->weight, bytes});
    if (bias)
      TUTTI_RETURN_IF_ERROR(Vector(name + ".bias", row, part.rows, all_rows, &part.out->bias));
    row += part.rows;
  }
  return absl::OkStatus();
}

absl::Status Loader::Matrix(const std::string& name, int64_t rows, int64_t cols,
                            kernels::PackedMatrix* out) {
  TUTTI_ASSIGN_OR_RETURN(const weights::TensorInfo* t, Find(name, {rows, cols}));
  tasks_.push_back({t, 0, rows, cols, false, out, t->data.size()});
  return absl::OkStatus();
}

absl::Status Loader::Norm(const std::string& pattern, int layer, int64_t size, NormWeights* out) {
  if (pattern.empty()) return absl::OkStatus();
  const std::string name = NameAt(pattern, layer);
  TUTTI_RETURN_IF_ERROR(Vector(name + ".weight", 0, size, size, &out->gain));
  if (config_.norm == NormKind::kLayer)
    TUTTI_RETURN_IF_ERROR(Vector(name + ".bias", 0, size, size, &out->bias));
  return absl::OkStatus();
}

absl::Status Loader::Layer(int index, LayerWeights* out) {
  const ModelConfig& c = config_;
  TUTTI_RETURN_IF_ERROR(Norm(names_.attn_norm, index, c.hidden_size, &out->attn_norm));
  TUTTI_RETURN_IF_ERROR(Norm(names_.attn_post_norm, index, c.hidden_size, &out->attn_post_norm));
  TUTTI_RETURN_IF_ERROR(Norm(names_.q_norm, index, c.head_dim, &out->q_norm));
  TUTTI_RETURN_IF_ERROR(Norm(names_.k_norm, index, c.head_dim, &out->k_norm));
  TUTTI_RETURN_IF_ERROR(Norm(names_.ffn_norm, index, c.hidden_size, &out->ffn_norm));
  TUTTI_RETURN_IF_ERROR(Norm(names_.ffn_post_norm, index, c.hidden_size, &out->ffn_post_norm));
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
  TUTTI_RETURN_IF_ERROR(
      linears(names_.attn_out, {{&out->attn_out, c.hidden_size}}, c.q_size(), c.attn_out_bias));
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

absl::Status Loader::Pack(const PackTask& task) const {
  const weights::TensorInfo& t = *task.tensor;
  std::span<const std::byte> src;
  std::vector<std::byte> turned;
  if (task.transposed) {
    const size_t element = static_cast<size_t>(Traits(t.dtype).block_bytes);
    const int64_t stored_cols = t.shape[1];
    turned.resize(element * static_cast<size_t>(task.rows * task.cols));
    for (int64_t r = 0; r < task.rows; ++r) {
      for (int64_t k = 0; k < task.cols; ++k) {
        std::memcpy(
            turned.data() + element * static_cast<size_t>(r * task.cols + k),
            t.data.data() + element * static_cast<size_t>(k * stored_cols + task.row_begin + r),
            element);
      }
    }
    src = turned;
  } else {
    const size_t row_bytes = t.data.size() / static_cast<size_t>(t.shape[0]);
    src = t.data.subspan(row_bytes * static_cast<size_t>(task.row_begin),
                         row_bytes * static_cast<size_t>(task.rows));
  }
  auto packed = kernels::PackedMatrix::Pack(t.dtype, task.rows, task.cols, src);
  if (!packed.ok()) return Annotate(packed.status(), "tensor " + Printable(t.name));
  *task.out = *std::move(packed);
  files_.DropPages(t);
  return absl::OkStatus();
}

absl::StatusOr<ModelWeights> Loader::Run(const LoadOptions& options) {
  ModelWeights w;
  w.layers.resize(config_.num_layers);
  TUTTI_RETURN_IF_ERROR(Matrix(names_.prefix + names_.embedding + ".weight", config_.vocab_size,
                               config_.hidden_size, &w.embedding));
  if (!config_.tied_embeddings) {
    TUTTI_RETURN_IF_ERROR(
        Matrix(names_.output + ".weight", config_.vocab_size, config_.hidden_size, &w.output));
  }
  if (config_.learned_positions) {
    TUTTI_RETURN_IF_ERROR(Matrix(names_.prefix + names_.positions + ".weight",
                                 config_.context_tokens, config_.hidden_size, &w.positions));
  }
  if (config_.final_norm)
    TUTTI_RETURN_IF_ERROR(Norm(names_.final_norm, 0, config_.hidden_size, &w.final_norm));
  for (int i = 0; i < config_.num_layers; ++i) TUTTI_RETURN_IF_ERROR(Layer(i, &w.layers[i]));

  // Largest first, so that no thread is left alone with the embedding at the end.
  std::stable_sort(tasks_.begin(), tasks_.end(), [](const PackTask& a, const PackTask& b) {
    return a.file_bytes > b.file_bytes;
  });
  size_t total = 0, done = 0;
  for (const PackTask& task : tasks_) total += task.file_bytes;
  std::mutex mutex;
  absl::Status first_error;
  std::atomic<bool> failed = false;
  const auto body = [&](int64_t i, int thread) {
    if (failed.load(std::memory_order_relaxed)) return;
    const absl::Status status = Pack(tasks_[i]);
    const std::lock_guard lock(mutex);
    done += tasks_[i].file_bytes;
    if (!status.ok()) {
      failed = true;
      first_error = status;
    } else if (thread == 0 && options.on_progress) {
      options.on_progress(done, total);
    }
  };
  const auto num_tasks = static_cast<int64_t>(tasks_.size());
  if (options.pool != nullptr) {
    options.pool->ParallelFor(num_tasks, body);
  } else {
    for (int64_t i = 0; i < num_tasks; ++i) body(i, 0);
  }
  TUTTI_RETURN_IF_ERROR(first_error);
  if (options.on_progress) options.on_progress(total, total);
  return w;
}

}  // namespace

size_t ModelWeights::bytes() const {
  size_t sum = embedding.bytes() + output.bytes() + positions.bytes();
  for (const LayerWeights& l : layers) {
    for (const Linear* m : {&l.q, &l.k, &l.v, &l.attn_out, &l.ffn.gate, &l.ffn.up, &l.ffn.down}) {
      sum += m->weight.bytes();
    }
  }
  return sum;
}

absl::StatusOr<ModelWeights> LoadWeights(const weights::ModelFiles& files, const ParsedModel& model,
                                         const LoadOptions& options) {
  return Loader(files, model).Run(options);
}

}  // namespace tutti::model
