#include "shared/base/heap.h"

#include <malloc.h>
#include <unistd.h>

#include <cstdio>

namespace tutti {
namespace {

// Private pages in memory: resident less what files back. -1: not known.
int64_t AnonymousBytes() {
  long long total = 0, resident = 0, shared = 0;
  FILE* file = std::fopen("/proc/self/statm", "r");
  if (file == nullptr) return -1;
  const int n = std::fscanf(file, "%lld %lld %lld", &total, &resident, &shared);
  std::fclose(file);
  return n == 3 ? (resident - shared) * ::sysconf(_SC_PAGESIZE) : -1;
}

}  // namespace

bool TrimHeap(int64_t slack_bytes) {
  const struct mallinfo2 info = ::mallinfo2();
  // Where another allocator runs (sanitizers) glibc counts nothing.
  if (info.arena == 0 || static_cast<int64_t>(info.fordblks) < slack_bytes) return false;
  const auto used = static_cast<int64_t>(info.uordblks + info.hblkhd);
  if (AnonymousBytes() - used < slack_bytes) return false;
  return ::malloc_trim(0) == 1;
}

}  // namespace tutti
