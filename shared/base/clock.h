// The clock of deadlines and durations.
#pragma once

#include <chrono>
#include <cstdint>

namespace tutti {

// Microseconds that only grow; from an unknown start, so only differences mean something.
inline int64_t SteadyNowUs() {
  return std::chrono::duration_cast<std::chrono::microseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace tutti
