#include "shared/testing/npy.h"

#include <cstring>
#include <fstream>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace tutti::testing {
namespace {

constexpr char kMagic[] = "\x93NUMPY\x01\x00";

template <typename T>
absl::StatusOr<NpyArray<T>> Read(const std::string& path, const char* descr) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::NotFoundError(path);
  const std::string bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const auto bad = [&](const char* what) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", what));
  };
  if (bytes.size() < 10 || std::memcmp(bytes.data(), kMagic, 8) != 0) return bad("not npy 1.0");
  const size_t header = static_cast<uint8_t>(bytes[8]) + 256u * static_cast<uint8_t>(bytes[9]);
  if (bytes.size() < 10 + header) return bad("cut short");
  const std::string text = bytes.substr(10, header);
  if (text.find(descr) == std::string::npos) return bad("another element type");
  if (text.find("'fortran_order': False") == std::string::npos) return bad("not in C order");
  NpyArray<T> array;
  const size_t open = text.find('('), close = text.find(')');
  if (open == std::string::npos || close == std::string::npos) return bad("no shape");
  int64_t count = 1;
  for (size_t i = open + 1; i < close;) {
    if (text[i] < '0' || text[i] > '9') {
      ++i;
      continue;
    }
    int64_t dim = 0;
    for (; text[i] >= '0' && text[i] <= '9' && dim < (1 << 28); ++i) dim = 10 * dim + text[i] - '0';
    array.shape.push_back(dim);
    count *= dim;
    if (count > (1 << 28)) return bad("too large");
  }
  if (bytes.size() - 10 - header != static_cast<size_t>(count) * sizeof(T)) {
    return bad("its size is not its shape's");
  }
  array.values.resize(static_cast<size_t>(count));
  std::memcpy(array.values.data(), bytes.data() + 10 + header, bytes.size() - 10 - header);
  return array;
}

}  // namespace

absl::StatusOr<NpyArray<float>> ReadNpyF32(const std::string& path) {
  return Read<float>(path, "'<f4'");
}
absl::StatusOr<NpyArray<int32_t>> ReadNpyI32(const std::string& path) {
  return Read<int32_t>(path, "'<i4'");
}

std::string NpyImageF32(const std::vector<int64_t>& shape, const float* values) {
  std::string header =
      absl::StrCat("{'descr': '<f4', 'fortran_order': False, 'shape': (",
                   absl::StrJoin(shape, ", "), shape.size() == 1 ? ",), }" : "), }");
  header.append(63 - (10 + header.size()) % 64, ' ');
  header += '\n';
  std::string image(kMagic, 8);
  image += static_cast<char>(header.size() & 0xFF);
  image += static_cast<char>(header.size() >> 8);
  image += header;
  size_t count = 1;
  for (int64_t d : shape) count *= static_cast<size_t>(d);
  return image.append(reinterpret_cast<const char*>(values), count * sizeof(float));
}

}  // namespace tutti::testing
