#include "shared/weights/packed_manifest.h"

#include <algorithm>
#include <set>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "shared/base/hash.h"
#include "shared/base/strings.h"
#include "shared/weights/json_text.h"

namespace tutti::weights {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr char kFormat[] = "tutti-packed";
constexpr size_t kManifestBytesMax = size_t{256} << 20;
constexpr uint64_t kFileBytesMax = uint64_t{1} << 56;  // so that no sum of two overflows
constexpr size_t kFilesMax = 4096, kRangesMax = size_t{1} << 20, kTensorsMax = size_t{1} << 20;
constexpr size_t kTextBytesMax = 1024;

constexpr char kSealBegin[] = "{\"xxh3\": \"";
constexpr char kSealEnd[] = "\",\n";
constexpr size_t kSealBytes = sizeof(kSealBegin) - 1 + 16 + sizeof(kSealEnd) - 1;

// Reads the fields of one object; the first error stays. Afterwards `Finish` refuses what nobody
// asked for.
class ObjectReader {
 public:
  ObjectReader(const json& value, std::string where, absl::Status* status)
      : where_(std::move(where)), status_(status) {
    if (value.is_object()) {
      object_ = &value;
    } else {
      Fail("", "must be an object");
    }
  }

  template <typename... A>
  void Fail(std::string_view field, const A&... what) {
    if (!status_->ok()) return;
    *status_ = absl::InvalidArgumentError(absl::StrCat(
        where_, where_.empty() || field.empty() ? "" : ".", ToAbsl(field), ": ", what...));
  }

  const json* Get(const char* field) {
    known_.insert(field);
    if (!status_->ok()) return nullptr;
    const auto it = object_->find(field);
    if (it == object_->end()) {
      Fail(field, "is missing");
      return nullptr;
    }
    return &*it;
  }
  bool Has(const char* field) const { return status_->ok() && object_->contains(field); }

  uint64_t Count(const char* field, uint64_t min, uint64_t max) {
    const json* v = Get(field);
    if (v == nullptr) return min;
    if (v->is_number_unsigned() && v->get<uint64_t>() >= min && v->get<uint64_t>() <= max)
      return v->get<uint64_t>();
    Fail(field, Show(*v), " is not a whole number from ", min, " to ", max);
    return min;
  }
  std::string Text(const char* field) {
    const json* v = Get(field);
    if (v == nullptr) return "";
    if (v->is_string() && !v->get_ref<const std::string&>().empty() &&
        v->get_ref<const std::string&>().size() <= kTextBytesMax)
      return v->get<std::string>();
    Fail(field, Show(*v), " is not a text of 1 to ", kTextBytesMax, " bytes");
    return "";
  }
  // The name of a file in the same folder.
  std::string FileName(const char* field) {
    std::string name = Text(field);
    if (!name.empty() &&
        (name[0] == '.' || name.find('/') != name.npos || name.find('\0') != name.npos)) {
      Fail(field, "\"", Printable(name), "\" is not the plain name of a file");
    }
    return name;
  }
  uint64_t Hex(const char* field) {
    const json* v = Get(field);
    uint64_t out = 0;
    if (v == nullptr || (v->is_string() && ParseHex64(v->get_ref<const std::string&>(), &out)))
      return out;
    Fail(field, Show(*v), " is not a checksum of 16 hex digits");
    return 0;
  }
  // The elements of a list; `of` is called with each element and its place.
  template <typename F>
  void List(const char* field, size_t min, size_t max, const F& of) {
    const json* v = Get(field);
    if (v == nullptr) return;
    if (!v->is_array() || v->size() < min || v->size() > max)
      return Fail(field, "must be a list of ", min, " to ", max, " elements");
    for (size_t i = 0; i < v->size() && status_->ok(); ++i)
      of((*v)[i], absl::StrCat(where_, where_.empty() ? "" : ".", field, "[", i, "]"));
  }
  void Finish() {
    if (!status_->ok()) return;
    for (const auto& [key, unused] : object_->items()) {
      if (!known_.contains(key)) return Fail(Printable(key), "no such field");
    }
  }

  static std::string Show(const json& v) {
    return Printable(v.dump(-1, ' ', true, json::error_handler_t::replace), 60);
  }

 private:
  const std::string where_;
  absl::Status* status_;
  const json* object_ = nullptr;
  std::set<std::string, std::less<>> known_;
};

const char* KindName(PackedTensor::Kind kind) {
  return kind == PackedTensor::Kind::kMatrix ? "matrix" : "vector";
}

PackedTensor ReadTensor(const json& value, const std::string& where, absl::Status* status) {
  PackedTensor t;
  ObjectReader r(value, where, status);
  t.name = r.Text("name");
  const std::string kind = r.Text("kind");
  if (kind == KindName(PackedTensor::Kind::kVector)) {
    t.kind = PackedTensor::Kind::kVector;
  } else if (kind != KindName(PackedTensor::Kind::kMatrix)) {
    r.Fail("kind", "\"", Printable(kind), "\" is neither \"matrix\" nor \"vector\"");
  }
  const bool matrix = t.kind == PackedTensor::Kind::kMatrix;
  const std::string dtype = r.Text("dtype");
  int index = 0;
  while (index < kNumDTypes && Traits(static_cast<DType>(index)).name != dtype) ++index;
  if (index == kNumDTypes) {
    r.Fail("dtype", "\"", Printable(dtype), "\" is no type of weights");
    index = 0;
  }
  t.dtype = static_cast<DType>(index);
  if (matrix) t.row = static_cast<int64_t>(r.Count("row", 0, kFileBytesMax));
  uint64_t elements = 1;
  const size_t num_dims = matrix ? 2 : 1;
  r.List("shape", num_dims, num_dims, [&](const json& d, const std::string& place) {
    const uint64_t n = d.is_number_unsigned() ? d.get<uint64_t>() : 0;
    if (n == 0 || n > kFileBytesMax / elements) {
      *status = absl::InvalidArgumentError(absl::StrCat(
          place, ": ", ObjectReader::Show(d), " is not a size from 1 on that a file can hold"));
      return;
    }
    elements *= n;
    t.shape.push_back(static_cast<int64_t>(n));
  });
  t.offset = r.Count("offset", 0, kFileBytesMax);
  t.bytes = r.Count("bytes", 1, kFileBytesMax);
  t.xxh3 = r.Hex("xxh3");
  r.Finish();
  if (t.offset % kTensorAlignment != 0)
    r.Fail("offset", t.offset, " is not a multiple of ", kTensorAlignment);
  if (!status->ok()) return t;
  // What a matrix takes is the kernels' business (PackedMatrix::Borrow looks); a vector is itself.
  if (const auto want = StorageBytes(t.dtype, elements); !matrix && want != t.bytes) {
    r.Fail("bytes", t.bytes, " is not the size of ", elements, " elements of ", dtype);
  }
  return t;
}

PackedRange ReadRange(const json& value, const std::string& where, const PackedManifest& m,
                      absl::Status* status) {
  PackedRange range;
  ObjectReader r(value, where, status);
  range.name = r.Text("name");
  const std::string file = r.Text("file");
  while (range.file < m.data_files.size() && m.data_files[range.file].name != file) ++range.file;
  if (range.file == m.data_files.size())
    r.Fail("file", "\"", Printable(file), "\" is none of data_files");
  range.offset = r.Count("offset", 0, kFileBytesMax);
  range.bytes = r.Count("bytes", 1, kFileBytesMax);
  if (range.bytes % kRangeAlignment != 0)
    r.Fail("bytes", range.bytes, " is not a multiple of ", kRangeAlignment);
  range.xxh3 = r.Hex("xxh3");
  uint64_t end = 0;
  r.List("tensors", 1, kTensorsMax, [&](const json& entry, const std::string& place) {
    PackedTensor t = ReadTensor(entry, place, status);
    if (!status->ok()) return;
    if (t.offset < end) {
      *status = absl::InvalidArgumentError(absl::StrCat(
          place, ".offset: ", t.offset, " overlaps the tensor before it, which ends at ", end));
    } else if (t.offset > range.bytes || t.bytes > range.bytes - t.offset) {
      *status = absl::InvalidArgumentError(absl::StrCat(place, ".bytes: ", t.bytes, " at offset ",
                                                        t.offset, " goes past the range's ",
                                                        range.bytes, " bytes"));
    }
    end = t.offset + t.bytes;
    range.tensors.push_back(std::move(t));
  });
  r.Finish();
  return range;
}

// The ranges must cover the data files exactly, one after the other: then every byte that is mapped
// has a checksum.
absl::Status CheckCover(const PackedManifest& m) {
  std::set<std::string_view> names;
  std::set<std::pair<std::string_view, int64_t>> pieces;
  std::vector<uint64_t> ends(m.data_files.size(), 0);
  size_t file = 0;
  for (size_t i = 0; i < m.ranges.size(); ++i) {
    const PackedRange& r = m.ranges[i];
    const auto bad = [&](const char* field, const auto&... what) {
      return absl::InvalidArgumentError(absl::StrCat("ranges[", i, "].", field, ": ", what...));
    };
    if (!names.insert(r.name).second)
      return bad("name", "\"", Printable(r.name), "\" stands twice");
    if (r.file < file) return bad("file", "ranges stand in the order of data_files");
    file = r.file;
    if (r.offset != ends[file]) {
      return bad("offset", r.offset, " must be ", ends[file],
                 ": ranges follow one another without gap or overlap");
    }
    if (r.bytes > m.data_files[file].bytes - r.offset) {
      return bad("bytes", r.bytes, " at offset ", r.offset, " goes past the file's ",
                 m.data_files[file].bytes, " bytes");
    }
    ends[file] = r.offset + r.bytes;
    for (size_t k = 0; k < r.tensors.size(); ++k) {
      if (!pieces.emplace(r.tensors[k].name, r.tensors[k].row).second) {
        return absl::InvalidArgumentError(absl::StrCat("ranges[", i, "].tensors[", k, "].name: \"",
                                                       Printable(r.tensors[k].name), "\" row ",
                                                       r.tensors[k].row, " stands twice"));
      }
    }
  }
  for (size_t i = 0; i < ends.size(); ++i) {
    if (ends[i] != m.data_files[i].bytes) {
      return absl::InvalidArgumentError(
          absl::StrCat("data_files[", i, "].bytes: ", m.data_files[i].bytes, " must be ", ends[i],
                       ", where its last range ends"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<PackedManifest> ReadManifest(const json& root) {
  PackedManifest m;
  absl::Status status;
  ObjectReader r(root, "", &status);
  r.Get("xxh3");
  if (const std::string format = r.Text("format"); format != kFormat)
    r.Fail("format", "\"", Printable(format), "\" must be \"", kFormat, "\"");
  const uint64_t version = r.Count("version", 0, UINT32_MAX);
  const std::string layout = r.Text("layout");
  TUTTI_RETURN_IF_ERROR(status);
  if (version != kPackedVersion || layout != kPackedLayout) {
    return absl::UnimplementedError(absl::StrCat(
        "version ", version, " with layout ", Printable(layout), " is not read here, version ",
        kPackedVersion, " with layout ", kPackedLayout, " is: pack the model again"));
  }
  m.name = r.Text("name");
  if (const json* source = r.Get("source")) {
    ObjectReader s(*source, "source", &status);
    const std::string format = s.Text("format");
    if (format == "safetensors") {
      m.source = PackedManifest::Source::kSafetensors;
    } else if (format != "gguf") {
      s.Fail("format", "\"", Printable(format), "\" is neither \"gguf\" nor \"safetensors\"");
    }
    m.source_name = s.FileName("name");
    m.content_hash = s.Hex("content_hash");
    s.Finish();
  }
  if (const json* prints = r.Get("fingerprints")) {
    ObjectReader f(*prints, "fingerprints", &status);
    for (const char* kv : {"F16", "F32", "Q8_0"}) m.fingerprints[kv] = f.Hex(kv);
    f.Finish();
  }
  std::set<std::string> names;
  r.List("source_files", 1, kFilesMax, [&](const json& entry, const std::string& place) {
    ObjectReader f(entry, place, &status);
    m.source_files.push_back(
        {f.FileName("name"), f.Count("bytes", 1, kFileBytesMax), f.Hex("xxh3")});
    f.Finish();
    if (!names.insert(m.source_files.back().name).second) f.Fail("name", "stands twice");
  });
  names = {kPackedManifest, kPackedSourceFolder};
  r.List("data_files", 1, kFilesMax, [&](const json& entry, const std::string& place) {
    ObjectReader f(entry, place, &status);
    m.data_files.push_back({f.FileName("name"), f.Count("bytes", 1, kFileBytesMax), 0});
    f.Finish();
    if (!names.insert(m.data_files.back().name).second) f.Fail("name", "stands twice");
  });
  r.List("ranges", 1, kRangesMax, [&](const json& entry, const std::string& place) {
    m.ranges.push_back(ReadRange(entry, place, m, &status));
  });
  r.Finish();
  TUTTI_RETURN_IF_ERROR(status);
  TUTTI_RETURN_IF_ERROR(CheckCover(m));
  if (m.source == PackedManifest::Source::kGguf &&
      std::none_of(m.source_files.begin(), m.source_files.end(),
                   [&](const auto& f) { return f.name == m.source_name; })) {
    return absl::InvalidArgumentError(
        absl::StrCat("source.name: \"", Printable(m.source_name), "\" is none of source_files"));
  }
  return m;
}

}  // namespace

std::string SealLine(std::string_view rest) { return kSealBegin + Hex64(Hash64(rest)) + kSealEnd; }

absl::StatusOr<PackedManifest> ParsePackedManifest(std::string_view text, const std::string& name) {
  const std::string_view rest = text.substr(std::min(kSealBytes, text.size()));
  if (!text.starts_with(kSealBegin)) {
    return absl::InvalidArgumentError(absl::StrCat(
        name, ": not the manifest of a packed model: it must start with ", kSealBegin));
  }
  if (text.substr(0, text.size() - rest.size()) != SealLine(rest)) {
    return absl::DataLossError(absl::StrCat(
        name,
        ": xxh3: the checksum of the manifest differs: it is damaged, cut short or was changed"));
  }
  TUTTI_ASSIGN_OR_RETURN(const json root,
                         ParseJson(text, name, {.bytes_max = kManifestBytesMax, .depth_max = 8}));
  auto manifest = ReadManifest(root);
  if (!manifest.ok()) return Annotate(manifest.status(), name);
  return manifest;
}

std::string WritePackedManifest(const PackedManifest& m) {
  ordered_json root;
  root["format"] = kFormat;
  root["version"] = kPackedVersion;
  root["layout"] = kPackedLayout;
  root["name"] = m.name;
  root["source"] = {{"format", m.source == PackedManifest::Source::kGguf ? "gguf" : "safetensors"},
                    {"name", m.source_name},
                    {"content_hash", Hex64(m.content_hash)}};
  for (const auto& [kv, fingerprint] : m.fingerprints)
    root["fingerprints"][kv] = Hex64(fingerprint);
  for (const auto& f : m.source_files)
    root["source_files"].push_back({{"name", f.name}, {"bytes", f.bytes}, {"xxh3", Hex64(f.xxh3)}});
  for (const auto& f : m.data_files)
    root["data_files"].push_back({{"name", f.name}, {"bytes", f.bytes}});
  for (const PackedRange& r : m.ranges) {
    ordered_json tensors = ordered_json::array();
    for (const PackedTensor& t : r.tensors) {
      ordered_json entry = {
          {"name", t.name}, {"kind", KindName(t.kind)}, {"dtype", Traits(t.dtype).name}};
      if (t.kind == PackedTensor::Kind::kMatrix) entry["row"] = t.row;
      entry["shape"] = t.shape;
      entry["offset"] = t.offset;
      entry["bytes"] = t.bytes;
      entry["xxh3"] = Hex64(t.xxh3);
      tensors.push_back(std::move(entry));
    }
    root["ranges"].push_back({{"name", r.name},
                              {"file", m.data_files[r.file].name},
                              {"offset", r.offset},
                              {"bytes", r.bytes},
                              {"xxh3", Hex64(r.xxh3)},
                              {"tensors", std::move(tensors)}});
  }
  // "{" and a line end are the beginning of the dump; the first line of the text stands for them.
  const std::string rest =
      root.dump(1, ' ', false, ordered_json::error_handler_t::replace).substr(2) + "\n";
  return SealLine(rest) + rest;
}

}  // namespace tutti::weights
