// Any text: a status, or a document that survives being written and read again; and the same text
// as a shard index.
#include "shared/weights/json_text.h"
#include "shared/weights/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto r = tutti::weights::ParseJson(text, "fuzz");
  if (r.ok()) {
    const auto again = tutti::weights::ParseJson(r->dump(), "fuzz");
    if (!again.ok() || again->dump() != r->dump()) __builtin_trap();
  }
  const auto index = tutti::weights::ParseShardIndex(text, "fuzz");
  if (index.ok()) {
    for (const auto& [tensor, file] : *index) {
      if (file.empty() || file.find('/') != file.npos) __builtin_trap();
    }
  }
  return 0;
}
