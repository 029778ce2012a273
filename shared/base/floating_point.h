// The floating-point mode of the numerics contract (docs/determinism.md, G1).
#pragma once

namespace tutti {

// Sets, for the calling thread: round to nearest even, denormals kept, exceptions masked.
inline void SetStrictFloatingPoint() {
#if defined(__x86_64__)
  __builtin_ia32_ldmxcsr(0x1F80);
#elif defined(__aarch64__)
  const unsigned long mode = 0;
  asm volatile("msr fpcr, %0" : : "r"(mode));
#endif
}

}  // namespace tutti
