// Row operations over 16 lanes, the same steps as kernels/reference in every lane.
// Included after a vector layer (vec_*.h) by a file compiled for that instruction set (see cpu.h).
#pragma once

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/unroll.h"

namespace tutti::kernels::cpu {
namespace {

constexpr float kRound = 12582912.0f;
constexpr float kInfinity = __builtin_inff();

// exp(x) of an x that is at most 88, or NaN: VExp less a comparison.
TUTTI_INLINE V VExpUpTo88(V x) {
  const V t = Fma(x, Set(1.44269504088896341f), Set(kRound));
  const V n = Sub(t, Set(kRound));
  V r = Fma(n, Set(-0.693359375f), x);
  r = Fma(n, Set(2.12194440e-4f), r);
  V p = Set(1.9875691500e-4f);
  p = Fma(p, r, Set(1.3981999507e-3f));
  p = Fma(p, r, Set(8.3334519073e-3f));
  p = Fma(p, r, Set(4.1665795894e-2f));
  p = Fma(p, r, Set(1.6666665459e-1f));
  p = Fma(p, r, Set(5.0000001201e-1f));
  p = Add(Fma(p, Mul(r, r), r), Set(1.0f));
  const I exponent = AddI(Bits(t), SetI(127 - 0x4B400000));
  const V y = Mul(p, FromBits(Shl<23>(exponent)));
  return Select(Less(x, Set(-86.0f)), Zero(), y);
}

TUTTI_INLINE V VExp(V x) {
  return VExpUpTo88(Min(Set(88.0f), x));  // NaN stays
}

TUTTI_INLINE V VLog(V x) {
  const M tiny = Less(x, Set(0x1p-126f));
  const V scaled = Select(tiny, Mul(x, Set(0x1p23f)), x);
  const I bits = Bits(scaled);
  const I e_int = Sar<23>(SubI(bits, SetI(0x3F3504F3)));
  const V f = Sub(FromBits(SubI(bits, Shl<23>(e_int))), Set(1.0f));
  const V e = Sub(ToFloat(e_int), Select(tiny, Set(23.0f), Zero()));
  const V z = Mul(f, f);
  V p = Set(7.0376836292e-2f);
  p = Fma(p, f, Set(-1.1514610310e-1f));
  p = Fma(p, f, Set(1.1676998740e-1f));
  p = Fma(p, f, Set(-1.2420140846e-1f));
  p = Fma(p, f, Set(1.4249322787e-1f));
  p = Fma(p, f, Set(-1.6668057665e-1f));
  p = Fma(p, f, Set(2.0000714765e-1f));
  p = Fma(p, f, Set(-2.4999993993e-1f));
  p = Fma(p, f, Set(3.3333331174e-1f));
  V t = Mul(Mul(p, f), z);
  t = Fma(e, Set(-2.12194440e-4f), t);
  t = Fma(Set(-0.5f), z, t);
  V y = Fma(e, Set(0.693359375f), Add(f, t));
  y = Select(Equal(x, Set(kInfinity)), x, y);
  y = Select(Equal(x, Zero()), Set(-kInfinity), y);
  // Below 0 or NaN; -0 is not below 0.
  return Select(NotGreaterEqual(x, Zero()), Set(__builtin_nanf("")), y);
}

TUTTI_INLINE V VTanh(V x) {
  const V a = FromBits(And(Bits(x), SetI(0x7FFFFFFF)));
  const V z = Mul(x, x);
  V p = Set(-5.70498872745e-3f);
  p = Fma(p, z, Set(2.06390887954e-2f));
  p = Fma(p, z, Set(-5.37397155531e-2f));
  p = Fma(p, z, Set(1.33314422036e-1f));
  p = Fma(p, z, Set(-3.33332819422e-1f));
  const V small = Fma(Mul(p, z), x, x);
  const V big = Sub(Set(1.0f), Div(Set(2.0f), Add(VExp(Add(a, a)), Set(1.0f))));
  const V signed_big =
      FromBits(Or(Bits(big), And(Bits(x), SetI(static_cast<int32_t>(0x80000000u)))));
  return Select(Less(a, Set(0.625f)), small, signed_big);
}

TUTTI_INLINE V VSilu(V x) {
  const V minus = FromBits(Xor(Bits(x), SetI(static_cast<int32_t>(0x80000000u))));
  return Div(x, Add(Set(1.0f), VExp(minus)));
}

TUTTI_INLINE V VGeluTanh(V x) {
  const V cube = Mul(Mul(x, x), x);
  const V inner = Fma(Set(0.044715f), cube, x);
  return Mul(Mul(Set(0.5f), x), Add(Set(1.0f), VTanh(Mul(Set(0.797884560802865f), inner))));
}

// Calls body(i, load, store) for every 16 elements: load(p) reads p[i...] and store(p, v) writes
// it, the last time with what is left of them only.
template <typename Body>
TUTTI_INLINE void ForLanes(int64_t n, const Body& body) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    body([i](const float* p) { return Load(p + i); }, [i](float* p, V v) { Store(p + i, v); });
  }
  if (i < n) {
    const int left = static_cast<int>(n - i);
    body([i, left](const float* p) { return LoadN(p + i, left); },
         [i, left](float* p, V v) { StoreN(p + i, v, left); });
  }
}

TUTTI_INLINE BlockScale QuantizeBlock(V x0, V x1, int8_t* q) {
  const I magnitude = SetI(0x7FFFFFFF);
  const int32_t max_bits = FoldMaxI(MaxI(And(Bits(x0), magnitude), And(Bits(x1), magnitude)));
  const float m = __builtin_bit_cast(float, max_bits);
  const V inverse = Set(m > 0.0f ? 127.0f / m : 0.0f);
  const I r0 = Bits(Add(Mul(x0, inverse), Set(kRound)));
  const I r1 = Bits(Add(Mul(x1, inverse), Set(kRound)));
  StoreLowBytes(q, r0);
  StoreLowBytes(q + 16, r1);
  return MakeBlockScale(m / 127.0f, FoldI(AddI(Sar<24>(Shl<24>(r0)), Sar<24>(Shl<24>(r1)))));
}

void QuantizeRows(const float* x, int64_t num_rows, int64_t cols, int8_t* q, BlockScale* scales) {
  for (int64_t block = 0; block < num_rows * (cols / 32); ++block, x += 32, q += 32)
    scales[block] = QuantizeBlock(Load(x), Load(x + 16), q);
}

V InverseRms(const float* x, float eps, int64_t n) {
  V sum = Zero();
  ForLanes(n, [&](auto load, auto) { sum = Fma(load(x), load(x), sum); });
  return Set(1.0f / __builtin_sqrtf(Fold(sum) / static_cast<float>(n) + eps));
}

void RmsNorm(const float* x, const float* gain, float gain_offset, float eps, int64_t n, float* y) {
  const V r = InverseRms(x, eps, n);
  const V offset = Set(gain_offset);
  ForLanes(n,
           [&](auto load, auto store) { store(y, Mul(Mul(load(x), r), Add(load(gain), offset))); });
}

void RmsNormQuantize(const float* x, const float* gain, float gain_offset, float eps, int64_t n,
                     float* y, int8_t* q, BlockScale* scales) {
  const V r = InverseRms(x, eps, n);
  const V offset = Set(gain_offset);
  for (int64_t i = 0; i < n; i += 32) {
    const V y0 = Mul(Mul(Load(x + i), r), Add(Load(gain + i), offset));
    const V y1 = Mul(Mul(Load(x + i + 16), r), Add(Load(gain + i + 16), offset));
    Store(y + i, y0);
    Store(y + i + 16, y1);
    scales[i / 32] = QuantizeBlock(y0, y1, q + i);
  }
}

void LayerNorm(const float* x, const float* gain, const float* bias, float eps, int64_t n,
               float* y) {
  V sum = Zero(), squares = Zero();
  ForLanes(n, [&](auto load, auto) { sum = Add(sum, load(x)); });
  const V mean = Set(Fold(sum) / static_cast<float>(n));
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    const V c = Sub(Load(x + i), mean);
    squares = Fma(c, c, squares);
  }
  if (i < n) {
    const int left = static_cast<int>(n - i);
    const V c = Select(LaneRange(0, left), Sub(LoadN(x + i, left), mean), Zero());
    squares = Fma(c, c, squares);
  }
  const V r = Set(1.0f / __builtin_sqrtf(Fold(squares) / static_cast<float>(n) + eps));
  ForLanes(n, [&](auto load, auto store) {
    const V scaled = Mul(Mul(Sub(load(x), mean), r), load(gain));
    store(y, bias != nullptr ? Add(scaled, load(bias)) : scaled);
  });
}

void AddRows(const float* a, const float* b, int64_t n, float* y) {
  ForLanes(n, [&](auto load, auto store) { store(y, Add(load(a), load(b))); });
}

void ScaleRow(const float* x, float factor, int64_t n, float* y) {
  const V f = Set(factor);
  ForLanes(n, [&](auto load, auto store) { store(y, Mul(load(x), f)); });
}

void AxpyRow(float a, const float* x, int64_t n, float* y) {
  const V f = Set(a);
  ForLanes(n, [&](auto load, auto store) { store(y, Fma(f, load(x), load(y))); });
}

void Softcap(const float* x, float cap, int64_t n, float* y) {
  const V c = Set(cap);
  ForLanes(n, [&](auto load, auto store) { store(y, Mul(c, VTanh(Div(load(x), c)))); });
}

void Activate(Activation kind, const float* x, int64_t n, float* y) {
  if (kind == Activation::kSilu) {
    ForLanes(n, [&](auto load, auto store) { store(y, VSilu(load(x))); });
  } else {
    ForLanes(n, [&](auto load, auto store) { store(y, VGeluTanh(load(x))); });
  }
}

void Gated(Activation kind, const float* gate, const float* up, int64_t n, float* y) {
  if (kind == Activation::kSilu) {
    ForLanes(n, [&](auto load, auto store) { store(y, Mul(VSilu(load(gate)), load(up))); });
  } else {
    ForLanes(n, [&](auto load, auto store) { store(y, Mul(VGeluTanh(load(gate)), load(up))); });
  }
}

void Rope(float* x, int num_heads, int64_t head_stride, int rot, bool interleaved, const float* cos,
          const float* sin) {
  const int half = rot / 2;
  for (int h = 0; h < num_heads; ++h, x += head_stride) {
    if (interleaved) {
      for (int i = 0; i < half; ++i) {
        const float x0 = x[2 * i], x1 = x[2 * i + 1];
        x[2 * i] = __builtin_fmaf(-x1, sin[i], x0 * cos[i]);
        x[2 * i + 1] = __builtin_fmaf(x1, cos[i], x0 * sin[i]);
      }
      continue;
    }
    float* const upper = x + half;
    ForLanes(half, [&](auto load, auto store) {
      const V x0 = load(x), x1 = load(upper), c = load(cos), s = load(sin);
      store(x, NegFma(x1, s, Mul(x0, c)));
      store(upper, Fma(x1, c, Mul(x0, s)));
    });
  }
}

void Exp(const float* x, int64_t n, float* y) {
  ForLanes(n, [&](auto load, auto store) { store(y, VExp(load(x))); });
}

void Log(const float* x, int64_t n, float* y) {
  ForLanes(n, [&](auto load, auto store) { store(y, VLog(load(x))); });
}

int64_t Argmax(const float* x, int64_t n) {
  V best = Set(-kInfinity);
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) best = Max(Load(x + i), best);  // a NaN in x leaves best as it is
  if (i < n) {
    const int left = static_cast<int>(n - i);
    best = Max(Select(LaneRange(0, left), LoadN(x + i, left), best), best);
  }
  const float top = FoldMax(best);
  const V want = Set(top);
  for (i = 0; i + 16 <= n; i += 16) {
    if (const uint32_t hits = MaskBits(Equal(Load(x + i), want)); hits != 0)
      return i + __builtin_ctz(hits);
  }
  for (; i < n; ++i) {
    if (x[i] == top) return i;
  }
  return 0;  // all NaN
}

float LogSumExp(const float* x, int64_t n) {
  const float m = x[Argmax(x, n)];
  const V top = Set(m);
  V sum = Zero();
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) sum = Add(sum, VExp(Sub(Load(x + i), top)));
  if (i < n) {
    const int left = static_cast<int>(n - i);
    sum = Add(sum, Select(LaneRange(0, left), VExp(Sub(LoadN(x + i, left), top)), Zero()));
  }
  float log_sum[16];
  Store(log_sum, VLog(Set(Fold(sum))));
  return m + log_sum[0];
}

void Gumbel(uint64_t seed, uint32_t position, uint32_t stream, uint32_t sample_index, int64_t n,
            float* out) {
  const auto negative_log = [](V v) {
    return FromBits(Xor(Bits(VLog(v)), SetI(static_cast<int32_t>(0x80000000u))));
  };
  for (int64_t i = 0; i < n; i += 64) {
    I c0 = AddI(SetI(static_cast<int32_t>(i / 4)), Iota()),
      c1 = SetI(static_cast<int32_t>(position));
    I c2 = SetI(static_cast<int32_t>(stream)), c3 = SetI(static_cast<int32_t>(sample_index));
    uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
    for (int round = 0; round < 10; ++round) {
      I high_a, low_a, high_b, low_b;
      MulWide(c0, 0xD2511F53u, &high_a, &low_a);
      MulWide(c2, 0xCD9E8D57u, &high_b, &low_b);
      c0 = Xor(Xor(high_b, c1), SetI(static_cast<int32_t>(k0)));
      c2 = Xor(Xor(high_a, c3), SetI(static_cast<int32_t>(k1)));
      c1 = low_b;
      c3 = low_a;
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    const auto noise = [&](I word) {
      const V u = Mul(Add(ToFloat(Shr<9>(word)), Set(0.5f)), Set(0x1p-23f));
      return negative_log(negative_log(u));
    };
    const V w0 = noise(c0), w1 = noise(c1), w2 = noise(c2), w3 = noise(c3);
    if (i + 64 <= n) {
      StoreInterleaved4(out + i, w0, w1, w2, w3);
    } else {
      float last[64];
      StoreInterleaved4(last, w0, w1, w2, w3);
      for (int64_t j = i; j < n; ++j) out[j] = last[j - i];
    }
  }
}

bool AllFinite(const float* x, int64_t n) {
  const I exponent = SetI(0x7F800000);
  I most = ZeroI();
  ForLanes(n, [&](auto load, auto) { most = MaxI(most, And(Bits(load(x)), exponent)); });
  return FoldMaxI(most) != 0x7F800000;
}

}  // namespace
}  // namespace tutti::kernels::cpu
