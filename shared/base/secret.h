// Secrets: random bytes nobody can guess, comparison that tells nothing by its time, SHA-256.
// Thread safety: pure functions, callable from any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "shared/base/status.h"

namespace tutti {

// From the kernel's generator (getrandom); the process ends where the kernel has none.
std::string RandomBytes(size_t count);
uint64_t RandomU64();

// Whether both are the same non-empty bytes. The time depends on the lengths alone.
bool SameSecret(std::string_view a, std::string_view b);

// The 32 bytes of SHA-256 (FIPS 180-4) over all that was added.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;
  void Add(std::string_view bytes);
  void Add(uint64_t number);  // as 8 bytes, little-endian
  std::string Finish();       // once

 private:
  void* context_;
};

// A secret of a file: its text without white space at both ends, 16 to 4096 bytes of printable
// ASCII without spaces. Errors: INVALID_ARGUMENT naming the file and what is wrong; never the text
absl::StatusOr<std::string> ReadSecretFile(const std::string& path);

}  // namespace tutti
