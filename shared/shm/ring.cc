#include "shared/shm/ring.h"

#include <cstring>

namespace tutti::shm {
namespace {

// The line before a message. `kind` differs from zero so that memory nobody wrote is no message.
struct Header {
  uint32_t kind;
  uint32_t bytes;
};
constexpr uint32_t kMessage = 0x6d657373, kSkip = 0x736b6970;

size_t Lines(size_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }

void WriteHeader(std::byte* at, uint32_t kind, size_t bytes) {
  const Header h{kind, static_cast<uint32_t>(bytes)};
  std::memcpy(at, &h, sizeof(h));
}

}  // namespace

std::byte* RingWriter::Reserve(size_t bytes) {
  if (broken_ || bytes > max_message()) return nullptr;
  const uint64_t head = control_->head.load(std::memory_order_acquire);
  const uint64_t used = tail_ - head;
  if (used > size_ || head % kLine != 0) {
    broken_ = true;
    return nullptr;
  }
  const size_t need = kLine + Lines(bytes), offset = tail_ % size_;
  const bool again = used == 0 && offset >= size_ / 4 && offset >= need;
  skip_ = again || offset + need > size_ ? (size_ - offset) % size_ : 0;
  if (used + skip_ + need > size_) return nullptr;
  reserved_ = need;
  std::byte* const at = data_ + (skip_ > 0 ? 0 : offset);
  WriteHeader(at, kMessage, bytes);
  return at + kLine;
}

void RingWriter::Publish() {
  if (skip_ > 0) WriteHeader(data_ + tail_ % size_, kSkip, 0);
  tail_ += skip_ + reserved_;
  skip_ = reserved_ = 0;
  // Sequentially consistent, as the load of `sleeping` after it: either the writer sees that the
  // reader sleeps, or the reader sees the message before it does.
  control_->tail.store(tail_);
}

std::optional<std::span<const std::byte>> RingReader::Next() {
  while (!broken_) {
    const uint64_t ahead = control_->tail.load(std::memory_order_acquire) - next_;
    if (ahead == 0) return std::nullopt;
    const size_t offset = next_ % size_;
    Header h;
    std::memcpy(&h, data_ + offset, sizeof(h));
    const size_t left = size_ - offset;
    if (ahead > size_ || ahead % kLine != 0) break;
    if (h.kind == kSkip) {
      if (left >= ahead) break;  // a message always follows
      next_ += left;
      continue;
    }
    const size_t need = kLine + Lines(h.bytes);
    if (h.kind != kMessage || need > left || need > ahead) break;
    next_ += need;
    return std::span(data_ + offset + kLine, h.bytes);
  }
  broken_ = true;
  return std::nullopt;
}

}  // namespace tutti::shm
