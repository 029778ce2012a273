// Every table of this build and machine gives the reference's bits, over shapes and values chosen
// to hurt.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <ostream>
#include <string>
#include <vector>

#include "kernels/kernels.h"
#include "kernels/kv_page.h"
#include "kernels/reference/reference.h"
#include "kernels/tables.h"
#include "kernels/testing.h"

namespace tutti::kernels {

void PrintTo(const RunnableTable& t, std::ostream* out) { *out << t.name; }

namespace {

using Floats = std::vector<float>;
constexpr float kInf = std::numeric_limits<float>::infinity();

// The same bits, or NaN in both (the payload of a NaN is nobody's promise).
::testing::AssertionResult Same(const Floats& want, const Floats& got) {
  if (want.size() != got.size()) return ::testing::AssertionFailure() << "sizes differ";
  for (size_t i = 0; i < want.size(); ++i) {
    if (std::isnan(want[i]) && std::isnan(got[i])) continue;
    if (std::memcmp(&want[i], &got[i], 4) != 0) {
      return ::testing::AssertionFailure()
             << "at " << i << ": want " << want[i] << ", got " << got[i];
    }
  }
  return ::testing::AssertionSuccess();
}

enum class Values { kPlain, kTiny, kHuge, kSpecial };
constexpr Values kAllValues[] = {Values::kPlain, Values::kTiny, Values::kHuge, Values::kSpecial};

Floats Row(int64_t n, Values values, Random& random) {
  Floats x(static_cast<size_t>(n));
  for (float& v : x) {
    v = 4 * random.Symmetric();
    const int64_t choice = random.Below(8);
    if (values == Values::kTiny) v *= choice < 4 ? 0x1p-127f : choice < 6 ? 0x1p-149f : 0.0f;
    if (values == Values::kHuge) v *= choice < 4 ? 1e30f : 1e-30f;
    if (values == Values::kSpecial && random.Below(40) == 0) {
      const float special[] = {kInf, -kInf, std::numeric_limits<float>::quiet_NaN(), -0.0f};
      v = special[choice % 4];
    }
  }
  return x;
}

class ParityTest : public ::testing::TestWithParam<RunnableTable> {
 protected:
  const KernelTable& want_ = reference::Table();
  const KernelTable& got_ = *GetParam().table;
  Random random_{20240607};
};

// All but the reference itself. Before the self-check: a table that differs must fail here, not be
// missing.
std::vector<RunnableTable> TablesToCompare() {
  std::vector<RunnableTable> tables = RunnableTables();
  std::erase_if(tables, [](const RunnableTable& t) { return t.table == &reference::Table(); });
  return tables;
}
INSTANTIATE_TEST_SUITE_P(Isas, ParityTest, ::testing::ValuesIn(TablesToCompare()),
                         [](const auto& info) { return std::string(info.param.name); });
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(ParityTest);

struct Quantized {
  std::vector<int8_t> q;
  std::vector<BlockScale> scales;
  QuantizedRows rows;

  Floats Scales() const {
    Floats out;
    for (const BlockScale& b : scales) out.insert(out.end(), {b.d, b.m});
    return out;
  }
  std::vector<int32_t> Sums() const {
    std::vector<int32_t> out;
    for (const BlockScale& b : scales) out.push_back(b.s);
    return out;
  }
};
Quantized Quantize(const KernelTable& table, const Floats& x, int64_t rows, int64_t cols) {
  Quantized out;
  out.q.resize(x.size());
  out.scales.resize(x.size() / 32);
  table.quantize_rows(x.data(), rows, cols, out.q.data(), out.scales.data());
  out.rows = {rows, cols, out.q.data(), out.scales.data()};
  return out;
}

TEST_P(ParityTest, QuantizeRows) {
  for (Values values : kAllValues) {
    for (int64_t rows : {1, 3, 8}) {
      const int64_t cols = 32 * (1 + random_.Below(9));
      const Floats x = Row(rows * cols, values, random_);
      const Quantized want = Quantize(want_, x, rows, cols), got = Quantize(got_, x, rows, cols);
      EXPECT_TRUE(Same(want.Scales(), got.Scales()));
      if (values == Values::kSpecial)
        continue;  // the integers beside a NaN scale are nobody's promise
      EXPECT_EQ(want.q, got.q);
      EXPECT_EQ(want.Sums(), got.Sums());
    }
  }
}

TEST_P(ParityTest, RmsNormQuantizeIsOneAfterTheOther) {
  for (Values values : kAllValues) {
    for (const int64_t n : {int64_t{32}, int64_t{576}, 32 * (1 + random_.Below(40))}) {
      const Floats x = Row(n, values, random_), gain = Row(n, Values::kPlain, random_);
      const auto size = static_cast<size_t>(n);
      Floats want_y(size), y(size);
      Quantized got;
      got.q.resize(size);
      got.scales.resize(size / 32);
      want_.rms_norm(x.data(), gain.data(), 1, 1e-5f, n, want_y.data());
      const Quantized want = Quantize(want_, want_y, 1, n);
      got_.rms_norm_quantize(x.data(), gain.data(), 1, 1e-5f, n, y.data(), got.q.data(),
                             got.scales.data());
      EXPECT_TRUE(Same(want_y, y));
      EXPECT_TRUE(Same(want.Scales(), got.Scales()));
      if (values == Values::kSpecial) continue;
      EXPECT_EQ(want.q, got.q);
      EXPECT_EQ(want.Sums(), got.Sums());
    }
  }
}

TEST_P(ParityTest, MatmulOfEveryType) {
  for (DType dtype : kAllDTypes) {
    for (int round = 0; round < 14; ++round) {
      // The reference is slow, and slower under a sanitizer: the widest rounds are small otherwise.
      const bool wide = round >= 12;
      const int64_t rows = round < 2 ? 16 * (round + 1) : 1 + random_.Below(wide ? 20 : 70);
      const int64_t unit = Traits(dtype).quantized ? std::max(32, Traits(dtype).block_elements) : 1;
      const int64_t units = unit == 256 ? 4 : unit == 32 ? 20 : 700;
      const int64_t cols = unit * (1 + random_.Below(wide ? units / 2 : units));
      // Every width of a tile, tiles side by side, and past 32 the route of many columns; of AMX,
      // full tiles too.
      const int64_t num_x = round < 9        ? 1 + round
                            : round == 12    ? 16 * (1 + random_.Below(4))
                            : round == 13    ? 257 + random_.Below(40)  // more than one pass of AMX
                            : round % 2 == 0 ? 10 + random_.Below(23)
                                             : 33 + random_.Below(12);
      const Values values = round % 4 == 1   ? Values::kTiny
                            : round % 4 == 2 ? Values::kHuge
                                             : Values::kPlain;
      const auto w = PackedMatrix::Pack(
          dtype, rows, cols, RandomWeights(dtype, rows, cols, static_cast<uint64_t>(round)));
      ASSERT_TRUE(w.ok()) << w.status();
      // Only some groups, so that a write outside of them shows; and room beside each row.
      const int64_t begin = random_.Below(w->num_groups()),
                    end = begin + 1 + random_.Below(w->num_groups() - begin);
      const int64_t stride = rows + random_.Below(5);
      const Floats x = Row(num_x * cols, values, random_);
      Floats want(static_cast<size_t>(num_x * stride), -77.0f), got = want;
      if (w->quantized()) {
        const Quantized in = Quantize(want_, x, num_x, cols);
        want_.matmul_quantized(*w, in.rows, begin, end, want.data(), stride);
        got_.matmul_quantized(*w, in.rows, begin, end, got.data(), stride);
      } else {
        want_.matmul_float(*w, x.data(), num_x, cols, begin, end, want.data(), stride);
        got_.matmul_float(*w, x.data(), num_x, cols, begin, end, got.data(), stride);
      }
      ASSERT_TRUE(Same(want, got))
          << Traits(dtype).name << " " << rows << " x " << cols << ", columns " << num_x;
    }
  }
}

// All bits set or clear in weights and activations of full size: sums at the ends of their range.
TEST_P(ParityTest, MatmulAtTheEndsOfTheIntegers) {
  for (DType dtype : kAllDTypes) {
    if (!Traits(dtype).quantized) continue;
    for (int fill : {0x00, 0x7F, 0x80, 0xFF}) {
      for (float sign : {1.0f, -1.0f}) {
        constexpr int64_t kRows = 16, kCols = 512;
        std::vector<std::byte> data = RandomWeights(dtype, kRows, kCols, 3);
        const auto block = static_cast<size_t>(Traits(dtype).block_bytes);
        for (size_t at = 0; at < data.size(); at += block) {
          std::vector<std::byte> kept(data.begin() + static_cast<std::ptrdiff_t>(at),
                                      data.begin() + static_cast<std::ptrdiff_t>(at + block));
          std::memset(data.data() + at, fill, block);
          if (dtype == DType::kQ6_K) {
            std::memcpy(data.data() + at + 208, kept.data() + 208, 2);
          } else {
            std::memcpy(data.data() + at, kept.data(), 2);
            const bool has_min =
                dtype != DType::kQ8_0 && dtype != DType::kQ4_0 && dtype != DType::kQ5_0;
            if (has_min) std::memcpy(data.data() + at + 2, kept.data() + 2, 2);
          }
        }
        const auto w = PackedMatrix::Pack(dtype, kRows, kCols, data);
        ASSERT_TRUE(w.ok());
        for (int64_t num_x : {1, 4, 12, 36}) {
          const Floats x(static_cast<size_t>(num_x * kCols), sign);
          const Quantized in = Quantize(want_, x, num_x, kCols);
          ASSERT_EQ(in.q[0], sign * 127);
          Floats want(static_cast<size_t>(num_x * kRows)), got = want;
          want_.matmul_quantized(*w, in.rows, 0, 1, want.data(), kRows);
          got_.matmul_quantized(*w, in.rows, 0, 1, got.data(), kRows);
          ASSERT_TRUE(Same(want, got)) << Traits(dtype).name << " fill " << fill;
        }
      }
    }
  }
}

TEST_P(ParityTest, RowOperations) {
  for (Values values : kAllValues) {
    for (int round = 0; round < 40; ++round) {
      const int64_t n = round < 34 ? 1 + round : 1 + random_.Below(3000);
      const auto size = static_cast<size_t>(n);
      const Floats x = Row(n, values, random_), g = Row(n, Values::kPlain, random_),
                   b = Row(n, Values::kPlain, random_);
      const auto check = [&](const char* name, const auto& call) {
        Floats want(size + 1, -77.0f), got = want;
        call(want_, want.data());
        call(got_, got.data());
        EXPECT_TRUE(Same(want, got)) << name << " n " << n;
      };
      check("rms_norm", [&](const KernelTable& k, float* y) {
        k.rms_norm(x.data(), g.data(), 0, 1e-5f, n, y);
      });
      check("rms_norm+1", [&](const KernelTable& k, float* y) {
        k.rms_norm(x.data(), g.data(), 1, 1e-6f, n, y);
      });
      check("layer_norm", [&](const KernelTable& k, float* y) {
        k.layer_norm(x.data(), g.data(), b.data(), 1e-5f, n, y);
      });
      check("layer_norm, no bias", [&](const KernelTable& k, float* y) {
        k.layer_norm(x.data(), g.data(), nullptr, 1e-5f, n, y);
      });
      check("add", [&](const KernelTable& k, float* y) { k.add(x.data(), b.data(), n, y); });
      check("axpy", [&](const KernelTable& k, float* y) {
        k.scale(x.data(), 0.5f, n, y);
        k.axpy(0.37f, x.data(), n, y);
      });
      check("scale", [&](const KernelTable& k, float* y) { k.scale(x.data(), 0.123f, n, y); });
      check("softcap", [&](const KernelTable& k, float* y) { k.softcap(x.data(), 30.0f, n, y); });
      for (Activation kind : {Activation::kSilu, Activation::kGeluTanh}) {
        check("activate",
              [&](const KernelTable& k, float* y) { k.activate(kind, x.data(), n, y); });
        check("gated",
              [&](const KernelTable& k, float* y) { k.gated(kind, x.data(), b.data(), n, y); });
      }
      check("exp", [&](const KernelTable& k, float* y) { k.exp(x.data(), n, y); });
      check("log", [&](const KernelTable& k, float* y) { k.log(x.data(), n, y); });
      check("log_sum_exp",
            [&](const KernelTable& k, float* y) { y[0] = k.log_sum_exp(x.data(), n); });
      check("in place", [&](const KernelTable& k, float* y) {
        std::memcpy(y, x.data(), size * 4);
        k.rms_norm(y, g.data(), 0, 1e-5f, n, y);
        k.add(y, b.data(), n, y);
        k.add(b.data(), y, n, y);
      });
      EXPECT_EQ(want_.argmax(x.data(), n), got_.argmax(x.data(), n)) << n;
      EXPECT_EQ(want_.all_finite(x.data(), n), got_.all_finite(x.data(), n)) << n;
    }
  }
}

// Every 1021st float there is: all exponents, both signs, subnormals, infinities and NaN.
TEST_P(ParityTest, ExpLogAndActivationsOverTheWholeRange) {
  Floats x;
  for (uint64_t bits = 0; bits <= 0xFFFFFFFFull; bits += 10007) {
    x.push_back(std::bit_cast<float>(static_cast<uint32_t>(bits)));
  }
  const auto n = static_cast<int64_t>(x.size());
  Floats want(x.size()), got(x.size());
  want_.exp(x.data(), n, want.data()), got_.exp(x.data(), n, got.data());
  EXPECT_TRUE(Same(want, got)) << "exp";
  want_.log(x.data(), n, want.data()), got_.log(x.data(), n, got.data());
  EXPECT_TRUE(Same(want, got)) << "log";
  want_.softcap(x.data(), 1.0f, n, want.data()), got_.softcap(x.data(), 1.0f, n, got.data());
  EXPECT_TRUE(Same(want, got)) << "tanh";
  for (Activation kind : {Activation::kSilu, Activation::kGeluTanh}) {
    want_.activate(kind, x.data(), n, want.data()), got_.activate(kind, x.data(), n, got.data());
    EXPECT_TRUE(Same(want, got)) << "activation " << static_cast<int>(kind);
  }
}

TEST_P(ParityTest, Rope) {
  for (int round = 0; round < 60; ++round) {
    const int rot = 2 * static_cast<int>(1 + random_.Below(70)),
              heads = static_cast<int>(1 + random_.Below(4));
    const int64_t stride = rot + random_.Below(9);
    const Floats x = Row(heads * stride, Values::kPlain, random_);
    const Floats cos = Row(rot / 2, Values::kPlain, random_),
                 sin = Row(rot / 2, Values::kPlain, random_);
    for (bool interleaved : {false, true}) {
      Floats want = x, got = x;
      want_.rope(want.data(), heads, stride, rot, interleaved, cos.data(), sin.data());
      got_.rope(got.data(), heads, stride, rot, interleaved, cos.data(), sin.data());
      EXPECT_TRUE(Same(want, got)) << "rot " << rot;
    }
  }
}

TEST_P(ParityTest, AttentionOverAnyWindowRowsHeadCountAndHeadSize) {
  for (int round = 0; round < 300; ++round) {
    const int dims[] = {1, 7, 16, 20, 32, 48, 64, 80, 96, 128};
    const int dim = round < 10 ? dims[round] : dims[random_.Below(10)];
    const int heads = static_cast<int>(1 + random_.Below(9));
    const int64_t end =
        round % 7 == 6 ? 250 + random_.Below(10) : 1 + random_.Below(round % 3 == 0 ? 1200 : 40);
    const int64_t begin = random_.Below(2) == 0 ? 0 : random_.Below(end);
    constexpr DType kCaches[] = {DType::kF16, DType::kF32, DType::kQ8_0};
    const DType cache = kCaches[random_.Below(3)];
    const int rows = random_.Below(2) == 0 ? 1 : static_cast<int>(1 + random_.Below(9));
    const int64_t window = random_.Below(3) == 0 ? end - begin : 0;  // row 0 sees `begin` too
    const int64_t last_end = end + rows - 1, stride = heads * dim + random_.Below(5);
    const int64_t num_pages = (last_end + 15) / 16;
    // Positions outside the window hold NaN, those that nobody stored any bytes: they must not
    // leak. Pages outside it are not touched at all. Storage is exact, so that a read past it shows
    // under the address sanitizer.
    std::vector<std::vector<std::byte>> storage;
    std::vector<const std::byte*> pages(static_cast<size_t>(num_pages));
    const float size = round % 5 == 4 ? 200.0f : round % 11 == 10 ? 1e-38f : 1.0f;
    for (int64_t p = begin / 16; p < num_pages; ++p) {
      std::vector<std::byte> page(KeyBytes(cache, dim) + ValueBytes(cache, dim));
      for (std::byte& b : page) b = static_cast<std::byte>(random_.Bits() & 0xFF);
      Floats row(static_cast<size_t>(dim));
      for (int slot = 0; slot < 16; ++slot) {
        const int64_t t = 16 * p + slot;
        if (t >= last_end && random_.Below(2) == 0) continue;
        for (bool is_k : {true, false}) {
          for (float& v : row) {
            v = random_.Symmetric() * size;
            if (t < begin || t >= last_end) v = std::numeric_limits<float>::quiet_NaN();
          }
          if (is_k) {
            StoreKey(cache, row.data(), dim, slot, page.data());
          } else {
            StoreValue(cache, row.data(), dim, slot, page.data() + KeyBytes(cache, dim));
          }
        }
      }
      storage.push_back(std::move(page));
      pages[static_cast<size_t>(p)] = storage.back().data();
    }
    const Floats q = Row(rows * stride, Values::kPlain, random_);
    Floats want(q.size(), 0.5f), got = want;
    AttentionArgs args{.q = q.data(),
                       .num_q_heads = heads,
                       .head_dim = dim,
                       .pages = pages.data(),
                       .k_offset = 0,
                       .v_offset = KeyBytes(cache, dim),
                       .kv_dtype = cache,
                       .begin = begin,
                       .end = end,
                       .num_rows = rows,
                       .row_stride = stride,
                       .window = window,
                       .scale = 0.125f,
                       .softcap = random_.Below(4) == 0 ? 50.0f : 0.0f};
    args.out = want.data();
    want_.attention(args);
    args.out = got.data();
    got_.attention(args);
    ASSERT_TRUE(Same(want, got)) << Traits(cache).name << " heads " << heads << " dim " << dim
                                 << " [" << begin << ", " << end << ")";
    for (float v : want) ASSERT_FALSE(std::isnan(v));

    // The same in parts, which run in any order, some rows perhaps in one of them only.
    const int64_t first = begin / kAttentionChunk, last = (last_end - 1) / kAttentionChunk + 1;
    const auto results = static_cast<size_t>(rows * heads * (last - first));
    std::vector<float> room(results * static_cast<size_t>(ChunkResults::Floats(dim)) + 16, NAN);
    const auto address = reinterpret_cast<uintptr_t>(room.data());
    args.chunks = {room.data() + (64 - address % 64) % 64 / sizeof(float), first, last - first};
    const int64_t cut = kAttentionChunk * (first + random_.Below(last - first + 1));
    for (const KernelTable* k : {&got_, &want_}) {
      std::fill(room.begin(), room.end(), NAN);
      std::fill(got.begin(), got.end(), 0.5f);
      args.out = got.data();
      args.part_begin = cut, args.part_end = INT64_MAX;
      k->attention(args);
      args.part_begin = 0, args.part_end = cut;
      k->attention(args);
      for (const float v : got) ASSERT_EQ(v, 0.5f);
      k->merge_chunks(args);
      ASSERT_TRUE(Same(want, got)) << Traits(cache).name << " heads " << heads << " dim " << dim
                                   << " [" << begin << ", " << end << ") cut at " << cut;
    }
  }
}

TEST_P(ParityTest, LatentAttentionOverAnyWindowRowsHeadCountAndHeadSize) {
  for (int round = 0; round < 300; ++round) {
    constexpr DType kCaches[] = {DType::kF16, DType::kF32, DType::kQ8_0};
    const DType cache = kCaches[round % 3];
    const int value_dims[] = {1, 16, 20, 32, 64, 96};
    const int value_dim = cache == DType::kQ8_0 ? static_cast<int>(32 * (1 + random_.Below(4)))
                                                : value_dims[random_.Below(6)];
    const int dim = value_dim + static_cast<int>(random_.Below(40));
    const int heads = static_cast<int>(1 + random_.Below(9));
    const int64_t end =
        round % 7 == 6 ? 250 + random_.Below(10) : 1 + random_.Below(round % 4 == 0 ? 1200 : 40);
    const int64_t begin = random_.Below(2) == 0 ? 0 : random_.Below(end);
    const int rows = random_.Below(2) == 0 ? 1 : static_cast<int>(1 + random_.Below(9));
    const int64_t window = random_.Below(3) == 0 ? end - begin : 0;
    const int64_t last_end = end + rows - 1, stride = heads * dim + random_.Below(5);
    // Pages with keys alone, and pages with the same keys and the values beside them: what
    // attention over the second gives is what it must give over the first.
    std::vector<std::vector<std::byte>> storage;
    std::vector<const std::byte*> pages(static_cast<size_t>((last_end + 15) / 16)), full = pages;
    for (size_t p = static_cast<size_t>(begin / 16); p < pages.size(); ++p) {
      std::vector<std::byte> page(KeyBytes(cache, dim)),
          both(KeyBytes(cache, dim) + ValueBytes(cache, dim));
      for (std::byte& b : page) b = static_cast<std::byte>(random_.Bits() & 0xFF);
      for (int slot = 0; slot < 16; ++slot) {
        const int64_t t = static_cast<int64_t>(16 * p) + slot;
        if (t >= last_end && random_.Below(2) == 0) continue;
        Floats key = Row(dim, Values::kPlain, random_);
        if (t < begin || t >= last_end) key[0] = std::numeric_limits<float>::quiet_NaN();
        StoreKey(cache, key.data(), dim, slot, page.data());
        StoreKey(cache, key.data(), dim, slot, both.data());
        StoreValue(cache, key.data(), dim, slot, both.data() + KeyBytes(cache, dim));
      }
      pages[p] = storage.emplace_back(std::move(page)).data();
      full[p] = storage.emplace_back(std::move(both)).data();
    }
    const Floats q = Row(rows * stride, Values::kPlain, random_);
    Floats plain(q.size(), 0.5f), want = plain, got = plain;
    AttentionArgs args{.q = q.data(),
                       .num_q_heads = heads,
                       .head_dim = dim,
                       .pages = full.data(),
                       .v_offset = KeyBytes(cache, dim),
                       .kv_dtype = cache,
                       .begin = begin,
                       .end = end,
                       .num_rows = rows,
                       .row_stride = stride,
                       .window = window,
                       .scale = 0.125f,
                       .softcap = random_.Below(4) == 0 ? 50.0f : 0.0f};
    args.out = plain.data();
    want_.attention(args);
    args.pages = pages.data();
    args.v_offset = ~size_t{0};
    args.value_dim = value_dim;
    args.out = want.data();
    want_.attention(args);
    std::vector<std::byte> scratch(LatentScratchBytes(cache, value_dim, int64_t{rows} * heads) +
                                   64);
    args.scratch = scratch.data() + (64 - reinterpret_cast<uintptr_t>(scratch.data()) % 64) % 64;
    args.out = got.data();
    got_.attention(args);
    ASSERT_TRUE(Same(want, got)) << Traits(cache).name << " heads " << heads << " dims " << dim
                                 << ", " << value_dim << " [" << begin << ", " << end << ")";
    for (int64_t i = 0; i < rows * stride; ++i) {
      const int64_t in_row = i % stride;
      const bool is_value = in_row < heads * dim && in_row % dim < value_dim;
      ASSERT_EQ(got[static_cast<size_t>(i)], is_value ? plain[static_cast<size_t>(i)] : 0.5f);
    }
  }
}

TEST_P(ParityTest, Gumbel) {
  for (int64_t n : {1, 3, 4, 63, 64, 65, 130, 1001}) {
    Floats want(static_cast<size_t>(n)), got(static_cast<size_t>(n));
    const uint64_t seed = uint64_t{random_.Bits()} << 32 | random_.Bits();
    const uint32_t position = random_.Bits(), stream = random_.Bits(), index = random_.Bits();
    want_.gumbel(seed, position, stream, index, n, want.data());
    got_.gumbel(seed, position, stream, index, n, got.data());
    EXPECT_TRUE(Same(want, got)) << n;
  }
}

TEST_P(ParityTest, ArgmaxTiesGoToTheFirst) {
  for (int64_t n : {1, 5, 16, 17, 33, 100}) {
    for (int64_t first = 0; first < n; ++first) {
      Floats x(static_cast<size_t>(n), -3.0f);
      for (int64_t i = first; i < n; i += 3) x[static_cast<size_t>(i)] = 2.0f;
      EXPECT_EQ(got_.argmax(x.data(), n), first);
    }
    const Floats none(static_cast<size_t>(n), std::numeric_limits<float>::quiet_NaN());
    EXPECT_EQ(got_.argmax(none.data(), n), 0);
    Floats low(static_cast<size_t>(n), -kInf);
    low[0] = std::numeric_limits<float>::quiet_NaN();
    EXPECT_EQ(got_.argmax(low.data(), n), n == 1 ? 0 : 1);
  }
}

}  // namespace
}  // namespace tutti::kernels
