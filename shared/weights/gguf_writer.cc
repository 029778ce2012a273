#include "shared/weights/gguf_writer.h"

#include "shared/base/check.h"
#include "shared/weights/gguf.h"

namespace tutti::weights {
namespace {

constexpr uint32_t kVersion = 3;
constexpr uint32_t kValueUint32 = 4, kValueFloat32 = 6, kValueString = 8;

template <typename T>
void Put(std::string* out, T value) {
  out->append(reinterpret_cast<const char*>(&value), sizeof(value));
}
void PutString(std::string* out, std::string_view s) {
  Put<uint64_t>(out, s.size());
  out->append(s);
}
uint64_t AlignUp(uint64_t n, uint64_t alignment) {
  return (n + alignment - 1) / alignment * alignment;
}

}  // namespace

void GgufMetadata::Copy(std::string_view key, std::span<const std::byte> bytes) {
  values_.push_back(
      {std::string(key), std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size())});
}

void GgufMetadata::Set(std::string_view key, std::string bytes) {
  for (Value& v : values_) {
    if (v.key == key) {
      v.bytes = std::move(bytes);
      return;
    }
  }
  values_.push_back({std::string(key), std::move(bytes)});
}

void GgufMetadata::SetU32(std::string_view key, uint32_t value) {
  std::string bytes;
  PutString(&bytes, key);
  Put(&bytes, kValueUint32);
  Put(&bytes, value);
  Set(key, std::move(bytes));
}

void GgufMetadata::SetF32(std::string_view key, float value) {
  std::string bytes;
  PutString(&bytes, key);
  Put(&bytes, kValueFloat32);
  Put(&bytes, value);
  Set(key, std::move(bytes));
}

void GgufMetadata::SetString(std::string_view key, std::string_view value) {
  std::string bytes;
  PutString(&bytes, key);
  Put(&bytes, kValueString);
  PutString(&bytes, value);
  Set(key, std::move(bytes));
}

uint64_t GgufMetadata::Bytes() const {
  uint64_t n = 0;
  for (const Value& v : values_) n += v.bytes.size();
  return n;
}

void GgufMetadata::AppendTo(std::string* out) const {
  for (const Value& v : values_) out->append(v.bytes);
}

uint64_t GgufTensor::Bytes() const {
  uint64_t elements = 1;
  for (int64_t d : shape) elements *= static_cast<uint64_t>(d);
  return StorageBytes(dtype, elements).value();
}

absl::StatusOr<std::unique_ptr<GgufStream>> GgufStream::Create(const std::string& path,
                                                               const GgufMetadata& metadata,
                                                               std::vector<GgufTensor> tensors,
                                                               uint32_t alignment) {
  std::string header = "GGUF";
  Put(&header, kVersion);
  Put<uint64_t>(&header, tensors.size());
  Put<uint64_t>(&header, metadata.size());
  metadata.AppendTo(&header);
  uint64_t offset = 0;
  for (const GgufTensor& t : tensors) {
    PutString(&header, t.name);
    Put(&header, static_cast<uint32_t>(t.shape.size()));
    for (size_t d = t.shape.size(); d-- > 0;) Put(&header, t.shape[d]);
    Put(&header, GgmlTypeNumber(t.dtype));
    Put(&header, offset);
    offset = AlignUp(offset + t.Bytes(), alignment);
  }
  TUTTI_ASSIGN_OR_RETURN(auto file,
                         OutputFile::Create(path, AlignUp(header.size(), alignment) + offset));
  std::unique_ptr<GgufStream> stream(
      new GgufStream(std::move(file), std::move(tensors), alignment));
  TUTTI_RETURN_IF_ERROR(stream->file_->Append(std::as_bytes(std::span(header))));
  TUTTI_RETURN_IF_ERROR(stream->Pad());
  return stream;
}

absl::Status GgufStream::Pad() {
  const std::string zeros(AlignUp(file_->size(), alignment_) - file_->size(), '\0');
  return file_->Append(std::as_bytes(std::span(zeros)));
}

absl::Status GgufStream::Append(std::span<const std::byte> bytes) {
  TUTTI_CHECK(tensor_ < tensors_.size());
  written_ += bytes.size();
  const uint64_t size = tensors_[tensor_].Bytes();
  TUTTI_CHECK(written_ <= size);
  TUTTI_RETURN_IF_ERROR(file_->Append(bytes));
  if (written_ < size) return absl::OkStatus();
  ++tensor_;
  written_ = 0;
  return Pad();
}

absl::StatusOr<uint64_t> GgufStream::Finish() {
  TUTTI_CHECK(tensor_ == tensors_.size());
  TUTTI_RETURN_IF_ERROR(file_->Commit());
  return file_->size();
}

}  // namespace tutti::weights
