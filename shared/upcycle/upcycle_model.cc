#include "shared/upcycle/upcycle_model.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <filesystem>
#include <memory>
#include <system_error>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/kernels.h"
#include "shared/base/strings.h"
#include "shared/upcycle/noise.h"
#include "shared/upcycle/router_rows.h"
#include "shared/weights/gguf.h"
#include "shared/weights/gguf_writer.h"

namespace tutti::upcycle {
namespace {

constexpr const char* kRoles[] = {"gate", "up", "down"};
constexpr int64_t kTaskElements = int64_t{1} << 15;  // about one thread's piece

std::string FfnName(int64_t layer, const char* role, const char* end = ".weight") {
  return absl::StrCat("blk.", layer, ".ffn_", role, end);
}

int64_t NumLayers(const weights::ModelFiles& files) {
  const auto it = files.config().find("llama.block_count");
  return it != files.config().end() && it->is_number_integer() ? it->get<int64_t>() : 0;
}

// What the new file has in one place: a tensor of the source, its copies, or a router.
struct Piece {
  const weights::TensorInfo* source = nullptr;  // nullptr: the router of `layer`
  uint32_t tensor = 0;                          // its index in the source
  int layer = -1;                               // of an FFN matrix or router; -1: copied as it is
};

class Run {
 public:
  Run(const weights::ModelFiles& files, const UpcycleOptions& options)
      : files_(files), options_(options) {}

  absl::StatusOr<UpcycleResult> To(const std::string& out);

 private:
  bool Report(const char* stage, uint64_t done, uint64_t total) const {
    return !options_.on_progress || options_.on_progress(stage, done, total);
  }
  void ParallelFor(int64_t n, const std::function<void(int64_t, int)>& body) {
    if (options_.pool != nullptr) return options_.pool->ParallelFor(n, body);
    for (int64_t i = 0; i < n; ++i) body(i, 0);
  }
  int num_threads() const { return options_.pool != nullptr ? options_.pool->num_threads() : 1; }

  absl::Status MakeRouters();
  void PlanPieces();
  absl::StatusOr<weights::GgufMetadata> Metadata(const weights::GgufContents& source) const;
  absl::Status WriteExperts(const Piece& piece);
  absl::Status WriteNoisy(const Piece& piece, uint32_t expert);
  absl::Status Append(std::span<const std::byte> bytes);

  const weights::ModelFiles& files_;
  const UpcycleOptions& options_;
  int64_t hidden_ = 0;
  std::vector<std::vector<float>> routers_;  // [layer][experts * hidden]
  std::vector<Piece> pieces_;
  std::vector<weights::GgufTensor> tensors_;
  std::unique_ptr<weights::GgufStream> stream_;
  uint64_t written_ = 0, total_ = 0;
  double squares_ = 0, squared_change_ = 0;
  UpcycleResult result_;
};

absl::Status Run::MakeRouters() {
  std::vector<std::vector<float>> inputs;
  {
    TUTTI_ASSIGN_OR_RETURN(const auto model,
                           model::LoadTransformer(files_.path(), {.pool = options_.pool}));
    hidden_ = model->config().hidden_size;
    TUTTI_ASSIGN_OR_RETURN(
        inputs, CollectFfnInputs(model.get(), options_.texts, [&](int64_t done, int64_t total) {
          return Report("reading texts", static_cast<uint64_t>(done), static_cast<uint64_t>(total));
        }));
  }
  const auto layers = static_cast<int64_t>(inputs.size());
  result_.num_layers = static_cast<int>(layers);
  result_.rows = static_cast<int64_t>(inputs[0].size()) / hidden_;
  routers_.resize(inputs.size());
  std::vector<absl::Status> status(inputs.size());
  for (int64_t at = 0; at < layers; at += num_threads()) {
    if (!Report("clustering", static_cast<uint64_t>(at), inputs.size()))
      return absl::CancelledError("interrupted");
    ParallelFor(std::min<int64_t>(num_threads(), layers - at), [&](int64_t task, int) {
      const auto layer = static_cast<size_t>(at + task);
      auto rows = MakeRouterRows(inputs[layer], hidden_,
                                 {.num_experts = options_.num_experts,
                                  .top_k = options_.top_k,
                                  .seed = options_.seed,
                                  .layer = static_cast<uint32_t>(layer)});
      status[layer] = rows.status();
      if (rows.ok()) routers_[layer] = *std::move(rows);
      inputs[layer] = {};
    });
  }
  for (const absl::Status& s : status) TUTTI_RETURN_IF_ERROR(s);
  return absl::OkStatus();
}

// The source's order, with the experts where the FFN stood and each router before the first of
// them.
void Run::PlanPieces() {
  const int64_t experts = options_.num_experts;
  std::vector<bool> has_router(routers_.size());
  for (size_t t = 0; t < files_.tensors().size(); ++t) {
    const weights::TensorInfo& source = files_.tensors()[t];
    Piece piece{&source, static_cast<uint32_t>(t)};
    weights::GgufTensor tensor{source.name, source.shape, source.dtype};
    for (size_t layer = 0; layer < routers_.size() && piece.layer < 0; ++layer) {
      for (const char* role : kRoles) {
        if (source.name != FfnName(static_cast<int64_t>(layer), role)) continue;
        piece.layer = static_cast<int>(layer);
        tensor.name = FfnName(static_cast<int64_t>(layer), role, "_exps.weight");
        tensor.shape.insert(tensor.shape.begin(), experts);
        if (has_router[layer]) continue;
        has_router[layer] = true;
        pieces_.push_back({nullptr, 0, piece.layer});
        tensors_.push_back(
            {FfnName(static_cast<int64_t>(layer), "gate_inp"), {experts, hidden_}, DType::kF32});
      }
    }
    pieces_.push_back(piece);
    tensors_.push_back(std::move(tensor));
  }
  for (const auto& t : tensors_) total_ += t.Bytes();
}

absl::StatusOr<weights::GgufMetadata> Run::Metadata(const weights::GgufContents& source) const {
  weights::GgufMetadata metadata;
  for (const weights::GgufValue& v : source.values) {
    if (!v.key.starts_with("split.")) metadata.Copy(v.key, v.bytes);
  }
  metadata.SetU32("llama.expert_count", static_cast<uint32_t>(options_.num_experts));
  metadata.SetU32("llama.expert_used_count", static_cast<uint32_t>(options_.top_k));
  if (options_.random_second) metadata.SetString("tutti.moe.second_expert", "random");
  if (options_.capacity_factor > 0) {
    metadata.SetF32("tutti.moe.capacity_factor", static_cast<float>(options_.capacity_factor));
  }
  metadata.SetString("general.name",
                     absl::StrCat(files_.Name(), " x ", options_.num_experts, " experts"));
  return metadata;
}

absl::Status Run::Append(std::span<const std::byte> bytes) {
  TUTTI_RETURN_IF_ERROR(stream_->Append(bytes));
  written_ += bytes.size();
  return Report("writing", written_, total_) ? absl::OkStatus()
                                             : absl::CancelledError("interrupted");
}

absl::Status Run::WriteExperts(const Piece& piece) {
  for (int e = 0; e < options_.num_experts; ++e) {
    TUTTI_RETURN_IF_ERROR(options_.noise > 0 ? WriteNoisy(piece, static_cast<uint32_t>(e))
                                             : Append(piece.source->data));
  }
  return absl::OkStatus();
}

absl::Status Run::WriteNoisy(const Piece& piece, uint32_t expert) {
  const weights::TensorInfo& source = *piece.source;
  const int64_t cols = source.shape.back(), rows = source.NumElements() / cols;
  const int64_t step = std::max<int64_t>(1, kTaskElements / cols);
  const int64_t tasks = (rows + step - 1) / step;
  std::vector<std::byte> out(source.data.size());
  std::vector<NoiseChange> changes(static_cast<size_t>(tasks));
  std::vector<std::vector<float>> scratch(static_cast<size_t>(num_threads()));
  ParallelFor(tasks, [&](int64_t task, int thread) {
    const int64_t first = task * step;
    EncodeWithNoise(source, {options_.noise, options_.seed, expert, piece.tensor}, first,
                    std::min(step, rows - first), &scratch[static_cast<size_t>(thread)],
                    out.data() + *StorageBytes(source.dtype, static_cast<uint64_t>(first * cols)),
                    &changes[static_cast<size_t>(task)]);
  });
  for (const NoiseChange& c : changes) {
    if (c.bad_element >= 0) {
      return absl::InvalidArgumentError(
          absl::StrCat(files_.path(), ": tensor \"", Printable(source.name), "\": element ",
                       c.bad_element, " is not finite, or with its noise past what ",
                       ToAbsl(Traits(source.dtype).name), " can hold"));
    }
    squares_ += c.squares;
    squared_change_ += c.squared_change;
  }
  return Append(out);
}

absl::StatusOr<UpcycleResult> Run::To(const std::string& out) {
  const MappedFile& file = *files_.files()[0];
  TUTTI_ASSIGN_OR_RETURN(const weights::GgufContents source,
                         weights::ParseGguf(file.bytes(), file.path()));
  TUTTI_RETURN_IF_ERROR(MakeRouters());
  PlanPieces();
  TUTTI_ASSIGN_OR_RETURN(const weights::GgufMetadata metadata, Metadata(source));
  TUTTI_ASSIGN_OR_RETURN(stream_,
                         weights::GgufStream::Create(out, metadata, tensors_, source.alignment));
  for (const Piece& piece : pieces_) {
    if (piece.source == nullptr) {
      TUTTI_RETURN_IF_ERROR(
          Append(std::as_bytes(std::span(routers_[static_cast<size_t>(piece.layer)]))));
      continue;
    }
    TUTTI_RETURN_IF_ERROR(piece.layer >= 0 ? WriteExperts(piece) : Append(piece.source->data));
    files_.DropPages(*piece.source);
  }
  TUTTI_ASSIGN_OR_RETURN(result_.file_bytes, stream_->Finish());
  if (squares_ > 0) result_.relative_change = std::sqrt(squared_change_ / squares_);
  return result_;
}

absl::Status CheckOptions(const UpcycleOptions& o) {
  if (o.num_experts < 1 || o.num_experts > kExpertsMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("experts is ", o.num_experts, "; it must be in [1, ", kExpertsMax, "]"));
  }
  if (o.top_k < 1 || o.top_k > o.num_experts) {
    return absl::InvalidArgumentError(
        absl::StrCat("top_k is ", o.top_k, "; it must be in [1, ", o.num_experts, "]"));
  }
  if (!(o.noise >= 0 && o.noise <= 1)) {
    return absl::InvalidArgumentError(absl::StrCat("noise is ", o.noise, "; it must be in [0, 1]"));
  }
  if (o.random_second && o.top_k != 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("a random second expert needs top_k = 2; it is ", o.top_k));
  }
  if (!(o.capacity_factor >= 0 && o.capacity_factor <= kExpertsMax)) {
    return absl::InvalidArgumentError(absl::StrCat("capacity_factor is ", o.capacity_factor,
                                                   "; it must be in [0, ", kExpertsMax, "]"));
  }
  if (o.texts.empty()) return absl::InvalidArgumentError("there are no texts");
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckDense(const weights::ModelFiles& files) {
  if (files.format() != weights::Format::kGguf || files.packed() != nullptr) {
    return absl::UnimplementedError(
        absl::StrCat(files.path(),
                     ": not a GGUF file; only GGUF models are upcycled, since a GGUF "
                     "carries the tokenizer and names that its copy needs"));
  }
  const auto text = files.config().find("general.architecture");
  const std::string arch =
      text != files.config().end() && text->is_string() ? text->get<std::string>() : "";
  std::string mixture;
  const auto count = files.config().find(arch + ".expert_count");
  if (count != files.config().end() && *count != 0)
    mixture = absl::StrCat("it has ", Printable(arch), ".expert_count");
  for (const weights::TensorInfo& t : files.tensors()) {
    if (mixture.empty() && t.name.find(".ffn_gate_inp.") != t.name.npos)
      mixture = absl::StrCat("it has a tensor ", Printable(t.name));
  }
  if (!mixture.empty()) {
    return absl::FailedPreconditionError(absl::StrCat(
        files.path(), ": is a mixture of experts already (", mixture, "); give a dense model"));
  }
  if (arch != "llama") {
    return absl::UnimplementedError(absl::StrCat(
        files.path(), ": general.architecture is \"", Printable(arch),
        "\"; of dense models only \"llama\" can be upcycled, since its mixtures differ "
        "from it by their experts alone"));
  }
  const int64_t layers = NumLayers(files);
  if (layers < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat(files.path(), ": llama.block_count is missing, or not a number of layers"));
  }
  for (int64_t layer = 0; layer < layers; ++layer) {
    for (const char* role : kRoles) {
      const std::string name = FfnName(layer, role);
      if (files.Find(name) == nullptr)
        return absl::InvalidArgumentError(absl::StrCat(files.path(), ": no tensor ", name));
      const std::string bias = FfnName(layer, role, ".bias");
      if (files.Find(bias) != nullptr) {
        return absl::InvalidArgumentError(
            absl::StrCat(files.path(), ": tensor ", bias, ": experts have no biases"));
      }
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<UpcycleResult> UpcycleModel(const weights::ModelFiles& files, const std::string& out,
                                           const UpcycleOptions& options) {
  TUTTI_RETURN_IF_ERROR(CheckOptions(options));
  TUTTI_RETURN_IF_ERROR(CheckDense(files));
  std::error_code ignored;
  if (std::filesystem::equivalent(out, files.files()[0]->path(), ignored))
    return absl::InvalidArgumentError(out + ": is the source itself; give another name");
  kernels::SetFloatingPointMode();
  return Run(files, options).To(out);
}

}  // namespace tutti::upcycle
