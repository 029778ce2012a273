// Any text, as it stands and under a right checksum: a status, or ranges and tensors that lie in
// their files, in order, without overlap, and a manifest that survives being written again.
#include "shared/weights/packed_manifest.h"

namespace {

void Check(std::string_view text) {
  using tutti::weights::ParsePackedManifest;
  const auto m = ParsePackedManifest(text, "fuzz");
  if (!m.ok()) return;
  std::vector<uint64_t> ends(m->data_files.size(), 0);
  for (const auto& r : m->ranges) {
    if (r.file >= ends.size() || r.offset != ends[r.file] || r.bytes == 0) __builtin_trap();
    ends[r.file] = r.offset + r.bytes;
    if (ends[r.file] < r.offset || ends[r.file] > m->data_files[r.file].bytes) __builtin_trap();
    uint64_t end = 0;
    for (const auto& t : r.tensors) {
      if (t.offset < end || t.offset % 64 != 0 || t.bytes == 0) __builtin_trap();
      end = t.offset + t.bytes;
      if (end < t.offset || end > r.bytes) __builtin_trap();
    }
  }
  const std::string again = tutti::weights::WritePackedManifest(*m);
  const auto second = ParsePackedManifest(again, "fuzz");
  if (!second.ok() || tutti::weights::WritePackedManifest(*second) != again) __builtin_trap();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  Check(text);
  const std::string line = tutti::weights::SealLine(text);
  Check(line + std::string(text));
  // A whole manifest of the corpus: its first line is of its own text no more once that mutates.
  if (text.size() > line.size()) {
    const std::string_view rest = text.substr(line.size());
    Check(tutti::weights::SealLine(rest) + std::string(rest));
  }
  return 0;
}
