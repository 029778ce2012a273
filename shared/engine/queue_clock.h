// How long a sequence that comes now would wait for its place: by the rate at which places became
// free while others waited.
//
// Thread safety: none. Determinism: depends on the calls alone; it decides who is refused, never a
// result.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

namespace tutti::engine {

class QueueClock {
 public:
  // Once a step: `num_started` sequences got their first place in it, and somebody still waits, or
  // not. Time and starts count only while somebody waited before.
  void OnStep(int64_t now_us, int32_t num_started, bool somebody_waits) {
    if (waited_) {
      busy_us_ += std::max<int64_t>(0, now_us - last_us_);
      for (int32_t i = 0; i < num_started; ++i) starts_us_[num_starts_++ % kWindow] = busy_us_;
    }
    waited_ = somebody_waits;
    last_us_ = now_us;
  }

  // For a sequence with `num_before` ahead of it. 0 before there is a rate: the first ones may
  // wait.
  int64_t EstimateUs(int64_t now_us, int32_t num_before) const {
    if (num_starts_ < kLeast || num_before <= 0) return 0;
    const size_t count = std::min(num_starts_, kWindow);
    const int64_t oldest = starts_us_[(num_starts_ - count) % kWindow];
    const int64_t until = busy_us_ + (waited_ ? std::max<int64_t>(0, now_us - last_us_) : 0);
    // Starts come in groups: between `count` of them there are count - 1 gaps.
    return (until - oldest) * num_before / static_cast<int64_t>(count - 1);
  }

 private:
  static constexpr size_t kWindow = 32, kLeast = 8;
  std::array<int64_t, kWindow> starts_us_{};  // on the clock that runs while somebody waits
  size_t num_starts_ = 0;
  int64_t busy_us_ = 0, last_us_ = 0;
  bool waited_ = false;
};

}  // namespace tutti::engine
