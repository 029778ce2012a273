#include "kernels/bench/roof.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <ctime>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#define TUTTI_AVX2 __attribute__((target("avx2,fma"), noinline))
#define TUTTI_AVX512 __attribute__((target("avx512f,avx512vnni"), noinline))
#endif

namespace tutti::kernels {
namespace {

double Now(clockid_t clock) {
  timespec t{};
  clock_gettime(clock, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

double Seconds(clockid_t clock, const auto& run) {
  const double begin = Now(clock);
  run();
  return Now(clock) - begin;
}

volatile uint64_t g_sink;

#if defined(__x86_64__)
TUTTI_AVX2 uint64_t ReadAll(const std::byte* p, size_t bytes) {
  __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
  for (size_t i = 0; i < bytes; i += 128) {
    const auto* q = reinterpret_cast<const __m256i*>(p + i);
    _mm_prefetch(reinterpret_cast<const char*>(p + i + 2048), _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(p + i + 2112), _MM_HINT_T0);
    a = _mm256_xor_si256(a, q[0]);
    b = _mm256_xor_si256(b, q[1]);
    c = _mm256_xor_si256(c, q[2]);
    d = _mm256_xor_si256(d, q[3]);
  }
  a = _mm256_xor_si256(_mm256_xor_si256(a, b), _mm256_xor_si256(c, d));
  return static_cast<uint64_t>(_mm256_extract_epi64(a, 0));
}

// Chains of 4 maddubs per madd, as 4-bit weights allow; operands in registers.
TUTTI_AVX2 void Int8Loop(int64_t rounds) {
  __m256i w[4], q[2], acc[4];
  for (int i = 0; i < 4; ++i)
    w[i] = _mm256_set1_epi8(static_cast<char>(i + 3)), acc[i] = _mm256_setzero_si256();
  for (int i = 0; i < 2; ++i) q[i] = _mm256_set1_epi8(static_cast<char>(5 - 9 * i));
  const __m256i one = _mm256_set1_epi16(1);
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      asm volatile("" : "+x"(w[i]));
      const __m256i x = _mm256_maddubs_epi16(w[i], q[0]), y = _mm256_maddubs_epi16(w[i], q[1]);
      asm volatile("" : "+x"(w[i]));
      const __m256i u = _mm256_maddubs_epi16(w[i], q[0]), v = _mm256_maddubs_epi16(w[i], q[1]);
      const __m256i sum = _mm256_add_epi16(_mm256_add_epi16(x, y), _mm256_add_epi16(u, v));
      acc[i] = _mm256_add_epi32(acc[i], _mm256_madd_epi16(sum, one));
    }
  }
  uint64_t out = 0;
  for (auto& a : acc) out ^= static_cast<uint64_t>(_mm256_extract_epi64(a, 0));
  g_sink = out;
}

// A product, its sum of pairs and an addition at a time.
TUTTI_AVX2 void SimpleInt8Loop(int64_t rounds) {
  __m256i w[4], acc[4];
  for (int i = 0; i < 4; ++i) acc[i] = _mm256_setzero_si256();
  const __m256i q = _mm256_set1_epi8(5), one = _mm256_set1_epi16(1);
  for (int i = 0; i < 4; ++i) w[i] = _mm256_set1_epi8(static_cast<char>(i + 3));
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      asm volatile("" : "+x"(w[i]));
      acc[i] = _mm256_add_epi32(acc[i], _mm256_madd_epi16(_mm256_maddubs_epi16(w[i], q), one));
    }
  }
  uint64_t out = 0;
  for (auto& a : acc) out ^= static_cast<uint64_t>(_mm256_extract_epi64(a, 0));
  g_sink = out;
}

TUTTI_AVX512 void WideInt8Loop(int64_t rounds) {
  __m512i acc[12];
  for (auto& a : acc) a = _mm512_setzero_si512();
  __m512i w = _mm512_set1_epi8(3), q = _mm512_set1_epi8(-5);
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 12
    for (int i = 0; i < 12; ++i) acc[i] = _mm512_dpbusd_epi32(acc[i], w, q);
    asm volatile("" : "+v"(w), "+v"(q));
  }
  for (int i = 1; i < 12; ++i) acc[0] = _mm512_add_epi32(acc[0], acc[i]);
  uint64_t out;
  std::memcpy(&out, acc, sizeof out);
  g_sink = out;
}

TUTTI_AVX512 void WideFmaLoop(int64_t rounds) {
  __m512 acc[12];
  for (auto& a : acc) a = _mm512_setzero_ps();
  __m512 x = _mm512_set1_ps(0.5f), y = _mm512_set1_ps(0.25f);
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 12
    for (int i = 0; i < 12; ++i) acc[i] = _mm512_fmadd_ps(x, y, acc[i]);
    asm volatile("" : "+v"(x), "+v"(y));
  }
  for (int i = 1; i < 12; ++i) acc[0] = _mm512_add_ps(acc[0], acc[i]);
  uint64_t out;
  std::memcpy(&out, acc, sizeof out);
  g_sink = out;
}

TUTTI_AVX2 void FmaLoop(int64_t rounds) {
  __m256 acc[10];
  for (auto& a : acc) a = _mm256_setzero_ps();
  __m256 x = _mm256_set1_ps(0.5f), y = _mm256_set1_ps(0.25f);
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 10
    for (int i = 0; i < 10; ++i) acc[i] = _mm256_fmadd_ps(x, y, acc[i]);
    asm volatile("" : "+x"(x), "+x"(y));
  }
  float out = 0;
  for (auto& a : acc) out += _mm256_cvtss_f32(a);
  g_sink = static_cast<uint64_t>(out);
}
#endif

}  // namespace

Roof MeasureRoof([[maybe_unused]] Isa isa) {
  Roof roof;
#if defined(__x86_64__)
  if (!__builtin_cpu_supports("avx2")) return roof;
  constexpr size_t kBytes = size_t{128} << 20;
  void* p = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) return roof;
  madvise(p, kBytes, MADV_HUGEPAGE);
  std::memset(p, 1, kBytes);
  for (int threads = 1; threads <= 2; ++threads) {
    double best = 1e9;
    for (int round = 0; round < 7; ++round) {
      const size_t part = kBytes / static_cast<size_t>(threads) - 4096;
      best = std::min(best, Seconds(threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, [&] {
                        std::vector<std::thread> others;
                        for (int i = 1; i < threads; ++i) {
                          others.emplace_back([&, i] {
                            g_sink = ReadAll(
                                static_cast<std::byte*>(p) + static_cast<size_t>(i) * part, part);
                          });
                        }
                        g_sink = ReadAll(static_cast<std::byte*>(p), part);
                        for (auto& t : others) t.join();
                      }));
    }
    roof.read_bytes_per_s[threads] =
        static_cast<double>(kBytes - 4096 * static_cast<size_t>(threads)) / best;
  }
  munmap(p, kBytes);
  // `products` multiply-adds a round.
  const auto operations = [](void (*loop)(int64_t), int64_t rounds, double products) {
    double best = 1e9;
    for (int round = 0; round < 7; ++round)
      best = std::min(best, Seconds(CLOCK_THREAD_CPUTIME_ID, [&] { loop(rounds); }));
    return 2 * static_cast<double>(rounds) * products / best;
  };
  const bool wide = isa == Isa::kAvx512 || isa == Isa::kAmx;
  roof.simple_int8_ops_per_s = operations(SimpleInt8Loop, 4'000'000, 4 * 32);
  roof.int8_ops_per_s = wide ? operations(WideInt8Loop, 2'000'000, 12 * 64)
                             : operations(Int8Loop, 2'000'000, 16 * 32);
  roof.f32_flops_per_s =
      wide ? operations(WideFmaLoop, 4'000'000, 12 * 16) : operations(FmaLoop, 4'000'000, 10 * 8);
#endif
  return roof;
}

}  // namespace tutti::kernels
