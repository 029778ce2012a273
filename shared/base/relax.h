// One turn of a busy wait.
#pragma once

namespace tutti {

// Tells the processor that this thread only waits, for a few ns to 100.
inline void Relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace tutti
