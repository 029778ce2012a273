#include "shared/base/secret.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <sys/random.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>

#include "shared/base/check.h"
#include "shared/base/strings.h"

namespace tutti {

std::string RandomBytes(size_t count) {
  std::string out(count, '\0');
  for (size_t done = 0; done < count;) {
    const ssize_t n = ::getrandom(out.data() + done, count - done, 0);
    TUTTI_CHECK(n > 0 || errno == EINTR);
    if (n > 0) done += static_cast<size_t>(n);
  }
  return out;
}

uint64_t RandomU64() {
  uint64_t out = 0;
  const std::string bytes = RandomBytes(sizeof(out));
  std::memcpy(&out, bytes.data(), sizeof(out));
  return out;
}

bool SameSecret(std::string_view a, std::string_view b) {
  return !a.empty() && a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

Sha256::Sha256() : context_(EVP_MD_CTX_new()) {
  TUTTI_CHECK(EVP_DigestInit_ex(static_cast<EVP_MD_CTX*>(context_), EVP_sha256(), nullptr) == 1);
}
Sha256::~Sha256() { EVP_MD_CTX_free(static_cast<EVP_MD_CTX*>(context_)); }

void Sha256::Add(std::string_view bytes) {
  EVP_DigestUpdate(static_cast<EVP_MD_CTX*>(context_), bytes.data(), bytes.size());
}

void Sha256::Add(uint64_t number) {
  unsigned char bytes[8];
  for (int i = 0; i < 8; ++i) bytes[i] = static_cast<unsigned char>(number >> (8 * i));
  Add(std::string_view(reinterpret_cast<const char*>(bytes), sizeof(bytes)));
}

std::string Sha256::Finish() {
  unsigned char out[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  EVP_DigestFinal_ex(static_cast<EVP_MD_CTX*>(context_), out, &size);
  return std::string(reinterpret_cast<const char*>(out), size);
}

absl::StatusOr<std::string> ReadSecretFile(const std::string& path) {
  constexpr size_t kMin = 16, kMax = 4096;
  const auto bad = [&](const std::string& what) {
    return absl::InvalidArgumentError("\"" + Printable(path, 200) + "\" " + what);
  };
  std::ifstream in(path, std::ios::binary);
  if (!in) return bad("cannot be read");
  std::string text(kMax + 2, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (in.bad()) return bad("cannot be read");
  text.resize(static_cast<size_t>(in.gcount()));
  constexpr std::string_view kSpace = " \t\r\n";
  const size_t begin = text.find_first_not_of(kSpace);
  text = begin == text.npos ? "" : text.substr(begin, text.find_last_not_of(kSpace) - begin + 1);
  if (text.size() < kMin || text.size() > kMax) {
    return bad("holds a secret of " + std::to_string(text.size()) +
               " bytes; 16 to 4096 are wanted ('openssl rand -hex 32' makes one)");
  }
  for (const char c : text) {
    if (c <= 0x20 || c > 0x7e)
      return bad("holds a byte that is not printable ASCII, or a space, inside the secret");
  }
  return text;
}

}  // namespace tutti
