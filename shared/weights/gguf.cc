#include "shared/weights/gguf.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <optional>

#include "absl/strings/str_cat.h"
#include "shared/base/strings.h"

namespace tutti::weights {

static_assert(std::endian::native == std::endian::little, "GGUF is read where it lies");

namespace {

using nlohmann::json;

enum ValueType : uint32_t {
  kUint8,
  kInt8,
  kUint16,
  kInt16,
  kUint32,
  kInt32,
  kFloat32,
  kBool,
  kString,
  kArray,
  kUint64,
  kInt64,
  kFloat64,
  kNumValueTypes
};

constexpr int kArrayDepthMax = 4;
constexpr size_t kKeyBytesMax = 65535;  // of the format
constexpr int kDimsMax = 4;             // of the format
constexpr uint64_t kElementsMax = uint64_t{1} << 56;
constexpr uint32_t kAlignmentMax = 1u << 20;

// Bytes of a value in the file; for strings and arrays the fewest they can have.
size_t MinBytes(uint32_t type) {
  switch (type) {
    case kUint8:
    case kInt8:
    case kBool:
      return 1;
    case kUint16:
    case kInt16:
      return 2;
    case kUint32:
    case kInt32:
    case kFloat32:
      return 4;
    case kUint64:
    case kInt64:
    case kFloat64:
    case kString:
      return 8;
    case kArray:
      return 12;
    default:
      return 0;
  }
}

MetadataArray::Kind KindOf(uint32_t type) {
  switch (type) {
    case kBool:
      return MetadataArray::Kind::kBool;
    case kFloat32:
    case kFloat64:
      return MetadataArray::Kind::kFloat;
    case kString:
      return MetadataArray::Kind::kString;
    case kArray:
      return MetadataArray::Kind::kArray;
    default:
      return MetadataArray::Kind::kInt;
  }
}

template <typename T>
T Load(const std::byte* p) {
  T v;
  std::memcpy(&v, p, sizeof(T));
  return v;
}

int64_t LoadInt(uint32_t type, const std::byte* p) {
  switch (type) {
    case kUint8:
    case kBool:
      return Load<uint8_t>(p);
    case kInt8:
      return Load<int8_t>(p);
    case kUint16:
      return Load<uint16_t>(p);
    case kInt16:
      return Load<int16_t>(p);
    case kUint32:
      return Load<uint32_t>(p);
    case kInt32:
      return Load<int32_t>(p);
    case kUint64:
      return static_cast<int64_t>(Load<uint64_t>(p));
    default:
      return Load<int64_t>(p);
  }
}

json LoadScalar(uint32_t type, const std::byte* p) {
  switch (type) {
    case kBool:
      return Load<uint8_t>(p) != 0;
    case kFloat32:
      return static_cast<double>(Load<float>(p));
    case kFloat64:
      return Load<double>(p);
    case kUint64:
      return Load<uint64_t>(p);
    case kUint8:
    case kUint16:
    case kUint32:
      return static_cast<uint64_t>(LoadInt(type, p));
    default:
      return LoadInt(type, p);
  }
}

// ggml's numbers of tensor types, by name where we cannot read them.
struct GgmlType {
  uint32_t id;
  const char* name;
  std::optional<DType> dtype;
};
constexpr GgmlType kGgmlTypes[] = {
    {0, "F32", DType::kF32},
    {1, "F16", DType::kF16},
    {2, "Q4_0", DType::kQ4_0},
    {3, "Q4_1", DType::kQ4_1},
    {6, "Q5_0", DType::kQ5_0},
    {7, "Q5_1", DType::kQ5_1},
    {8, "Q8_0", DType::kQ8_0},
    {9, "Q8_1", {}},
    {10, "Q2_K", {}},
    {11, "Q3_K", {}},
    {12, "Q4_K", DType::kQ4_K},
    {13, "Q5_K", DType::kQ5_K},
    {14, "Q6_K", DType::kQ6_K},
    {15, "Q8_K", {}},
    {16, "IQ2_XXS", {}},
    {17, "IQ2_XS", {}},
    {18, "IQ3_XXS", {}},
    {19, "IQ1_S", {}},
    {20, "IQ4_NL", {}},
    {21, "IQ3_S", {}},
    {22, "IQ2_S", {}},
    {23, "IQ4_XS", {}},
    {24, "I8", {}},
    {25, "I16", {}},
    {26, "I32", {}},
    {27, "I64", {}},
    {28, "F64", {}},
    {29, "IQ1_M", {}},
    {30, "BF16", DType::kBF16},
    {34, "TQ1_0", {}},
    {35, "TQ2_0", {}},
    {39, "MXFP4", {}},
};

}  // namespace

class GgufParser {
 public:
  GgufParser(std::span<const std::byte> bytes, const std::string& name)
      : bytes_(bytes), name_(name) {}

  absl::StatusOr<GgufContents> Parse(TensorData data) {
    TUTTI_RETURN_IF_ERROR(ParseHeader());
    out_.values.reserve(num_values_);
    for (uint64_t i = 0; i < num_values_; ++i) {
      const size_t start = at_;
      TUTTI_RETURN_IF_ERROR(ParseMetadataValue(i));
      const auto bytes = bytes_.subspan(start, at_ - start);
      const std::string_view key(reinterpret_cast<const char*>(bytes.data() + sizeof(uint64_t)),
                                 Load<uint64_t>(bytes.data()));
      out_.values.push_back({key, bytes});
    }
    TUTTI_RETURN_IF_ERROR(ReadAlignment());
    out_.tensors.reserve(num_tensors_);
    for (uint64_t i = 0; i < num_tensors_; ++i) TUTTI_RETURN_IF_ERROR(ParseTensor(i));
    out_.header_bytes = at_;
    if (data == TensorData::kInFile) TUTTI_RETURN_IF_ERROR(PlaceTensors());
    return std::move(out_);
  }

 private:
  template <typename... A>
  absl::Status Error(size_t offset, const A&... what) const {
    return absl::InvalidArgumentError(absl::StrCat(name_, ": byte ", offset, ": ", what...));
  }
  size_t left() const { return bytes_.size() - at_; }
  const std::byte* here() const { return bytes_.data() + at_; }

  absl::Status Need(size_t n, std::string_view what) const {
    if (n <= left()) return absl::OkStatus();
    return Error(at_, ToAbsl(what), " needs ", n, " bytes, the file has ", left(),
                 " more: it is cut short or damaged");
  }
  template <typename T>
  absl::Status Read(T* v, std::string_view what) {
    TUTTI_RETURN_IF_ERROR(Need(sizeof(T), what));
    *v = Load<T>(here());
    at_ += sizeof(T);
    return absl::OkStatus();
  }
  absl::Status ReadString(std::string_view* s, std::string_view what) {
    uint64_t n = 0;
    TUTTI_RETURN_IF_ERROR(Read(&n, what));
    TUTTI_RETURN_IF_ERROR(Need(n, what));
    *s = {reinterpret_cast<const char*>(here()), n};
    at_ += n;
    return absl::OkStatus();
  }

  absl::Status ParseHeader() {
    TUTTI_RETURN_IF_ERROR(Need(4, "the magic number"));
    if (std::memcmp(here(), "GGUF", 4) != 0) {
      return Error(0, "not a GGUF file: it starts with \"",
                   Printable({reinterpret_cast<const char*>(here()), 4}), "\", not \"GGUF\"");
    }
    at_ = 4;
    uint32_t version = 0;
    TUTTI_RETURN_IF_ERROR(Read(&version, "the version"));
    if (version == 0x02000000 || version == 0x03000000) {
      return absl::UnimplementedError(
          absl::StrCat(name_, ": a big-endian GGUF; only little-endian is read"));
    }
    if (version != 2 && version != 3) {
      return absl::UnimplementedError(
          absl::StrCat(name_, ": GGUF version ", version, "; versions 2 and 3 are read"));
    }
    TUTTI_RETURN_IF_ERROR(Read(&num_tensors_, "the number of tensors"));
    TUTTI_RETURN_IF_ERROR(Read(&num_values_, "the number of metadata values"));
    // A tensor's entry has at least 32 bytes (name length, name, one dimension, type, offset), a
    // value 13.
    if (num_tensors_ > left() / 32) {
      return Error(8, num_tensors_, " tensors do not fit into ", left(), " bytes");
    }
    if (num_values_ > left() / 13) {
      return Error(16, num_values_, " metadata values do not fit into ", left(), " bytes");
    }
    return absl::OkStatus();
  }

  absl::Status ParseMetadataValue(uint64_t i) {
    const size_t start = at_;
    std::string_view key;
    TUTTI_RETURN_IF_ERROR(ReadString(&key, absl::StrCat("the key of metadata value ", i)));
    if (key.empty() || key.size() > kKeyBytesMax) {
      return Error(start, "the key of metadata value ", i, " has ", key.size(), " bytes; 1 to ",
                   kKeyBytesMax);
    }
    if (size_t bad = 0; !IsValidUtf8(key, &bad)) {
      return Error(start + 8 + bad, "the key \"", Printable(key), "\" is not UTF-8");
    }
    const std::string what = absl::StrCat("metadata \"", Printable(key), "\"");
    if (out_.metadata.contains(key) || out_.arrays.contains(key)) {
      return Error(start, what, " stands twice");
    }
    uint32_t type = 0;
    TUTTI_RETURN_IF_ERROR(Read(&type, what));
    if (type == kArray) return ParseArray(std::string(key), what);
    if (type == kString) {
      std::string_view s;
      TUTTI_RETURN_IF_ERROR(ReadString(&s, what));
      if (size_t bad = 0; !IsValidUtf8(s, &bad)) {
        return Error(at_ - s.size() + bad, what, " is a string that is not UTF-8");
      }
      out_.metadata[std::string(key)] = s;
      return absl::OkStatus();
    }
    if (type >= kNumValueTypes)
      return Error(at_ - 4, what, " has the unknown type ", type, "; 0 to 12");
    TUTTI_RETURN_IF_ERROR(Need(MinBytes(type), what));
    if (type == kBool && Load<uint8_t>(here()) > 1) {
      return Error(at_, what, " is a bool with the value ", Load<uint8_t>(here()), "; 0 or 1");
    }
    out_.metadata[std::string(key)] = LoadScalar(type, here());
    at_ += MinBytes(type);
    return absl::OkStatus();
  }

  absl::Status ParseArray(const std::string& key, const std::string& what) {
    MetadataArray array;
    json inlined = json::array();
    bool keep = true;
    TUTTI_RETURN_IF_ERROR(WalkArray(what, 1, &array, &inlined, &keep));
    if (keep) out_.metadata[key] = std::move(inlined);
    out_.arrays.emplace(key, array);
    return absl::OkStatus();
  }

  // Checks an array and moves past it. Fills `array` at the outermost level, and `inlined` as long
  // as
  // `*keep` says that the JSON form is wanted.
  absl::Status WalkArray(const std::string& what, int depth, MetadataArray* array, json* inlined,
                         bool* keep) {
    if (depth > kArrayDepthMax)
      return Error(at_, what, " nests arrays deeper than ", kArrayDepthMax, " levels");
    uint32_t type = 0;
    uint64_t count = 0;
    TUTTI_RETURN_IF_ERROR(Read(&type, what));
    if (type >= kNumValueTypes) {
      return Error(at_ - 4, what, " has elements of the unknown type ", type, "; 0 to 12");
    }
    TUTTI_RETURN_IF_ERROR(Read(&count, what));
    if (count > left() / MinBytes(type)) {
      return Error(at_ - 8, what, " has ", count, " elements; ", left(), " bytes cannot hold them");
    }
    if (count > ModelFiles::kInlineArrayMax) *keep = false;
    const size_t start = at_;
    if (type == kArray) {
      for (uint64_t i = 0; i < count; ++i) {
        json inner = json::array();
        TUTTI_RETURN_IF_ERROR(WalkArray(what, depth + 1, nullptr, &inner, keep));
        if (*keep) inlined->push_back(std::move(inner));
      }
    } else if (type == kString) {
      for (uint64_t i = 0; i < count; ++i) {
        std::string_view s;
        TUTTI_RETURN_IF_ERROR(ReadString(&s, what));
        if (*keep && !IsValidUtf8(s)) *keep = false;
        if (*keep) inlined->push_back(s);
      }
    } else {
      const size_t width = MinBytes(type);
      if (*keep) {
        for (uint64_t i = 0; i < count; ++i)
          inlined->push_back(LoadScalar(type, here() + i * width));
      }
      at_ += count * width;
    }
    if (array != nullptr) {
      array->kind_ = KindOf(type);
      array->element_type_ = type;
      array->size_ = count;
      array->bytes_ = bytes_.subspan(start, at_ - start);
    }
    return absl::OkStatus();
  }

  absl::Status ReadAlignment() {
    const auto it = out_.metadata.find("general.alignment");
    if (it == out_.metadata.end()) return absl::OkStatus();
    const uint64_t v = it->is_number_unsigned() ? it->get<uint64_t>() : 0;
    if (v < 8 || v > kAlignmentMax || !std::has_single_bit(v)) {
      return absl::InvalidArgumentError(
          absl::StrCat(name_, ": metadata \"general.alignment\" is ",
                       Printable(it->dump(-1, ' ', false, json::error_handler_t::replace)),
                       "; a power of two from 8 to ", kAlignmentMax));
    }
    alignment_ = v;
    out_.alignment = static_cast<uint32_t>(v);
    return absl::OkStatus();
  }

  absl::Status ParseTensor(uint64_t i) {
    const size_t start = at_;
    std::string_view name;
    TUTTI_RETURN_IF_ERROR(ReadString(&name, absl::StrCat("the name of tensor ", i)));
    if (name.empty() || name.size() > 1024 || !IsValidUtf8(name)) {
      return Error(start, "the name of tensor ", i, " (\"", Printable(name),
                   "\") is not 1 to 1024 bytes of UTF-8");
    }
    const std::string what = absl::StrCat("tensor \"", Printable(name), "\"");
    uint32_t num_dims = 0;
    TUTTI_RETURN_IF_ERROR(Read(&num_dims, what));
    if (num_dims < 1 || num_dims > kDimsMax) {
      return Error(at_ - 4, what, " has ", num_dims, " dimensions; 1 to ", kDimsMax);
    }
    TensorInfo t;
    t.name = name;
    t.shape.resize(num_dims);
    uint64_t elements = 1;
    for (uint32_t d = 0; d < num_dims; ++d) {
      uint64_t n = 0;
      TUTTI_RETURN_IF_ERROR(Read(&n, what));
      if (n == 0 || n > kElementsMax / elements) {
        return Error(at_ - 8, what, " has the size ", n, " in dimension ", d,
                     n == 0 ? "; at least 1" : ": more elements than a file can hold");
      }
      elements *= n;
      t.shape[num_dims - 1 - d] = static_cast<int64_t>(n);
    }
    uint32_t type = 0;
    TUTTI_RETURN_IF_ERROR(Read(&type, what));
    const auto* known = std::find_if(std::begin(kGgmlTypes), std::end(kGgmlTypes),
                                     [&](const GgmlType& g) { return g.id == type; });
    if (known == std::end(kGgmlTypes)) return Error(at_ - 4, what, " has the unknown type ", type);
    if (!known->dtype.has_value()) {
      return absl::UnimplementedError(absl::StrCat(
          name_, ": ", what, " is of type ", known->name,
          "; F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K and Q6_K are read"));
    }
    t.dtype = *known->dtype;
    if (t.shape.back() % Traits(t.dtype).block_elements != 0) {
      return Error(at_ - 4, what, " has rows of ", t.shape.back(), " elements; ", known->name,
                   " needs a multiple of ", Traits(t.dtype).block_elements);
    }
    sizes_.push_back(StorageBytes(t.dtype, elements).value());  // no overflow: elements <= 2^56
    uint64_t offset = 0;
    TUTTI_RETURN_IF_ERROR(Read(&offset, what));
    if (offset % alignment_ != 0) {
      return Error(at_ - 8, what, " lies at offset ", offset, ", not a multiple of the alignment ",
                   alignment_);
    }
    t.file_offset = offset;  // becomes absolute in PlaceTensors
    out_.tensors.push_back(std::move(t));
    return absl::OkStatus();
  }

  absl::Status PlaceTensors() {
    if (out_.tensors.empty()) return absl::OkStatus();
    const uint64_t data_start = (uint64_t{at_} + alignment_ - 1) / alignment_ * alignment_;
    const uint64_t data_bytes = data_start < bytes_.size() ? bytes_.size() - data_start : 0;
    for (size_t i = 0; i < out_.tensors.size(); ++i) {
      TensorInfo& t = out_.tensors[i];
      if (t.file_offset > data_bytes || sizes_[i] > data_bytes - t.file_offset) {
        return absl::InvalidArgumentError(
            absl::StrCat(name_, ": tensor \"", Printable(t.name), "\" wants ", sizes_[i],
                         " bytes at offset ", t.file_offset, " of the data, which has ", data_bytes,
                         " bytes: the file is cut short or damaged"));
      }
      t.file_offset += data_start;
      t.data = bytes_.subspan(t.file_offset, sizes_[i]);
    }
    std::vector<const TensorInfo*> by_offset;
    for (const TensorInfo& t : out_.tensors) by_offset.push_back(&t);
    std::sort(by_offset.begin(), by_offset.end(), [](const TensorInfo* a, const TensorInfo* b) {
      return a->file_offset < b->file_offset;
    });
    for (size_t i = 1; i < by_offset.size(); ++i) {
      const TensorInfo &a = *by_offset[i - 1], &b = *by_offset[i];
      if (a.file_offset + a.data.size() > b.file_offset) {
        return absl::InvalidArgumentError(absl::StrCat(name_, ": tensors \"", Printable(a.name),
                                                       "\" and \"", Printable(b.name),
                                                       "\" overlap at byte ", b.file_offset));
      }
    }
    return absl::OkStatus();
  }

  const std::span<const std::byte> bytes_;
  const std::string& name_;
  size_t at_ = 0;
  uint64_t num_tensors_ = 0, num_values_ = 0, alignment_ = 32;
  std::vector<size_t> sizes_;  // bytes of each tensor
  GgufContents out_;
};

uint32_t GgmlTypeNumber(DType dtype) {
  return std::find_if(std::begin(kGgmlTypes), std::end(kGgmlTypes),
                      [&](const GgmlType& g) { return g.dtype == dtype; })
      ->id;  // every DType is in the table
}

std::vector<int64_t> MetadataArray::Ints() const {
  std::vector<int64_t> out;
  if (kind_ != Kind::kInt && kind_ != Kind::kBool) return out;
  const size_t width = MinBytes(element_type_);
  out.reserve(size_);
  for (size_t i = 0; i < size_; ++i)
    out.push_back(LoadInt(element_type_, bytes_.data() + i * width));
  return out;
}

std::vector<float> MetadataArray::Floats() const {
  std::vector<float> out;
  if (kind_ != Kind::kFloat) return out;
  out.reserve(size_);
  for (size_t i = 0; i < size_; ++i) {
    out.push_back(element_type_ == kFloat32
                      ? Load<float>(bytes_.data() + i * 4)
                      : static_cast<float>(Load<double>(bytes_.data() + i * 8)));
  }
  return out;
}

std::vector<std::string_view> MetadataArray::Strings() const {
  std::vector<std::string_view> out;
  if (kind_ != Kind::kString) return out;
  out.reserve(size_);
  for (size_t at = 0; out.size() < size_;) {
    const uint64_t n = Load<uint64_t>(bytes_.data() + at);
    out.emplace_back(reinterpret_cast<const char*>(bytes_.data()) + at + 8, n);
    at += 8 + n;
  }
  return out;
}

absl::StatusOr<GgufContents> ParseGguf(std::span<const std::byte> bytes, const std::string& name,
                                       TensorData data) {
  return GgufParser(bytes, name).Parse(data);
}

}  // namespace tutti::weights
