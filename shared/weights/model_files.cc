#include "shared/weights/model_files.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <set>

#include "absl/strings/str_cat.h"
#include "shared/base/hash.h"
#include "shared/base/strings.h"
#include "shared/weights/gguf.h"
#include "shared/weights/gguf_split.h"
#include "shared/weights/json_text.h"
#include "shared/weights/safetensors.h"

namespace tutti::weights {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr size_t kConfigBytesMax = size_t{16} << 20;
constexpr size_t kShardsMax = 4096;

bool Exists(const fs::path& p) {
  std::error_code ignored;
  return fs::exists(p, ignored);
}

// A JSON object from `folder / name`; null when there is no such file and it is optional.
absl::StatusOr<json> ReadConfig(const fs::path& folder, const char* name, bool required) {
  const fs::path path = folder / name;
  if (!Exists(path) && !required) return json(nullptr);
  TUTTI_ASSIGN_OR_RETURN(json config, ReadJsonFile(path.string(), {.bytes_max = kConfigBytesMax}));
  if (!config.is_object())
    return absl::InvalidArgumentError(path.string() + ": must be a JSON object");
  return config;
}

absl::StatusOr<std::vector<fs::path>> ListByExtension(const fs::path& folder,
                                                      const char* extension) {
  std::vector<fs::path> out;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    if (it->path().extension() == extension) out.push_back(it->path());
  }
  if (error) return absl::UnavailableError(folder.string() + ": " + error.message());
  std::sort(out.begin(), out.end());
  return out;
}

}  // namespace

absl::StatusOr<std::shared_ptr<const ModelFiles>> ModelFiles::Open(const std::string& path) {
  std::error_code error;
  const auto kind = fs::status(path, error).type();
  if (kind == fs::file_type::not_found) {
    return absl::NotFoundError(
        path +
        ": no such file or folder (a .gguf file, or a folder with config.json "
        "and *.safetensors)");
  }
  if (kind == fs::file_type::directory) {
    if (PackedFiles::Is(path)) return OpenPacked(path);
    if (!Exists(fs::path(path) / "config.json")) {
      TUTTI_ASSIGN_OR_RETURN(const auto ggufs, ListByExtension(path, ".gguf"));
      const auto split = ggufs.empty() ? std::nullopt : ParseSplitName(ggufs[0].string());
      if (ggufs.size() == 1 ||
          (split.has_value() && std::all_of(ggufs.begin(), ggufs.end(), [&](const fs::path& p) {
             const auto part = ParseSplitName(p.string());
             return part.has_value() && part->prefix == split->prefix &&
                    part->count == split->count;
           }))) {
        return Open(ggufs[0].string());
      }
      return absl::NotFoundError(
          absl::StrCat(path,
                       ": a model folder has config.json and *.safetensors, or one "
                       ".gguf file (or all parts of a split one); this one has no config.json and ",
                       ggufs.size(), " .gguf files: name the one that is meant"));
    }
    return OpenSafetensors(path, /*folder=*/true);
  }
  TUTTI_ASSIGN_OR_RETURN(auto file, MappedFile::Open(path));
  const auto bytes = file->bytes();
  if (bytes.size() >= 4 && std::memcmp(bytes.data(), "GGUF", 4) == 0)
    return OpenGguf(std::move(file));
  if (bytes.size() >= 9 && bytes[8] == std::byte{'{'})
    return OpenSafetensors(path, /*folder=*/false);
  return absl::InvalidArgumentError(absl::StrCat(
      path,
      ": neither a GGUF file (starts with \"GGUF\") nor a safetensors file (has '{' at byte 8)"));
}

absl::StatusOr<std::shared_ptr<const ModelFiles>> ModelFiles::OpenPacked(const std::string& path) {
  TUTTI_ASSIGN_OR_RETURN(const auto packed, PackedFiles::Open(path));
  const PackedManifest& manifest = packed->manifest();
  std::shared_ptr<ModelFiles> m;
  if (manifest.source == PackedManifest::Source::kGguf) {
    TUTTI_ASSIGN_OR_RETURN(auto file,
                           MappedFile::Open(packed->source_folder() + "/" + manifest.source_name));
    TUTTI_ASSIGN_OR_RETURN(m, OpenGguf(std::move(file), TensorData::kElsewhere));
  } else {
    TUTTI_ASSIGN_OR_RETURN(
        m, OpenSafetensors(packed->source_folder(), /*folder=*/true, TensorData::kElsewhere));
  }
  m->path_ = path;
  m->packed_ = packed;
  const size_t num_source_files = m->files_.size();
  m->files_.insert(m->files_.end(), packed->data_files().begin(), packed->data_files().end());
  for (TensorInfo& t : m->tensors_) {
    if (t.shape.size() != 1) continue;
    const PackedFiles::Piece piece = packed->Find(t.name, 0);
    if (piece.tensor == nullptr || piece.tensor->kind != PackedTensor::Kind::kVector ||
        piece.tensor->dtype != t.dtype || piece.tensor->shape != t.shape) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, "/", kPackedManifest, ": tensor \"", Printable(t.name),
                       "\" must be there as a vector of ", t.shape[0], " ",
                       ToAbsl(Traits(t.dtype).name), ", as in the source's header"));
    }
    t.data = piece.data;
    t.file_index = static_cast<int>(num_source_files + piece.file);
    t.file_offset = piece.file_offset;
  }
  return m;
}

std::string ModelFiles::folder() const {
  if (packed_ != nullptr) return packed_->source_folder();
  std::error_code ignored;
  return fs::is_directory(path_, ignored) ? path_ : fs::path(path_).parent_path().string();
}

std::string ModelFiles::Name() const {
  if (packed_ != nullptr) return OneWord(packed_->manifest().name);
  if (format_ == Format::kGguf) {
    const auto it = config_.find("general.name");
    if (it != config_.end() && it->is_string()) {
      const std::string name = OneWord(Printable(it->get_ref<const std::string&>()));
      if (!name.empty()) return name;
    }
  }
  fs::path path(path_);
  if (const auto split = ParseSplitName(path_)) path = split->prefix + ".gguf";
  if (!path.has_filename()) path = path.parent_path();
  return OneWord(format_ == Format::kGguf ? path.stem().string() : path.filename().string());
}

absl::StatusOr<std::shared_ptr<ModelFiles>> ModelFiles::OpenGguf(
    std::shared_ptr<const MappedFile> file, TensorData data) {
  std::shared_ptr<ModelFiles> m(new ModelFiles);
  m->format_ = Format::kGguf;
  m->path_ = file->path();
  TUTTI_ASSIGN_OR_RETURN(GgufContents contents, ParseGguf(file->bytes(), file->path(), data));
  TUTTI_ASSIGN_OR_RETURN(const SplitInfo split, ReadSplitInfo(contents, file->path()));
  if (split.count > 1 && split.number != 1) {
    const auto name = ParseSplitName(file->path());
    if (!name.has_value() || name->number != split.number || name->count != split.count) {
      return absl::InvalidArgumentError(absl::StrCat(
          file->path(), ": is part ", split.number, " of ", split.count, " of a split model, and ",
          "the others are found by its name, which must end in ",
          SplitName{"", 1, split.count}.Part(split.number)));
    }
    TUTTI_ASSIGN_OR_RETURN(auto first, MappedFile::Open(name->Part(1)));
    TUTTI_ASSIGN_OR_RETURN(const GgufContents head, ParseGguf(first->bytes(), first->path(), data));
    TUTTI_ASSIGN_OR_RETURN(const SplitInfo info, ReadSplitInfo(head, first->path()));
    if (info.number != 1 || info.count != split.count) {
      return absl::InvalidArgumentError(
          absl::StrCat(first->path(), ": by its metadata it is not part 1 of ", split.count,
                       " (split.no ", info.number - 1, ", split.count ", info.count, ")"));
    }
    return OpenGguf(std::move(first), data);
  }
  m->config_ = std::move(contents.metadata);
  m->arrays_ = std::move(contents.arrays);
  m->tensors_ = std::move(contents.tensors);
  m->header_bytes_.push_back(contents.header_bytes);
  m->files_.push_back(std::move(file));
  if (split.count > 1) TUTTI_RETURN_IF_ERROR(m->OpenOtherParts(contents, split, data));
  TUTTI_RETURN_IF_ERROR(m->BuildIndex());
  return m;
}

absl::Status ModelFiles::OpenOtherParts(const GgufContents& first, const SplitInfo& split,
                                        TensorData data) {
  const auto name = ParseSplitName(path_);
  if (!name.has_value() || name->number != 1 || name->count != split.count) {
    return absl::InvalidArgumentError(
        absl::StrCat(path_, ": is part 1 of ", split.count,
                     " of a split model, and the others are found by its name, which must end in ",
                     SplitName{"", 1, split.count}.Part(1)));
  }
  for (int i = 2; i <= split.count; ++i) {
    const std::string path = name->Part(i);
    auto file = MappedFile::Open(path);
    if (absl::IsNotFound(file.status())) {
      return absl::NotFoundError(absl::StrCat(path, ": part ", i, " of ", split.count,
                                              " of a split model is missing; all parts must lie in "
                                              "one folder"));
    }
    TUTTI_RETURN_IF_ERROR(file.status());
    TUTTI_ASSIGN_OR_RETURN(GgufContents part, ParseGguf((*file)->bytes(), path, data));
    TUTTI_ASSIGN_OR_RETURN(const SplitInfo info, ReadSplitInfo(part, path));
    if (info.number != i || info.count != split.count) {
      return absl::InvalidArgumentError(absl::StrCat(
          path, ": by its metadata it is ",
          info.count > 1 ? absl::StrCat("part ", info.number, " of ", info.count) : "no part",
          ", not part ", i, " of ", split.count));
    }
    TUTTI_RETURN_IF_ERROR(CheckPartMetadata(first, part, path));
    if (info.num_tensors != split.num_tensors) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": split.tensors.count is ",
                                                     info.num_tensors, ", and in the first part ",
                                                     split.num_tensors));
    }
    for (TensorInfo& t : part.tensors) {
      t.file_index = static_cast<int>(files_.size());
      tensors_.push_back(std::move(t));
    }
    header_bytes_.push_back(part.header_bytes);
    files_.push_back(*std::move(file));
  }
  if (split.num_tensors > 0 && split.num_tensors != static_cast<int64_t>(tensors_.size())) {
    return absl::InvalidArgumentError(absl::StrCat(
        path_, ": split.tensors.count is ", split.num_tensors, ", and the ", split.count,
        " parts have ", tensors_.size(), " tensors: a part is damaged or of another model"));
  }
  for (const char* key : {"split.no", "split.count", "split.tensors.count"}) config_.erase(key);
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<ModelFiles>> ModelFiles::OpenSafetensors(const std::string& path,
                                                                        bool folder,
                                                                        TensorData data) {
  std::shared_ptr<ModelFiles> m(new ModelFiles);
  m->format_ = Format::kSafetensors;
  m->path_ = path;
  const fs::path dir = folder ? fs::path(path) : fs::path(path).parent_path();
  TUTTI_ASSIGN_OR_RETURN(m->config_, ReadConfig(dir, "config.json", folder));
  TUTTI_ASSIGN_OR_RETURN(m->generation_config_, ReadConfig(dir, "generation_config.json", false));
  TUTTI_ASSIGN_OR_RETURN(m->tokenizer_config_, ReadConfig(dir, "tokenizer_config.json", false));

  std::vector<fs::path> shards;
  std::map<std::string, std::string> placement;  // tensor -> shard, when there is an index
  const fs::path index = dir / "model.safetensors.index.json";
  if (!folder) {
    shards.push_back(path);
  } else if (Exists(index)) {
    TUTTI_ASSIGN_OR_RETURN(const auto text, MappedFile::Open(index.string()));
    TUTTI_ASSIGN_OR_RETURN(
        placement,
        ParseShardIndex({reinterpret_cast<const char*>(text->bytes().data()), text->bytes().size()},
                        index.string()));
    std::set<std::string> names;
    for (const auto& [tensor, shard] : placement) names.insert(shard);
    if (names.size() > kShardsMax) {
      return absl::InvalidArgumentError(
          absl::StrCat(index.string(), ": ", names.size(), " shards; at most ", kShardsMax));
    }
    for (const auto& name : names) shards.push_back(dir / name);
  } else if (Exists(dir / "model.safetensors")) {
    shards.push_back(dir / "model.safetensors");
  } else {
    TUTTI_ASSIGN_OR_RETURN(shards, ListByExtension(dir, ".safetensors"));
    if (shards.size() != 1) {
      return absl::NotFoundError(
          absl::StrCat(dir.string(), ": no model.safetensors and no model.safetensors.index.json (",
                       shards.size(), " other *.safetensors files)"));
    }
  }

  for (const fs::path& shard : shards) {
    TUTTI_ASSIGN_OR_RETURN(auto file, MappedFile::Open(shard.string()));
    TUTTI_ASSIGN_OR_RETURN(SafetensorsContents contents,
                           ParseSafetensors(file->bytes(), shard.string(), data));
    m->header_bytes_.push_back(contents.header_bytes);
    for (TensorInfo& t : contents.tensors) {
      t.file_index = static_cast<int>(m->files_.size());
      m->tensors_.push_back(std::move(t));
    }
    for (auto& name : contents.ignored) m->ignored_.push_back(std::move(name));
    m->files_.push_back(std::move(file));
  }
  TUTTI_RETURN_IF_ERROR(m->BuildIndex());
  const std::set<std::string> ignored(m->ignored_.begin(), m->ignored_.end());
  for (const auto& [tensor, shard] : placement) {
    if (ignored.contains(tensor)) continue;
    const TensorInfo* t = m->Find(tensor);
    if (t == nullptr || fs::path(m->files_[t->file_index]->path()).filename() != shard) {
      return absl::InvalidArgumentError(absl::StrCat(index.string(), ": weight_map[\"",
                                                     Printable(tensor), "\"]: no such tensor in ",
                                                     Printable(shard)));
    }
  }
  return m;
}

absl::Status ModelFiles::BuildIndex() {
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const auto [it, fresh] = index_.emplace(tensors_[i].name, i);
    if (!fresh) {
      return absl::InvalidArgumentError(
          absl::StrCat(files_[tensors_[i].file_index]->path(), ": tensor \"",
                       Printable(tensors_[i].name), "\" stands twice",
                       tensors_[i].file_index != tensors_[it->second].file_index
                           ? " (also in " + files_[tensors_[it->second].file_index]->path() + ")"
                           : ""));
    }
  }
  return absl::OkStatus();
}

const TensorInfo* ModelFiles::Find(std::string_view name) const {
  const auto it = index_.find(name);
  return it == index_.end() ? nullptr : &tensors_[it->second];
}

const MetadataArray* ModelFiles::FindArray(std::string_view key) const {
  const auto it = arrays_.find(key);
  return it == arrays_.end() ? nullptr : &it->second;
}

uint64_t ModelFiles::ContentHash() const {
  if (packed_ != nullptr) return packed_->manifest().content_hash;
  std::call_once(hash_once_, [this] {
    const auto mix = [this](const void* data, size_t n) { hash_ = Hash64(data, n, hash_); };
    const auto mix_text = [&](std::string_view s) {
      const uint64_t n = s.size();
      mix(&n, sizeof(n));
      mix(s.data(), s.size());
    };
    for (const json* j : {&config_, &generation_config_, &tokenizer_config_}) {
      mix_text(j->dump(-1, ' ', true, json::error_handler_t::replace));
    }
    for (const auto& [key, array] : arrays_) {
      mix_text(key);
      mix(array.bytes_.data(), array.bytes_.size());
    }
    // In the order of names, so that shards may be cut anywhere. Pages go again as they were read:
    // the hash must not make the whole file resident.
    constexpr size_t kPiece = size_t{4} << 20;
    for (const auto& [name, i] : index_) {
      const TensorInfo& t = tensors_[i];
      mix_text(name);
      const auto type = static_cast<uint64_t>(t.dtype);
      mix(&type, sizeof(type));
      mix(t.shape.data(), t.shape.size() * sizeof(t.shape[0]));
      for (size_t at = 0; at < t.data.size(); at += kPiece) {
        const size_t n = std::min(kPiece, t.data.size() - at);
        mix(t.data.data() + at, n);
        files_[t.file_index]->DontNeed(t.file_offset + at, n);
      }
    }
  });
  return hash_;
}

}  // namespace tutti::weights
