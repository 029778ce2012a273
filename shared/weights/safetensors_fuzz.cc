// Any bytes: a status, or tensors that lie inside the file and do not overlap.
#include "shared/weights/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto r =
      tutti::weights::ParseSafetensors({reinterpret_cast<const std::byte*>(data), size}, "fuzz");
  if (!r.ok()) return 0;
  size_t end = 8;
  for (const auto& t : r->tensors) {
    if (t.file_offset < end || t.file_offset + t.data.size() > size) __builtin_trap();
    if (t.data.size() != tutti::StorageBytes(t.dtype, static_cast<uint64_t>(t.NumElements())))
      __builtin_trap();
    end = t.file_offset + t.data.size();
  }
  return 0;
}
