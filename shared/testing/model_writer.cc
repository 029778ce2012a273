#include "shared/testing/model_writer.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "shared/base/check.h"
#include "shared/testing/quantize.h"
#include "shared/weights/gguf.h"

namespace tutti::testing {
namespace {

template <typename T>
void Put(std::string* out, T value) {
  out->append(reinterpret_cast<const char*>(&value), sizeof(value));
}
void PutString(std::string* out, std::string_view s) {
  Put<uint64_t>(out, s.size());
  out->append(s);
}
template <typename T>
std::string ArrayOf(uint32_t type, const std::vector<T>& values) {
  std::string out;
  Put<uint32_t>(&out, type);
  Put<uint64_t>(&out, values.size());
  for (const T& v : values) Put(&out, v);
  return out;
}
template <typename T>
std::string BytesOf(T value) {
  std::string out;
  Put(&out, value);
  return out;
}

std::string Stored(DType dtype, const std::vector<int64_t>& shape, std::span<const float> values) {
  int64_t n = 1;
  for (int64_t d : shape) n *= d;
  TUTTI_CHECK(n == static_cast<int64_t>(values.size()));
  const auto bytes = Quantize(dtype, values);
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

}  // namespace

GgufWriter& GgufWriter::Raw(std::string_view key, uint32_t type, std::string_view bytes) {
  PutString(&values_, key);
  Put(&values_, type);
  values_.append(bytes);
  ++num_values_;
  return *this;
}
GgufWriter& GgufWriter::Bool(std::string_view key, bool v) {
  return Raw(key, 7, BytesOf<uint8_t>(v ? 1 : 0));
}
GgufWriter& GgufWriter::U32(std::string_view key, uint32_t v) { return Raw(key, 4, BytesOf(v)); }
GgufWriter& GgufWriter::I64(std::string_view key, int64_t v) { return Raw(key, 11, BytesOf(v)); }
GgufWriter& GgufWriter::F32(std::string_view key, float v) { return Raw(key, 6, BytesOf(v)); }
GgufWriter& GgufWriter::String(std::string_view key, std::string_view v) {
  std::string s;
  PutString(&s, v);
  return Raw(key, 8, s);
}
GgufWriter& GgufWriter::Strings(std::string_view key, const std::vector<std::string>& values) {
  std::string s;
  Put<uint32_t>(&s, 8);
  Put<uint64_t>(&s, values.size());
  for (const auto& v : values) PutString(&s, v);
  return Raw(key, 9, s);
}
GgufWriter& GgufWriter::I32s(std::string_view key, const std::vector<int32_t>& values) {
  return Raw(key, 9, ArrayOf(5, values));
}
GgufWriter& GgufWriter::F32s(std::string_view key, const std::vector<float>& values) {
  return Raw(key, 9, ArrayOf(6, values));
}

GgufWriter& GgufWriter::Tensor(std::string_view name, std::vector<int64_t> shape,
                               std::span<const float> values, DType dtype) {
  const std::string bytes = Stored(dtype, shape, values);
  return RawTensor(name, std::move(shape), weights::GgmlTypeNumber(dtype), bytes);
}
GgufWriter& GgufWriter::RawTensor(std::string_view name, std::vector<int64_t> shape,
                                  uint32_t ggml_type, std::string_view bytes) {
  data_.resize((data_.size() + alignment_ - 1) / alignment_ * alignment_);
  tensors_.push_back({std::string(name), std::move(shape), ggml_type, data_.size()});
  data_.append(bytes);
  return *this;
}
GgufWriter& GgufWriter::MoveLastTensor(uint64_t offset) {
  tensors_.back().offset = offset;
  return *this;
}

std::string GgufWriter::Image() const {
  std::string out = "GGUF";
  Put(&out, version_);
  Put<uint64_t>(&out, tensors_.size());
  Put(&out, num_values_);
  out += values_;
  for (const Entry& t : tensors_) {
    PutString(&out, t.name);
    Put(&out, static_cast<uint32_t>(t.shape.size()));
    for (size_t d = t.shape.size(); d-- > 0;) Put(&out, t.shape[d]);
    Put(&out, t.type);
    Put(&out, t.offset);
  }
  out.resize((out.size() + alignment_ - 1) / alignment_ * alignment_);
  return out + data_;
}

SafetensorsWriter& SafetensorsWriter::Tensor(std::string_view name, std::vector<int64_t> shape,
                                             std::span<const float> values, DType dtype) {
  const std::string bytes = Stored(dtype, shape, values);
  return RawTensor(name, std::move(shape), Traits(dtype).name, bytes);
}
SafetensorsWriter& SafetensorsWriter::RawTensor(std::string_view name, std::vector<int64_t> shape,
                                                std::string_view dtype, std::string_view bytes) {
  std::string sizes;
  for (int64_t d : shape) sizes += (sizes.empty() ? "" : ",") + std::to_string(d);
  header_ += (header_.empty() ? "\"" : ",\"") + std::string(name) + "\":{\"dtype\":\"" +
             std::string(dtype) + "\",\"shape\":[" + sizes + "],\"data_offsets\":[" +
             std::to_string(data_.size()) + "," + std::to_string(data_.size() + bytes.size()) +
             "]}";
  data_ += bytes;
  return *this;
}
std::string SafetensorsWriter::Image() const { return ImageOf("{" + header_ + "}", data_); }
std::string SafetensorsWriter::ImageOf(std::string_view header, std::string_view data) {
  std::string out;
  Put<uint64_t>(&out, header.size());
  return out.append(header).append(data);
}

TempDir::TempDir() {
  std::string pattern = (std::filesystem::temp_directory_path() / "tutti-test-XXXXXX").string();
  TUTTI_CHECK(::mkdtemp(pattern.data()) != nullptr);
  path_ = pattern;
}
TempDir::~TempDir() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}
std::string TempDir::Write(std::string_view name, std::string_view content) const {
  const std::string path = path_ + "/" + std::string(name);
  std::ofstream(path, std::ios::binary) << content;
  return path;
}

}  // namespace tutti::testing
