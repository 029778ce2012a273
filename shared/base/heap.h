// Memory that the process took for a burst and no longer uses goes back to the system.
#pragma once

#include <cstdint>

namespace tutti {

// glibc keeps what was freed in its arenas. Gives it back when the process holds more than
// `slack_bytes` beyond what is in use; true: it did. Cost: microseconds when there is nothing to
// give back, else milliseconds; call it every few seconds, without a lock. Thread-safe.
bool TrimHeap(int64_t slack_bytes);

}  // namespace tutti
