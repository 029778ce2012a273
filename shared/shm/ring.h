// One direction of messages between two processes that share memory: one writer, one reader, no
// lock and no system call.
//
// A message lies in one piece, on a cache line's boundary, behind a line that tells its length; one
// that does not fit before the end of the ring goes to its beginning. So does one that finds
// everything read and a quarter of the ring used: small messages keep to memory that is in the
// caches.
//
// Neither side trusts the other: each keeps its own position and its own copy of every length, and
// checks what the other wrote before it is used. What a message says may still change while it is
// read.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace tutti::shm {

inline constexpr size_t kLine = 64;

// At the start of the shared memory, one for each direction; zeros to begin with.
struct RingControl {
  alignas(kLine) std::atomic<uint64_t> tail;      // bytes ever written
  alignas(kLine) std::atomic<uint64_t> head;      // bytes ever read
  alignas(kLine) std::atomic<uint32_t> sleeping;  // the reader wants to be woken
};
static_assert(std::atomic<uint64_t>::is_always_lock_free);

// Thread safety: one thread at a time.
class RingWriter {
 public:
  RingWriter() = default;
  // `size` bytes at `data`, a multiple of kLine.
  RingWriter(RingControl* control, std::byte* data, size_t size)
      : control_(control), data_(data), size_(size) {}

  // Room for a message of so many bytes, or nullptr while there is none. It is the reader's with
  // Publish; without one, the next Reserve takes the same room.
  std::byte* Reserve(size_t bytes);
  void Publish();
  // True once after the reader went to sleep: it must be woken.
  bool TakeSleeping() { return control_->sleeping.exchange(0) != 0; }

  // A longer message never fits.
  size_t max_message() const { return size_ / 2 - kLine; }
  // The reader wrote what cannot be.
  bool broken() const { return broken_; }

 private:
  RingControl* control_ = nullptr;
  std::byte* data_ = nullptr;
  size_t size_ = 0;
  uint64_t tail_ = 0;
  size_t skip_ = 0, reserved_ = 0;  // of the message that is being written
  bool broken_ = false;
};

// Thread safety: one thread at a time.
class RingReader {
 public:
  RingReader() = default;
  RingReader(RingControl* control, const std::byte* data, size_t size)
      : control_(control), data_(data), size_(size) {}

  // The next message; nullopt when there is none (or the ring is broken). It stays until Release.
  std::optional<std::span<const std::byte>> Next();
  // Gives the room of all messages taken so far back to the writer, which may need it to go on:
  // before waiting for more.
  void Release() { control_->head.store(next_, std::memory_order_release); }
  bool empty() const { return control_->tail.load() == next_; }

  // Before sleeping: from now on the writer wakes the reader. False when a message came meanwhile;
  // then it does not sleep.
  bool PrepareSleep() {
    control_->sleeping.store(1);
    return empty();
  }
  void Awake() { control_->sleeping.store(0, std::memory_order_relaxed); }

  // The writer wrote what cannot be; nothing comes any more.
  bool broken() const { return broken_; }

 private:
  RingControl* control_ = nullptr;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
  uint64_t next_ = 0;
  bool broken_ = false;
};

}  // namespace tutti::shm
