#include "shared/weights/packed_files.h"

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "shared/base/hash.h"
#include "shared/base/strings.h"

namespace tutti::weights {
namespace {

namespace fs = std::filesystem;

absl::StatusOr<std::shared_ptr<const MappedFile>> OpenSized(const std::string& path,
                                                            uint64_t bytes) {
  TUTTI_ASSIGN_OR_RETURN(auto file, MappedFile::Open(path));
  if (file->bytes().size() != bytes) {
    return absl::DataLossError(absl::StrCat(path, ": has ", file->bytes().size(),
                                            " bytes; the manifest says ", bytes,
                                            ": it is cut short or damaged"));
  }
  return file;
}

}  // namespace

bool PackedFiles::Is(const std::string& folder) {
  std::error_code ignored;
  return fs::is_regular_file(fs::path(folder) / kPackedManifest, ignored);
}

absl::StatusOr<std::shared_ptr<const PackedFiles>> PackedFiles::Open(const std::string& folder) {
  std::shared_ptr<PackedFiles> p(new PackedFiles);
  p->folder_ = folder;
  const std::string manifest = folder + "/" + kPackedManifest;
  TUTTI_ASSIGN_OR_RETURN(const auto text, MappedFile::Open(manifest));
  TUTTI_ASSIGN_OR_RETURN(
      p->manifest_,
      ParsePackedManifest(
          {reinterpret_cast<const char*>(text->bytes().data()), text->bytes().size()}, manifest));

  size_t found = 0;
  for (const auto& f : p->manifest_.source_files) {
    const std::string path = p->source_folder() + "/" + f.name;
    TUTTI_ASSIGN_OR_RETURN(const auto file, OpenSized(path, f.bytes));
    if (Hash64(file->bytes().data(), file->bytes().size()) != f.xxh3) {
      return absl::DataLossError(
          absl::StrCat(path, ": its checksum is not the manifest's: it is damaged or was changed"));
    }
    ++found;
  }
  // A file more could change what the others mean (a generation_config.json, say).
  std::error_code error;
  for (fs::directory_iterator it(p->source_folder(), error), end; !error && it != end;
       it.increment(error)) {
    if (found-- == 0) {
      return absl::DataLossError(
          absl::StrCat(p->source_folder(), ": holds files that the manifest does not know"));
    }
  }
  if (error) return absl::UnavailableError(p->source_folder() + ": " + error.message());

  for (const auto& f : p->manifest_.data_files) {
    TUTTI_ASSIGN_OR_RETURN(auto file, OpenSized(folder + "/" + f.name, f.bytes));
    file->PreferHugePages();  // a pass over all weights is bound by TLB misses otherwise
    p->files_.push_back(std::move(file));
  }
  for (size_t r = 0; r < p->manifest_.ranges.size(); ++r) {
    const auto& tensors = p->manifest_.ranges[r].tensors;
    for (size_t t = 0; t < tensors.size(); ++t)
      p->index_.emplace(std::pair(std::string_view(tensors[t].name), tensors[t].row),
                        std::pair(r, t));
  }
  return p;
}

PackedFiles::Piece PackedFiles::PieceAt(std::pair<size_t, size_t> at) const {
  const PackedRange& range = manifest_.ranges[at.first];
  const PackedTensor& t = range.tensors[at.second];
  return {&t, Bytes(range).subspan(t.offset, t.bytes), range.file,
          static_cast<size_t>(range.offset + t.offset)};
}

PackedFiles::Piece PackedFiles::Find(std::string_view name, int64_t row) const {
  const auto it = index_.find({name, row});
  return it == index_.end() ? Piece{} : PieceAt(it->second);
}

PackedFiles::Piece PackedFiles::FindWithRow(std::string_view name, int64_t row) const {
  auto it = index_.upper_bound({name, row});
  if (it == index_.begin() || (--it)->first.first != name) return {};
  const Piece piece = PieceAt(it->second);
  return row - piece.tensor->row < piece.tensor->shape[0] ? piece : Piece{};
}

absl::Status PackedFiles::Damaged(const PackedRange& range, const std::string& what) const {
  return absl::DataLossError(absl::StrCat(files_[range.file]->path(), ": range ",
                                          Printable(range.name), " (", range.bytes, " bytes at ",
                                          range.offset, "): its checksum differs: ", what,
                                          " damaged; pack the model again"));
}

absl::Status PackedFiles::VerifyRange(size_t index) const {
  const PackedRange& range = manifest_.ranges[index];
  files_[range.file]->Populate(range.offset, range.bytes);
  const std::span<const std::byte> bytes = Bytes(range);
  if (Hash64(bytes.data(), bytes.size()) == range.xxh3) return absl::OkStatus();
  for (const PackedTensor& t : range.tensors) {
    if (Hash64(bytes.data() + t.offset, t.bytes) == t.xxh3) continue;
    return Damaged(range, absl::StrCat("tensor ", Printable(t.name), " at byte ",
                                       range.offset + t.offset, " is"));
  }
  return Damaged(range, "the padding between its tensors is");
}

absl::Status PackedFiles::VerifyVectors(size_t index) const {
  const PackedRange& range = manifest_.ranges[index];
  for (const PackedTensor& t : range.tensors) {
    if (t.kind != PackedTensor::Kind::kVector ||
        Hash64(Bytes(range).data() + t.offset, t.bytes) == t.xxh3) {
      continue;
    }
    return Damaged(range, absl::StrCat("tensor ", Printable(t.name), " at byte ",
                                       range.offset + t.offset, " is"));
  }
  return absl::OkStatus();
}

}  // namespace tutti::weights
