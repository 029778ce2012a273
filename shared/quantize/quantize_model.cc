#include "shared/quantize/quantize_model.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <memory>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "kernels/kernels.h"
#include "kernels/packed_matrix.h"
#include "shared/base/strings.h"
#include "shared/quantize/blocks.h"
#include "shared/weights/gguf.h"
#include "shared/weights/gguf_writer.h"

namespace tutti::quantize {
namespace {

constexpr uint32_t kQuantizationVersion = 2;         // of ggml's block formats
constexpr int64_t kTaskElements = int64_t{1} << 15;  // one thread's piece: a multiple of all blocks
constexpr int64_t kBatchTasks = 64;                  // pieces in memory at a time
constexpr size_t kCopyBytes = size_t{8} << 20;

float LargestValue(DType dtype) {
  if (dtype == DType::kF32) return std::numeric_limits<float>::max();
  if (dtype == DType::kBF16) return 0x1.FEp127f;
  return kValueMax;
}

// One thread's piece of a tensor.
struct Piece {
  double squares = 0, squared_error = 0;
  int64_t bad_element = -1;  // of the tensor: not finite, or too large for the type
  float bad_value = 0;
};

// Reusable memory of one thread.
struct Scratch {
  std::vector<float> values, back;
};

// Elements [first, first + n) of a tensor, from the source's type to `to`.
void EncodePiece(const weights::TensorInfo& source, DType to, int64_t first, int64_t n,
                 Scratch* scratch, std::byte* out, Piece* piece) {
  scratch->values.resize(static_cast<size_t>(n));
  scratch->back.resize(static_cast<size_t>(n));
  float* x = scratch->values.data();
  float* y = scratch->back.data();
  const size_t offset = *StorageBytes(source.dtype, static_cast<uint64_t>(first));
  kernels::DequantizeBlocks(source.dtype, source.data.data() + offset, n, x);
  const float limit = LargestValue(to);
  for (int64_t i = 0; i < n; ++i) {
    if (std::fabs(x[i]) <= limit) continue;  // false for NaN too
    piece->bad_element = first + i;
    piece->bad_value = x[i];
    return;
  }
  EncodeBlocks(to, scratch->values, out);
  kernels::DequantizeBlocks(to, out, n, y);
  for (int64_t i = 0; i < n; ++i) {
    const double value = x[i], change = value - y[i];
    piece->squares += value * value;
    piece->squared_error += change * change;
  }
}

class Run {
 public:
  Run(const weights::ModelFiles& files, const QuantizeOptions& options)
      : files_(files), options_(options) {
    for (const weights::TensorInfo& t : files.tensors()) total_ += t.data.size();
  }

  absl::StatusOr<QuantizeResult> To(const std::string& out);

 private:
  absl::Status CopyTensor(const weights::TensorInfo& source);
  absl::Status EncodeTensor(const TensorPlan& plan, TensorResult* result);
  // `bytes` more of the source are written.
  absl::Status Advance(uint64_t bytes);
  void ParallelFor(int64_t n, const std::function<void(int64_t, int)>& body) {
    if (options_.pool != nullptr) return options_.pool->ParallelFor(n, body);
    for (int64_t i = 0; i < n; ++i) body(i, 0);
  }

  const weights::ModelFiles& files_;
  const QuantizeOptions& options_;
  uint64_t done_ = 0, total_ = 0;
  std::unique_ptr<weights::GgufStream> stream_;
};

absl::Status Run::Advance(uint64_t bytes) {
  done_ += bytes;
  return options_.on_progress && !options_.on_progress(done_, total_)
             ? absl::CancelledError("interrupted")
             : absl::OkStatus();
}

absl::Status Run::CopyTensor(const weights::TensorInfo& source) {
  for (size_t at = 0; at < source.data.size(); at += kCopyBytes) {
    const auto piece = source.data.subspan(at, std::min(kCopyBytes, source.data.size() - at));
    TUTTI_RETURN_IF_ERROR(stream_->Append(piece));
    files_.files()[source.file_index]->DontNeed(source.file_offset + at, piece.size());
    TUTTI_RETURN_IF_ERROR(Advance(piece.size()));
  }
  return absl::OkStatus();
}

absl::Status Run::EncodeTensor(const TensorPlan& plan, TensorResult* result) {
  const weights::TensorInfo& source = *plan.source;
  const int64_t elements = source.NumElements();
  std::vector<Scratch> scratch(options_.pool != nullptr ? options_.pool->num_threads() : 1);
  std::vector<std::byte> out(*StorageBytes(plan.dtype, kTaskElements * kBatchTasks));
  std::vector<Piece> pieces;
  for (int64_t at = 0; at < elements; at += kTaskElements * kBatchTasks) {
    const int64_t batch = std::min(kTaskElements * kBatchTasks, elements - at);
    pieces.assign((batch + kTaskElements - 1) / kTaskElements, {});
    ParallelFor(static_cast<int64_t>(pieces.size()), [&](int64_t task, int thread) {
      const int64_t first = task * kTaskElements;
      EncodePiece(
          source, plan.dtype, at + first, std::min(kTaskElements, batch - first), &scratch[thread],
          out.data() + *StorageBytes(plan.dtype, static_cast<uint64_t>(first)), &pieces[task]);
    });
    for (const Piece& p : pieces) {
      if (p.bad_element >= 0) {
        return absl::InvalidArgumentError(absl::StrCat(
            files_.path(), ": tensor \"", Printable(source.name), "\": element ", p.bad_element,
            " is ", p.bad_value,
            std::isfinite(p.bad_value)
                ? absl::StrCat(", past what ", ToAbsl(Traits(plan.dtype).name), " can hold")
                : std::string("; weights must be finite numbers")));
      }
      result->squares += p.squares;
      result->squared_error += p.squared_error;
    }
    TUTTI_RETURN_IF_ERROR(stream_->Append(
        std::span(out).first(*StorageBytes(plan.dtype, static_cast<uint64_t>(batch)))));
    const size_t begin = *StorageBytes(source.dtype, static_cast<uint64_t>(at));
    const size_t size = *StorageBytes(source.dtype, static_cast<uint64_t>(batch));
    files_.files()[source.file_index]->DontNeed(source.file_offset + begin, size);
    TUTTI_RETURN_IF_ERROR(Advance(size));
  }
  return absl::OkStatus();
}

absl::StatusOr<QuantizeResult> Run::To(const std::string& out) {
  const MappedFile& file = *files_.files()[0];
  TUTTI_ASSIGN_OR_RETURN(const weights::GgufContents source,
                         weights::ParseGguf(file.bytes(), file.path()));
  weights::GgufMetadata metadata;
  // What is written is one file, also where the source is several.
  for (const weights::GgufValue& v : source.values) {
    if (!v.key.starts_with("split.")) metadata.Copy(v.key, v.bytes);
  }
  metadata.SetU32("general.file_type", FileTypeNumber(options_.types.dtype));
  metadata.SetU32("general.quantization_version", kQuantizationVersion);

  const std::vector<TensorPlan> plan = PlanTensors(files_, options_.types);
  std::vector<weights::GgufTensor> tensors;
  for (const TensorPlan& p : plan) tensors.push_back({p.source->name, p.source->shape, p.dtype});
  TUTTI_ASSIGN_OR_RETURN(stream_,
                         weights::GgufStream::Create(out, metadata, tensors, source.alignment));
  QuantizeResult result;
  for (size_t i = 0; i < plan.size(); ++i) {
    const TensorPlan& p = plan[i];
    TensorResult r{.name = p.source->name,
                   .from = p.source->dtype,
                   .wanted = p.wanted,
                   .to = p.dtype,
                   .num_elements = static_cast<uint64_t>(p.source->NumElements()),
                   .bytes = tensors[i].Bytes()};
    TUTTI_RETURN_IF_ERROR(r.copied() ? CopyTensor(*p.source) : EncodeTensor(p, &r));
    result.tensors.push_back(std::move(r));
  }
  TUTTI_ASSIGN_OR_RETURN(result.file_bytes, stream_->Finish());
  return result;
}

}  // namespace

double TensorResult::RelativeError() const {
  return squares > 0 ? std::sqrt(squared_error / squares) : 0;
}

absl::StatusOr<QuantizeResult> QuantizeModel(const weights::ModelFiles& files,
                                             const std::string& out,
                                             const QuantizeOptions& options) {
  if (files.format() != weights::Format::kGguf) {
    return absl::UnimplementedError(
        absl::StrCat(files.path(),
                     ": not a GGUF file; only GGUF models are read here, since a GGUF carries the "
                     "tokenizer and names that its copy needs"));
  }
  std::error_code ignored;
  if (std::filesystem::equivalent(out, files.files()[0]->path(), ignored))
    return absl::InvalidArgumentError(out + ": is the source itself; give another name");
  kernels::SetFloatingPointMode();
  return Run(files, options).To(out);
}

}  // namespace tutti::quantize
