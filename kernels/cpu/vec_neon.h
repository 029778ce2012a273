// The vector layer for NEON (AArch64): 16 lanes are four registers, a to d.
//
// Integer dot products use sdot where the compiler may (__ARM_FEATURE_DOTPROD, set by the flags of
// the file that includes this), and else chains in 16-bit lanes. Unsigned weights are at most 31
// here, so they are signed bytes as well. Included only by a file compiled for that instruction set
// (see cpu.h).
#pragma once

#include <arm_neon.h>

#include <cstdint>

namespace tutti::kernels::cpu {
namespace {

#define TUTTI_INLINE inline __attribute__((always_inline))

// An intrinsic for each of the four registers of one, two or three operands, and with a constant.
#define TUTTI_EACH1(op, x) \
  { op((x).a), op((x).b), op((x).c), op((x).d) }
#define TUTTI_EACH2(op, x, y) \
  { op((x).a, (y).a), op((x).b, (y).b), op((x).c, (y).c), op((x).d, (y).d) }
#define TUTTI_EACH3(op, x, y, z)                                               \
  {                                                                            \
    op((x).a, (y).a, (z).a), op((x).b, (y).b, (z).b), op((x).c, (y).c, (z).c), \
        op((x).d, (y).d, (z).d)                                                \
  }
#define TUTTI_EACH_N(op, x, n) \
  { op((x).a, n), op((x).b, n), op((x).c, n), op((x).d, n) }

// Columns that share the unpacking of a weight.
constexpr int kFusedTile = 4;
// Room for some thirty V at once, or for about eight.
constexpr bool kManyRegisters = false;

struct V {
  float32x4_t a, b, c, d;
};  // 16 x f32
struct I {
  int32x4_t a, b, c, d;
};  // 16 x i32, or 64 bytes
struct M {
  uint32x4_t a, b, c, d;
};  // 16 truth values

TUTTI_INLINE V Set(float x) {
  const float32x4_t v = vdupq_n_f32(x);
  return {v, v, v, v};
}
TUTTI_INLINE V Zero() { return Set(0.0f); }
TUTTI_INLINE V Load(const float* p) {
  return {vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)};
}
TUTTI_INLINE void Store(float* p, V x) {
  vst1q_f32(p, x.a);
  vst1q_f32(p + 4, x.b);
  vst1q_f32(p + 8, x.c);
  vst1q_f32(p + 12, x.d);
}
// Lanes [0, n) of memory, 0 in the others; nothing past lane n is touched.
TUTTI_INLINE float32x4_t LoadPart(const float* p, int n) {
  if (n >= 4) return vld1q_f32(p);
  float32x4_t v = vdupq_n_f32(0.0f);
  if (n > 0) v = vld1q_lane_f32(p, v, 0);
  if (n > 1) v = vld1q_lane_f32(p + 1, v, 1);
  if (n > 2) v = vld1q_lane_f32(p + 2, v, 2);
  return v;
}
TUTTI_INLINE void StorePart(float* p, float32x4_t v, int n) {
  if (n >= 4) return vst1q_f32(p, v);
  if (n > 0) vst1q_lane_f32(p, v, 0);
  if (n > 1) vst1q_lane_f32(p + 1, v, 1);
  if (n > 2) vst1q_lane_f32(p + 2, v, 2);
}
TUTTI_INLINE V LoadN(const float* p, int n) {
  return {LoadPart(p, n), LoadPart(p + 4, n - 4), LoadPart(p + 8, n - 8), LoadPart(p + 12, n - 12)};
}
TUTTI_INLINE void StoreN(float* p, V x, int n) {
  StorePart(p, x.a, n);
  StorePart(p + 4, x.b, n - 4);
  StorePart(p + 8, x.c, n - 8);
  StorePart(p + 12, x.d, n - 12);
}
TUTTI_INLINE V LoadHalf(const void* p) {
  const auto* q = static_cast<const uint16_t*>(p);
  const float16x8_t low = vreinterpretq_f16_u16(vld1q_u16(q)),
                    high = vreinterpretq_f16_u16(vld1q_u16(q + 8));
  return {vcvt_f32_f16(vget_low_f16(low)), vcvt_high_f32_f16(low), vcvt_f32_f16(vget_low_f16(high)),
          vcvt_high_f32_f16(high)};
}
TUTTI_INLINE V LoadBFloat(const void* p) {
  const auto* q = static_cast<const uint16_t*>(p);
  const auto widen = [](const uint16_t* four) {
    return vreinterpretq_f32_u32(vshlq_n_u32(vmovl_u16(vld1_u16(four)), 16));
  };
  return {widen(q), widen(q + 4), widen(q + 8), widen(q + 12)};
}

TUTTI_INLINE V Add(V x, V y) { return TUTTI_EACH2(vaddq_f32, x, y); }
TUTTI_INLINE V Sub(V x, V y) { return TUTTI_EACH2(vsubq_f32, x, y); }
TUTTI_INLINE V Mul(V x, V y) { return TUTTI_EACH2(vmulq_f32, x, y); }
TUTTI_INLINE V Div(V x, V y) { return TUTTI_EACH2(vdivq_f32, x, y); }
TUTTI_INLINE V Fma(V x, V y, V z) { return TUTTI_EACH3(vfmaq_f32, z, x, y); }
// fma(-x, y, z)
TUTTI_INLINE V NegFma(V x, V y, V z) { return TUTTI_EACH3(vfmsq_f32, z, x, y); }

TUTTI_INLINE M Less(V x, V y) { return TUTTI_EACH2(vcltq_f32, x, y); }
TUTTI_INLINE M Equal(V x, V y) { return TUTTI_EACH2(vceqq_f32, x, y); }
// x < y or either is NaN.
TUTTI_INLINE M NotGreaterEqual(V x, V y) {
  const M not_less = TUTTI_EACH2(vcgeq_f32, x, y);
  return TUTTI_EACH1(vmvnq_u32, not_less);
}
TUTTI_INLINE V Select(M m, V yes, V no) { return TUTTI_EACH3(vbslq_f32, m, yes, no); }
// x < y ? x : y, and x > y ? x : y: y when either is NaN. (fmin and fmax would give the NaN.)
TUTTI_INLINE V Min(V x, V y) { return Select(Less(x, y), x, y); }
TUTTI_INLINE V Max(V x, V y) { return Select(Less(y, x), x, y); }
TUTTI_INLINE uint32_t MaskBits(M m) {
  constexpr uint32_t kBits[16] = {1u << 0,  1u << 1,  1u << 2,  1u << 3, 1u << 4,  1u << 5,
                                  1u << 6,  1u << 7,  1u << 8,  1u << 9, 1u << 10, 1u << 11,
                                  1u << 12, 1u << 13, 1u << 14, 1u << 15};
  const uint32x4_t ab =
      vorrq_u32(vandq_u32(m.a, vld1q_u32(kBits)), vandq_u32(m.b, vld1q_u32(kBits + 4)));
  const uint32x4_t cd =
      vorrq_u32(vandq_u32(m.c, vld1q_u32(kBits + 8)), vandq_u32(m.d, vld1q_u32(kBits + 12)));
  return vaddvq_u32(vorrq_u32(ab, cd));
}

TUTTI_INLINE I SetI(int32_t x) {
  const int32x4_t v = vdupq_n_s32(x);
  return {v, v, v, v};
}
TUTTI_INLINE I ZeroI() { return SetI(0); }
TUTTI_INLINE I Iota() {
  constexpr int32_t kIota[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return {vld1q_s32(kIota), vld1q_s32(kIota + 4), vld1q_s32(kIota + 8), vld1q_s32(kIota + 12)};
}
// Lanes [from, to).
TUTTI_INLINE M LaneRange(int from, int to) {
  const I i = Iota(), first = SetI(from), end = SetI(to);
  const M after = TUTTI_EACH2(vcgeq_s32, i, first), before = TUTTI_EACH2(vcltq_s32, i, end);
  return TUTTI_EACH2(vandq_u32, after, before);
}
TUTTI_INLINE I Bits(V x) { return TUTTI_EACH1(vreinterpretq_s32_f32, x); }
TUTTI_INLINE V FromBits(I x) { return TUTTI_EACH1(vreinterpretq_f32_s32, x); }
TUTTI_INLINE I AddI(I x, I y) { return TUTTI_EACH2(vaddq_s32, x, y); }
TUTTI_INLINE I SubI(I x, I y) { return TUTTI_EACH2(vsubq_s32, x, y); }
TUTTI_INLINE int8x16_t AsBytes(int32x4_t x) { return vreinterpretq_s8_s32(x); }
TUTTI_INLINE I SubBytes(I x, I y) {
  const auto sub = [](int32x4_t v, int32x4_t w) {
    return vreinterpretq_s32_s8(vsubq_s8(AsBytes(v), AsBytes(w)));
  };
  return TUTTI_EACH2(sub, x, y);
}
TUTTI_INLINE I And(I x, I y) { return TUTTI_EACH2(vandq_s32, x, y); }
TUTTI_INLINE I Or(I x, I y) { return TUTTI_EACH2(vorrq_s32, x, y); }
TUTTI_INLINE I Xor(I x, I y) { return TUTTI_EACH2(veorq_s32, x, y); }
TUTTI_INLINE I MaxI(I x, I y) { return TUTTI_EACH2(vmaxq_s32, x, y); }
template <int n>
TUTTI_INLINE I Shl(I x) {
  return TUTTI_EACH_N(vshlq_n_s32, x, n);
}
template <int n>
TUTTI_INLINE I Sar(I x) {
  return TUTTI_EACH_N(vshrq_n_s32, x, n);
}
template <int n>
TUTTI_INLINE I Shr(I x) {
  const auto shift = [](int32x4_t v) {
    return vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(v), n));
  };
  return TUTTI_EACH1(shift, x);
}
TUTTI_INLINE V ToFloat(I x) { return TUTTI_EACH1(vcvtq_f32_s32, x); }

// Upper and lower half of the 64-bit products of unsigned lanes with a constant.
TUTTI_INLINE void MulWide(I x, uint32_t c, I* high, I* low) {
  const uint32x4_t k = vdupq_n_u32(c);
  const auto one = [&](int32x4_t v, int32x4_t* h, int32x4_t* l) {
    const uint32x4_t u = vreinterpretq_u32_s32(v);
    const uint32x4_t p01 = vreinterpretq_u32_u64(vmull_u32(vget_low_u32(u), vget_low_u32(k)));
    const uint32x4_t p23 = vreinterpretq_u32_u64(vmull_high_u32(u, k));
    *h = vreinterpretq_s32_u32(vuzp2q_u32(p01, p23));
    *l = vreinterpretq_s32_u32(vuzp1q_u32(p01, p23));
  };
  one(x.a, &high->a, &low->a);
  one(x.b, &high->b, &low->b);
  one(x.c, &high->c, &low->c);
  one(x.d, &high->d, &low->d);
}

// Sum of 16 lanes: 8, 4, 2, 1.
TUTTI_INLINE float Fold(V x) {
  const float32x4_t w4 = vaddq_f32(vaddq_f32(x.a, x.c), vaddq_f32(x.b, x.d));
  return vpadds_f32(vadd_f32(vget_low_f32(w4), vget_high_f32(w4)));
}
TUTTI_INLINE float FoldMax(V x) {
  return vmaxvq_f32(vmaxq_f32(vmaxq_f32(x.a, x.c), vmaxq_f32(x.b, x.d)));
}
TUTTI_INLINE int32_t FoldMaxI(I x) {
  return vmaxvq_s32(vmaxq_s32(vmaxq_s32(x.a, x.c), vmaxq_s32(x.b, x.d)));
}
TUTTI_INLINE int32_t FoldI(I x) {
  return vaddvq_s32(vaddq_s32(vaddq_s32(x.a, x.c), vaddq_s32(x.b, x.d)));
}

// The low byte of every lane.
TUTTI_INLINE void StoreLowBytes(int8_t* p, I x) {
  const auto halves = [](int32x4_t v, int32x4_t w) {
    return vuzp1q_s16(vreinterpretq_s16_s32(v), vreinterpretq_s16_s32(w));
  };
  vst1q_s8(
      p, vuzp1q_s8(vreinterpretq_s8_s16(halves(x.a, x.b)), vreinterpretq_s8_s16(halves(x.c, x.d))));
}

// The low 16 bits of every lane.
TUTTI_INLINE void StoreLowHalves(int16_t* p, I x) {
  vst1q_s16(p, vuzp1q_s16(vreinterpretq_s16_s32(x.a), vreinterpretq_s16_s32(x.b)));
  vst1q_s16(p + 8, vuzp1q_s16(vreinterpretq_s16_s32(x.c), vreinterpretq_s16_s32(x.d)));
}

// p[4 i + j] = w_j[i].
TUTTI_INLINE void StoreInterleaved4(float* p, V w0, V w1, V w2, V w3) {
  vst4q_f32(p, (float32x4x4_t{{w0.a, w1.a, w2.a, w3.a}}));
  vst4q_f32(p + 16, (float32x4x4_t{{w0.b, w1.b, w2.b, w3.b}}));
  vst4q_f32(p + 32, (float32x4x4_t{{w0.c, w1.c, w2.c, w3.c}}));
  vst4q_f32(p + 48, (float32x4x4_t{{w0.d, w1.d, w2.d, w3.d}}));
}

// ---- Integer dot products: 64 bytes are 16 rows x 4 k. ----

TUTTI_INLINE I LoadI(const void* p) {
  const auto* q = static_cast<const uint8_t*>(p);
  const auto load = [](const uint8_t* from) { return vreinterpretq_s32_u8(vld1q_u8(from)); };
  return {load(q), load(q + 16), load(q + 32), load(q + 48)};
}
TUTTI_INLINE void StoreI(void* p, I x) {
  auto* q = static_cast<uint8_t*>(p);
  vst1q_u8(q, vreinterpretq_u8_s32(x.a));
  vst1q_u8(q + 16, vreinterpretq_u8_s32(x.b));
  vst1q_u8(q + 32, vreinterpretq_u8_s32(x.c));
  vst1q_u8(q + 48, vreinterpretq_u8_s32(x.d));
}
TUTTI_INLINE I SetBytes(int8_t x) {
  const int32x4_t v = vreinterpretq_s32_s8(vdupq_n_s8(x));
  return {v, v, v, v};
}
// Shifts of 16-bit lanes; callers mask what crosses bytes.
template <int n>
TUTTI_INLINE I Shr16(I x) {
  if constexpr (n == 0) return x;  // the instruction shifts by 1 to 16
  const auto shift = [](int32x4_t v) {
    return vreinterpretq_s32_u16(vshrq_n_u16(vreinterpretq_u16_s32(v), n == 0 ? 1 : n));
  };
  return TUTTI_EACH1(shift, x);
}
template <int n>
TUTTI_INLINE I Shl16(I x) {
  const auto shift = [](int32x4_t v) {
    return vreinterpretq_s32_u16(vshlq_n_u16(vreinterpretq_u16_s32(v), n));
  };
  return TUTTI_EACH1(shift, x);
}
// 16 bytes to 16 x i32.
TUTTI_INLINE I WidenU8(const uint8_t* p) {
  const uint8x16_t bytes = vld1q_u8(p);
  const uint16x8_t low = vmovl_u8(vget_low_u8(bytes)), high = vmovl_high_u8(bytes);
  return {vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(low))),
          vreinterpretq_s32_u32(vmovl_high_u16(low)),
          vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(high))),
          vreinterpretq_s32_u32(vmovl_high_u16(high))};
}
TUTTI_INLINE I WidenS8(const uint8_t* p) {
  const int8x16_t bytes = vreinterpretq_s8_u8(vld1q_u8(p));
  const int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_high_s8(bytes);
  return {vmovl_s16(vget_low_s16(low)), vmovl_high_s16(low), vmovl_s16(vget_low_s16(high)),
          vmovl_high_s16(high)};
}

constexpr bool kBytesByOffset = false;  // signed weights stay signed (see vec_avx512.h)

// Four activations for every row.
using Q4 = int8x16_t;
TUTTI_INLINE Q4 LoadQ4(const int8_t* q) {
  int32_t v;
  __builtin_memcpy(&v, q, 4);
  return AsBytes(vdupq_n_s32(v));
}

// A running sum of unsigned weights times signed activations.
using Chain = I;
TUTTI_INLINE Chain ZeroChain() { return ZeroI(); }
using Factor = I;
TUTTI_INLINE Factor MakeFactor(I x) { return x; }

#if defined(__ARM_FEATURE_DOTPROD)

// How many products of 4-k groups a chain may hold before Reduce: sums are 32-bit here.
constexpr int MaxChain(int) { return 1024; }
constexpr int ChainWays(int) { return 1; }

// acc + sum of signed weights times signed activations.
TUTTI_INLINE I MacSigned(I acc, I w, Q4 q) {
  const auto dot = [&](int32x4_t sum, int32x4_t v) { return vdotq_s32(sum, AsBytes(v), q); };
  return TUTTI_EACH2(dot, acc, w);
}
TUTTI_INLINE Chain Mac(Chain c, I w, Q4 q) { return MacSigned(c, w, q); }
TUTTI_INLINE Chain FirstMac(I w, Q4 q) { return MacSigned(ZeroChain(), w, q); }
TUTTI_INLINE I ReduceOne(Chain c) { return c; }

#else

// How many products of 4-k groups a chain may hold before Reduce: a 16-bit lane gains 2 * max * 127
// each.
constexpr int MaxChain(int unsigned_max) { return 32767 / (2 * 127 * unsigned_max); }
constexpr int ChainWays(int) { return 1; }

// w * q of 4 rows, pairs of k summed in 16-bit lanes: at most 2 * 128 * 127.
TUTTI_INLINE int16x8_t Pairs(int32x4_t w, Q4 q) {
  return vpaddq_s16(vmull_s8(vget_low_s8(AsBytes(w)), vget_low_s8(q)),
                    vmull_high_s8(AsBytes(w), q));
}
TUTTI_INLINE Chain FirstMac(I w, Q4 q) {
  const auto mul = [&](int32x4_t v) { return vreinterpretq_s32_s16(Pairs(v, q)); };
  return TUTTI_EACH1(mul, w);
}
TUTTI_INLINE Chain Mac(Chain c, I w, Q4 q) {
  const auto add = [&](int32x4_t sum, int32x4_t v) {
    return vreinterpretq_s32_s16(vaddq_s16(vreinterpretq_s16_s32(sum), Pairs(v, q)));
  };
  return TUTTI_EACH2(add, c, w);
}
TUTTI_INLINE I ReduceOne(Chain c) {
  const auto widen = [](int32x4_t v) { return vpaddlq_s16(vreinterpretq_s16_s32(v)); };
  return TUTTI_EACH1(widen, c);
}
// acc + sum of signed weights times signed activations.
TUTTI_INLINE I MacSigned(I acc, I w, Q4 q) {
  const auto dot = [&](int32x4_t sum, int32x4_t v) { return vpadalq_s16(sum, Pairs(v, q)); };
  return TUTTI_EACH2(dot, acc, w);
}

#endif

TUTTI_INLINE I Reduce(Chain c, Factor f) {
  const I sum = ReduceOne(c);
  return TUTTI_EACH2(vmulq_s32, sum, f);
}
// Mac for signed weights of at most 32 in size: a chain may hold 4.
TUTTI_INLINE Chain MacSmallSigned(Chain c, I w, Q4 q) { return Mac(c, w, q); }
// x.low * y.low + x.high * y.high of the signed 16-bit halves of each lane.
TUTTI_INLINE I DotPairs(I x, I y) {
  const auto dot = [](int32x4_t v, int32x4_t w) {
    const int16x8_t s = vreinterpretq_s16_s32(v), t = vreinterpretq_s16_s32(w);
    return vpaddq_s32(vmull_s16(vget_low_s16(s), vget_low_s16(t)), vmull_high_s16(s, t));
  };
  return TUTTI_EACH2(dot, x, y);
}
// acc + DotPairs(x, y).
TUTTI_INLINE I MacPairs(I acc, I x, I y) { return AddI(acc, DotPairs(x, y)); }
// 32 signed bytes to the 16-bit halves of 16 lanes.
TUTTI_INLINE I WidenPairs(const void* p) {
  const auto* q = static_cast<const int8_t*>(p);
  const int8x16_t low = vld1q_s8(q), high = vld1q_s8(q + 16);
  const auto widen = [](int16x8_t v) { return vreinterpretq_s32_s16(v); };
  return {widen(vmovl_s8(vget_low_s8(low))), widen(vmovl_high_s8(low)),
          widen(vmovl_s8(vget_low_s8(high))), widen(vmovl_high_s8(high))};
}

// constant * *x in all lanes.
template <int constant>
TUTTI_INLINE I TimesConstant(const int32_t* x) {
  return SetI(constant * *x);
}

// Products of bytes that are stored as v + 128 with signed q in [-127, 127]; `sum` is the sum of
// all q that will follow. acc = StartOffset(sum), then acc = MacOffset(acc, LoadOffset(p), q).
TUTTI_INLINE I StartOffset(int32_t) { return ZeroI(); }
TUTTI_INLINE I LoadOffset(const void* p) { return Xor(LoadI(p), SetBytes(-128)); }
TUTTI_INLINE I MacOffset(I acc, I v, Q4 q) { return MacSigned(acc, v, q); }

#undef TUTTI_EACH1
#undef TUTTI_EACH2
#undef TUTTI_EACH3
#undef TUTTI_EACH_N

}  // namespace
}  // namespace tutti::kernels::cpu
