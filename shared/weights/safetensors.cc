#include "shared/weights/safetensors.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "shared/base/strings.h"
#include "shared/weights/json_text.h"

namespace tutti::weights {
namespace {

using nlohmann::json;

constexpr uint64_t kHeaderBytesMax = 100'000'000;  // of the format
constexpr size_t kDimsMax = 8;
constexpr uint64_t kElementsMax = uint64_t{1} << 56;

struct FileType {
  const char* name;
  int bytes;
  enum { kWeight, kIgnored, kUnsupported } use;
  DType dtype;
};
constexpr FileType kTypes[] = {
    {"F32", 4, FileType::kWeight, DType::kF32},   {"F16", 2, FileType::kWeight, DType::kF16},
    {"BF16", 2, FileType::kWeight, DType::kBF16}, {"F64", 8, FileType::kUnsupported, {}},
    {"F8_E4M3", 1, FileType::kUnsupported, {}},   {"F8_E5M2", 1, FileType::kUnsupported, {}},
    {"I64", 8, FileType::kIgnored, {}},           {"I32", 4, FileType::kIgnored, {}},
    {"I16", 2, FileType::kIgnored, {}},           {"I8", 1, FileType::kIgnored, {}},
    {"U64", 8, FileType::kIgnored, {}},           {"U32", 4, FileType::kIgnored, {}},
    {"U16", 2, FileType::kIgnored, {}},           {"U8", 1, FileType::kIgnored, {}},
    {"BOOL", 1, FileType::kIgnored, {}},
};

struct Range {
  uint64_t begin, end;
  std::string name;
};

// One entry of the header: {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}.
absl::Status ParseEntry(const std::string& what, const json& entry, TensorInfo* t,
                        const FileType** type, Range* range) {
  const auto error = [&](const auto&... parts) {
    return absl::InvalidArgumentError(absl::StrCat(what, parts...));
  };
  if (!entry.is_object()) return error(": must be an object with dtype, shape and data_offsets");
  for (const auto& [key, value] : entry.items()) {
    if (key != "dtype" && key != "shape" && key != "data_offsets") {
      return error(": has the unknown field \"", Printable(key), "\"");
    }
  }
  const auto dtype = entry.find("dtype");
  if (dtype == entry.end() || !dtype->is_string()) return error(".dtype: must be a string");
  const auto& dtype_name = dtype->get_ref<const std::string&>();
  *type = std::find_if(std::begin(kTypes), std::end(kTypes),
                       [&](const FileType& f) { return dtype_name == f.name; });
  if (*type == std::end(kTypes))
    return error(".dtype: unknown type \"", Printable(dtype_name), "\"");
  if ((*type)->use == FileType::kUnsupported) {
    return absl::UnimplementedError(
        absl::StrCat(what, " is of type ", dtype_name, "; F32, F16 and BF16 are read"));
  }
  const auto shape = entry.find("shape");
  if (shape == entry.end() || !shape->is_array() || shape->size() > kDimsMax) {
    return error(".shape: must be an array of at most ", kDimsMax, " sizes");
  }
  uint64_t elements = 1;
  for (const json& d : *shape) {
    const uint64_t n = d.is_number_unsigned() ? d.get<uint64_t>() : 0;
    if (n == 0 || n > kElementsMax / elements) {
      return error(".shape[", t->shape.size(),
                   "]: ", Printable(d.dump(-1, ' ', true, json::error_handler_t::replace)),
                   " is not a size from 1 to what a file can hold");
    }
    elements *= n;
    t->shape.push_back(static_cast<int64_t>(n));
  }
  const auto offsets = entry.find("data_offsets");
  if (offsets == entry.end() || !offsets->is_array() || offsets->size() != 2 ||
      !(*offsets)[0].is_number_unsigned() || !(*offsets)[1].is_number_unsigned()) {
    return error(".data_offsets: must be two byte offsets, [begin, end]");
  }
  range->begin = (*offsets)[0].get<uint64_t>();
  range->end = (*offsets)[1].get<uint64_t>();
  const uint64_t bytes = elements * static_cast<uint64_t>((*type)->bytes);
  if (range->begin > range->end || range->end - range->begin != bytes) {
    return error(".data_offsets: [", range->begin, ", ", range->end, "] does not span the ", bytes,
                 " bytes of its shape and type");
  }
  t->dtype = (*type)->dtype;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SafetensorsContents> ParseSafetensors(std::span<const std::byte> bytes,
                                                     const std::string& name,
                                                     TensorData placement) {
  const auto error = [&](const auto&... parts) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": ", parts...));
  };
  if (bytes.size() < 8)
    return error("not a safetensors file: ", bytes.size(), " bytes; the header length alone has 8");
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data(), 8);
  if (header_bytes < 2 || header_bytes > kHeaderBytesMax || header_bytes > bytes.size() - 8) {
    return error("byte 0: a header of ", header_bytes, " bytes does not fit a file of ",
                 bytes.size(), " (2 to ", kHeaderBytesMax,
                 "): not a safetensors file, or cut short");
  }
  const std::string_view header(reinterpret_cast<const char*>(bytes.data()) + 8, header_bytes);
  if (header[0] != '{') return error("byte 8: the header must start with '{'");
  // Memory for the parsed header is a small multiple of the header's bytes, which are in the file.
  TUTTI_ASSIGN_OR_RETURN(
      const json root,
      ParseJson(header, name + " (header)", {.bytes_max = kHeaderBytesMax, .depth_max = 4}));
  if (!root.is_object()) return error("byte 8: the header must be a JSON object");

  const auto data = bytes.subspan(8 + header_bytes);
  const bool in_file = placement == TensorData::kInFile;
  SafetensorsContents out;
  out.header_bytes = 8 + header_bytes;
  std::vector<Range> ranges;
  for (const auto& [key, entry] : root.items()) {
    if (key == "__metadata__") {
      if (!entry.is_object()) return error("__metadata__ must be an object of strings");
      continue;
    }
    TensorInfo t;
    t.name = key;
    const FileType* type = nullptr;
    Range range;
    TUTTI_RETURN_IF_ERROR(ParseEntry(absl::StrCat(name, ": tensor \"", Printable(key), "\""), entry,
                                     &t, &type, &range));
    if (in_file && range.end > data.size()) {
      return error("tensor \"", Printable(key), "\" ends at byte ", range.end,
                   " of the data, which has ", data.size(),
                   " bytes: the file is cut short or damaged");
    }
    range.name = key;
    ranges.push_back(range);
    if (type->use == FileType::kIgnored) {
      out.ignored.push_back(key);
      continue;
    }
    t.file_offset = 8 + header_bytes + range.begin;
    if (in_file) t.data = data.subspan(range.begin, range.end - range.begin);
    out.tensors.push_back(std::move(t));
  }

  // The format wants the data covered exactly: no overlap, no hole, nothing behind.
  std::sort(ranges.begin(), ranges.end(),
            [](const Range& a, const Range& b) { return a.begin < b.begin; });
  uint64_t end = 0;
  for (const Range& r : ranges) {
    if (r.begin != end) {
      return error(
          "tensor \"", Printable(r.name), "\" starts at byte ", r.begin, " of the data where ", end,
          r.begin < end ? " is right: it overlaps its neighbour" : " is right: there is a hole");
    }
    end = r.end;
  }
  if (in_file && end != data.size())
    return error(data.size() - end, " bytes after the last tensor belong to none");
  std::sort(out.tensors.begin(), out.tensors.end(),
            [](const TensorInfo& a, const TensorInfo& b) { return a.file_offset < b.file_offset; });
  return out;
}

absl::StatusOr<std::map<std::string, std::string>> ParseShardIndex(std::string_view text,
                                                                   const std::string& name) {
  TUTTI_ASSIGN_OR_RETURN(const json root,
                         ParseJson(text, name, {.bytes_max = kHeaderBytesMax, .depth_max = 16}));
  const auto map = root.is_object() ? root.find("weight_map") : root.end();
  if (map == root.end() || !map->is_object() || map->empty()) {
    return absl::InvalidArgumentError(
        name + ": weight_map: must be an object from tensor name to file name");
  }
  std::map<std::string, std::string> out;
  for (const auto& [tensor, file] : map->items()) {
    const std::string value = file.is_string() ? file.get<std::string>() : "";
    if (value.empty() || value[0] == '.' || value.find('/') != value.npos ||
        value.find('\0') != value.npos) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, ": weight_map[\"", Printable(tensor),
                       "\"]: ", Printable(file.dump(-1, ' ', true, json::error_handler_t::replace)),
                       " is not the name of a file in the same folder"));
    }
    out.emplace(tensor, value);
  }
  return out;
}

}  // namespace tutti::weights
