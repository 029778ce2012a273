#include "shared/model/pack.h"

#include <algorithm>
#include <filesystem>
#include <optional>
#include <set>

#include "absl/strings/str_cat.h"
#include "shared/base/hash.h"
#include "shared/base/hasher64.h"
#include "shared/base/output_dir.h"
#include "shared/base/output_file.h"
#include "shared/base/strings.h"
#include "shared/model/fingerprint.h"
#include "shared/model/load_tasks.h"
#include "shared/model/weight_parts.h"
#include "shared/model/weight_source.h"
#include "shared/weights/gguf_split.h"

namespace tutti::model {
namespace {

namespace fs = std::filesystem;
using weights::PackedManifest;
using weights::PackedRange;
using weights::PackedTensor;

constexpr char kDataFile[] = "weights.bin";
// What belongs to a Hugging Face folder besides the weights.
constexpr const char* kSideFiles[] = {
    "config.json",    "generation_config.json", "model.safetensors.index.json",
    "tokenizer.json", "tokenizer_config.json",  "chat_template.jinja",
};

std::span<const std::byte> AsBytes(std::string_view s) {
  return std::as_bytes(std::span(s.data(), s.size()));
}

// Writes one range after the other, hashing what it writes.
class RangeWriter {
 public:
  explicit RangeWriter(OutputFile* file) : file_(file) {}

  void Begin(std::string name) {
    range_ = {.name = std::move(name), .offset = file_->size()};
    hash_ = Hasher64();
  }
  absl::Status Add(PackedTensor t, std::span<const std::byte> bytes) {
    TUTTI_RETURN_IF_ERROR(PadTo(weights::kTensorAlignment));
    t.offset = file_->size() - range_.offset;
    t.bytes = bytes.size();
    t.xxh3 = Hash64(bytes.data(), bytes.size());
    range_.tensors.push_back(std::move(t));
    return Write(bytes);
  }
  absl::StatusOr<PackedRange> End() {
    TUTTI_RETURN_IF_ERROR(PadTo(weights::kRangeAlignment));
    range_.bytes = file_->size() - range_.offset;
    range_.xxh3 = hash_.Value();
    return std::move(range_);
  }

 private:
  absl::Status Write(std::span<const std::byte> bytes) {
    hash_.Add(bytes);
    return file_->Append(bytes);
  }
  absl::Status PadTo(uint64_t alignment) {
    static constexpr std::byte kZeros[weights::kRangeAlignment] = {};
    const uint64_t rest = file_->size() % alignment;
    return rest == 0 ? absl::OkStatus() : Write(std::span(kZeros).first(alignment - rest));
  }

  OutputFile* file_;
  PackedRange range_;
  Hasher64 hash_;
};

class Packer {
 public:
  Packer(const PackOptions& options, const weights::ModelFiles& files, OutputDir* dir)
      : options_(options), files_(files), dir_(dir), source_(MakeWeightSource(files)) {}

  absl::Status Run(const ParsedModel& model);
  PackedSummary Summary() const;

 private:
  absl::Status SourceFiles();
  absl::Status SourceFile(const std::string& name, std::span<const std::byte> bytes);
  absl::Status Ranges(const WeightParts& parts, OutputFile* file);
  absl::Status Matrices(std::span<const MatrixPart> parts, RangeWriter* writer);
  absl::Status Vector(const weights::TensorInfo& tensor, RangeWriter* writer);

  const PackOptions& options_;
  const weights::ModelFiles& files_;
  OutputDir* dir_;
  const std::unique_ptr<WeightSource> source_;
  PackedManifest manifest_;
  std::set<std::string_view> vectors_;  // written so far
  size_t done_ = 0, total_ = 0;         // bytes of the source's matrices
};

absl::Status Packer::SourceFile(const std::string& name, std::span<const std::byte> bytes) {
  manifest_.source_files.push_back({name, bytes.size(), Hash64(bytes.data(), bytes.size())});
  return dir_->WriteFile(absl::StrCat(weights::kPackedSourceFolder, "/", name), bytes);
}

// Weight files keep their headers, so that the readers of the source's format read these too.
absl::Status Packer::SourceFiles() {
  TUTTI_RETURN_IF_ERROR(dir_->MakeFolder(weights::kPackedSourceFolder));
  const bool gguf = files_.format() == weights::Format::kGguf;
  for (size_t i = 0; i < files_.files().size(); ++i) {
    std::string name = fs::path(files_.files()[i]->path()).filename().string();
    if (gguf && (name[0] == '.' || !IsValidUtf8(name))) {
      const auto n = static_cast<int>(files_.files().size());
      name =
          n == 1 ? "model.gguf" : weights::SplitName{"model", 1, n}.Part(static_cast<int>(i) + 1);
    }
    if (gguf && i == 0) manifest_.source_name = name;
    TUTTI_RETURN_IF_ERROR(SourceFile(name, files_.header(i)));
  }
  if (gguf) return absl::OkStatus();
  manifest_.source_name = manifest_.name;
  for (const char* name : kSideFiles) {
    const auto file = MappedFile::Open((fs::path(files_.folder()) / name).string());
    if (absl::IsNotFound(file.status())) continue;
    TUTTI_RETURN_IF_ERROR(file.status());
    TUTTI_RETURN_IF_ERROR(SourceFile(name, (*file)->bytes()));
  }
  return absl::OkStatus();
}

absl::Status Packer::Matrices(std::span<const MatrixPart> parts, RangeWriter* writer) {
  std::vector<std::optional<kernels::PackedMatrix>> packed(parts.size());
  std::vector<LoadTask> tasks;
  for (size_t i = 0; i < parts.size(); ++i) {
    tasks.push_back({parts[i].stored_bytes, [this, &part = parts[i], &out = packed[i]] {
                       auto matrix = source_->Get(part);
                       if (matrix.ok()) out = *std::move(matrix);
                       return matrix.status();
                     }});
  }
  LoadOptions load{.pool = options_.pool};
  if (options_.on_progress) {
    load.on_progress = [this](size_t done, size_t) { options_.on_progress(done_ + done, total_); };
  }
  TUTTI_RETURN_IF_ERROR(RunLoadTasks(std::move(tasks), load));
  for (size_t i = 0; i < parts.size(); ++i) {
    const MatrixPart& part = parts[i];
    TUTTI_RETURN_IF_ERROR(writer->Add({.name = part.tensor->name,
                                       .kind = PackedTensor::Kind::kMatrix,
                                       .dtype = part.dtype(),
                                       .row = part.first_stored_row(),
                                       .shape = {part.rows, part.cols}},
                                      packed[i]->data()));
    done_ += part.stored_bytes;
  }
  return absl::OkStatus();
}

absl::Status Packer::Vector(const weights::TensorInfo& t, RangeWriter* writer) {
  if (!vectors_.insert(t.name).second) return absl::OkStatus();  // a fused bias has several parts
  return writer->Add(
      {.name = t.name, .kind = PackedTensor::Kind::kVector, .dtype = t.dtype, .shape = t.shape},
      t.data);
}

absl::Status Packer::Ranges(const WeightParts& parts, OutputFile* file) {
  RangeWriter writer(file);
  auto matrix = parts.matrices.begin();
  auto vector = parts.vectors.begin();
  for (size_t range = 0; range < parts.ranges.size(); ++range) {
    if (options_.cancelled && options_.cancelled()) return absl::CancelledError("interrupted");
    const auto end = std::find_if(matrix, parts.matrices.end(),
                                  [&](const MatrixPart& p) { return p.range != range; });
    const bool empty = matrix == end && (vector == parts.vectors.end() || vector->range != range);
    if (empty) continue;  // a head without matrix and norm
    writer.Begin(parts.ranges[range]);
    TUTTI_RETURN_IF_ERROR(Matrices({matrix, end}, &writer));
    matrix = end;
    for (; vector != parts.vectors.end() && vector->range == range; ++vector)
      TUTTI_RETURN_IF_ERROR(Vector(*vector->tensor, &writer));
    TUTTI_ASSIGN_OR_RETURN(manifest_.ranges.emplace_back(), writer.End());
  }
  // Vectors that are no weights of ours, as the divisors of rotary frequencies: whoever reads the
  // source's header finds all of them.
  std::vector<const weights::TensorInfo*> others;
  for (const weights::TensorInfo& t : files_.tensors()) {
    if (t.shape.size() == 1 && !vectors_.contains(t.name)) others.push_back(&t);
  }
  if (others.empty()) return absl::OkStatus();
  writer.Begin("other");
  for (const weights::TensorInfo* t : others) TUTTI_RETURN_IF_ERROR(Vector(*t, &writer));
  TUTTI_ASSIGN_OR_RETURN(manifest_.ranges.emplace_back(), writer.End());
  return absl::OkStatus();
}

absl::Status Packer::Run(const ParsedModel& model) {
  ModelWeights weights;
  TUTTI_ASSIGN_OR_RETURN(const WeightParts parts, FindWeightParts(files_, model, &weights));
  for (const MatrixPart& part : parts.matrices) total_ += part.stored_bytes;
  manifest_.name = files_.Name().empty() ? "model" : files_.Name();
  manifest_.source = files_.format() == weights::Format::kGguf
                         ? PackedManifest::Source::kGguf
                         : PackedManifest::Source::kSafetensors;
  manifest_.content_hash = files_.ContentHash();
  for (const DType kv : {DType::kF16, DType::kF32, DType::kQ8_0}) {
    manifest_.fingerprints[std::string(Traits(kv).name)] =
        Fingerprint(manifest_.content_hash, model.config, kv);
  }
  TUTTI_RETURN_IF_ERROR(SourceFiles());
  TUTTI_ASSIGN_OR_RETURN(auto file, OutputFile::Create(dir_->temporary() + "/" + kDataFile));
  TUTTI_RETURN_IF_ERROR(Ranges(parts, file.get()));
  manifest_.data_files = {{kDataFile, file->size(), 0}};
  TUTTI_RETURN_IF_ERROR(file->Commit(/*drop_pages=*/true));
  const std::string text = WritePackedManifest(manifest_);
  TUTTI_RETURN_IF_ERROR(dir_->WriteFile(weights::kPackedManifest, AsBytes(text)));
  // Read back from the disk, as every reader will; that leaves it in the page cache, in huge pages.
  return Annotate(VerifyPackedModel(dir_->temporary(), {.pool = options_.pool}).status(),
                  "reading it back");
}

PackedSummary Summarize(const PackedManifest& m) {
  PackedSummary s{
      .name = m.name, .fingerprint = m.fingerprints.at("F16"), .num_ranges = m.ranges.size()};
  for (const PackedRange& r : m.ranges) s.num_tensors += r.tensors.size();
  for (const auto& f : m.data_files) s.data_bytes += f.bytes;
  return s;
}

PackedSummary Packer::Summary() const { return Summarize(manifest_); }

absl::Status CheckReplaceable(const std::string& out) {
  std::error_code error;
  if (!fs::exists(out, error) || weights::PackedFiles::Is(out)) return absl::OkStatus();
  if (fs::is_directory(out, error) && fs::is_empty(out, error)) return absl::OkStatus();
  return absl::FailedPreconditionError(
      out + ": is there and is no packed directory; only those are replaced");
}

}  // namespace

absl::StatusOr<PackedSummary> PackModel(const PackOptions& options) {
  kernels::SetFloatingPointMode();
  TUTTI_ASSIGN_OR_RETURN(const auto files, weights::ModelFiles::Open(options.source));
  if (files->packed() != nullptr)
    return absl::InvalidArgumentError(options.source + ": is a packed directory already");
  const auto model = ParseModel(*files);
  if (!model.ok()) return Annotate(model.status(), options.source);
  if (options.replace) TUTTI_RETURN_IF_ERROR(CheckReplaceable(options.out));
  TUTTI_ASSIGN_OR_RETURN(OutputDir dir, OutputDir::Begin(options.out, options.replace));
  Packer packer(options, *files, &dir);
  TUTTI_RETURN_IF_ERROR(packer.Run(*model));
  TUTTI_RETURN_IF_ERROR(dir.Commit());
  return packer.Summary();
}

absl::StatusOr<PackedSummary> VerifyPackedModel(const std::string& path,
                                                const LoadOptions& options) {
  TUTTI_ASSIGN_OR_RETURN(const auto files, weights::ModelFiles::Open(path));
  if (files->packed() == nullptr)
    return absl::InvalidArgumentError(path + ": is no packed directory");
  const auto in_file = [&](const absl::Status& status) { return Annotate(status, path); };
  const auto model = ParseModel(*files);
  if (!model.ok()) return in_file(model.status());
  const PackedManifest& manifest = files->packed()->manifest();
  for (const DType kv : {DType::kF16, DType::kF32}) {
    TUTTI_RETURN_IF_ERROR(in_file(
        CheckPackedFingerprint(*files, kv, Fingerprint(manifest.content_hash, model->config, kv))));
  }
  // Every matrix is found, and every range is read.
  if (const auto weights = LoadWeights(*files, *model, options); !weights.ok())
    return in_file(weights.status());
  for (const PackedRange& range : manifest.ranges) {
    for (const PackedTensor& t : range.tensors) {
      const auto piece = files->packed()->Find(t.name, t.row);
      if (Hash64(piece.data.data(), piece.data.size()) != t.xxh3) {
        return in_file(
            absl::DataLossError(absl::StrCat("range ", Printable(range.name), ", tensor ",
                                             Printable(t.name), ": checksum differs")));
      }
    }
  }
  return Summarize(manifest);
}

}  // namespace tutti::model
