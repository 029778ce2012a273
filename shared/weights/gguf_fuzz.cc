// Any bytes: a status or contents whose every part may be read.
#include "shared/weights/gguf.h"
#include "shared/weights/gguf_split.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto r =
      tutti::weights::ParseGguf({reinterpret_cast<const std::byte*>(data), size}, "fuzz");
  if (!r.ok()) return 0;
  size_t sum = r->metadata.dump().size();
  for (const auto& [key, array] : r->arrays) {
    for (const auto s : array.Strings()) {
      for (const char c : s) sum += static_cast<size_t>(c);
    }
    sum += array.Ints().size() + array.Floats().size();
  }
  for (const auto& t : r->tensors) {
    if (t.data.size() != tutti::StorageBytes(t.dtype, static_cast<uint64_t>(t.NumElements())))
      __builtin_trap();
    for (const std::byte b : t.data) sum += static_cast<size_t>(b);
  }
  if (tutti::weights::ReadSplitInfo(*r, "fuzz").ok())
    sum += tutti::weights::CheckPartMetadata(*r, *r, "fuzz").ok() ? 1 : 0;
  volatile size_t sink = sum;
  (void)sink;
  return 0;
}
