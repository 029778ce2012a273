#include "kernels/blocks.h"

#include <cstring>

#include "kernels/packed_matrix.h"
#include "shared/base/check.h"

namespace tutti::kernels {
namespace {

const uint8_t* Bytes(const std::byte* p) { return reinterpret_cast<const uint8_t*>(p); }

uint16_t Load16(const uint8_t* p) { return static_cast<uint16_t>(p[0] | (p[1] << 8)); }

// Formats of 32: element j is the low nibble of byte j, element j + 16 its high nibble.
void Nibbles32(const uint8_t* qs, uint8_t* u) {
  for (int j = 0; j < 16; ++j) {
    u[j] = qs[j] & 15;
    u[j + 16] = qs[j] >> 4;
  }
}

// Q5_0, Q5_1: bit j of a 32-bit word is the fifth bit of element j.
void FifthBits32(const uint8_t* qh, uint8_t* u) {
  for (int j = 0; j < 32; ++j) u[j] |= static_cast<uint8_t>(((qh[j / 8] >> (j % 8)) & 1) << 4);
}

// Q4_K, Q5_K: eight 6-bit scales and eight 6-bit minima in 12 bytes.
void SixBitScales(const uint8_t* p, uint8_t* sc, uint8_t* mn) {
  for (int j = 0; j < 4; ++j) {
    sc[j] = p[j] & 63;
    mn[j] = p[j + 4] & 63;
    sc[j + 4] = static_cast<uint8_t>((p[j + 8] & 15) | ((p[j] >> 6) << 4));
    mn[j + 4] = static_cast<uint8_t>((p[j + 8] >> 4) | ((p[j + 4] >> 6) << 4));
  }
}

// Q4_K, Q5_K: 32 bytes hold two sub-blocks, the even one in the low nibbles.
void NibblesK(const uint8_t* qs, uint8_t* u) {
  for (int pair = 0; pair < 4; ++pair) {
    for (int l = 0; l < 32; ++l) {
      u[64 * pair + l] = qs[32 * pair + l] & 15;
      u[64 * pair + 32 + l] = qs[32 * pair + l] >> 4;
    }
  }
}

// Q6_K: two halves of 128 elements; four runs of 32 share the bytes of `qh`, two bits each.
void SixBits(const uint8_t* ql, const uint8_t* qh, uint8_t* u) {
  for (int half = 0; half < 2; ++half, ql += 64, qh += 32, u += 128) {
    for (int l = 0; l < 32; ++l) {
      u[l] = static_cast<uint8_t>((ql[l] & 15) | ((qh[l] & 3) << 4));
      u[l + 32] = static_cast<uint8_t>((ql[l + 32] & 15) | (((qh[l] >> 2) & 3) << 4));
      u[l + 64] = static_cast<uint8_t>((ql[l] >> 4) | (((qh[l] >> 4) & 3) << 4));
      u[l + 96] = static_cast<uint8_t>((ql[l + 32] >> 4) | ((qh[l] >> 6) << 4));
    }
  }
}

// The inverses of the above.
void Store16(uint16_t v, uint8_t* p) {
  p[0] = static_cast<uint8_t>(v);
  p[1] = static_cast<uint8_t>(v >> 8);
}
void StoreNibbles32(const uint8_t* u, uint8_t* qs) {
  for (int j = 0; j < 16; ++j) qs[j] = static_cast<uint8_t>((u[j] & 15) | (u[j + 16] << 4));
}
void StoreFifthBits32(const uint8_t* u, uint8_t* qh) {
  std::memset(qh, 0, 4);
  for (int j = 0; j < 32; ++j) qh[j / 8] |= static_cast<uint8_t>(((u[j] >> 4) & 1) << (j % 8));
}
void StoreSixBitScales(const uint8_t* sc, const uint8_t* mn, uint8_t* p) {
  for (int j = 0; j < 4; ++j) {
    p[j] = static_cast<uint8_t>((sc[j] & 63) | ((sc[j + 4] >> 4) << 6));
    p[j + 4] = static_cast<uint8_t>((mn[j] & 63) | ((mn[j + 4] >> 4) << 6));
    p[j + 8] = static_cast<uint8_t>((sc[j + 4] & 15) | ((mn[j + 4] & 15) << 4));
  }
}
void StoreNibblesK(const uint8_t* u, uint8_t* qs) {
  for (int j = 0; j < 128; ++j) {
    const uint8_t* pair = u + 64 * (j / 32) + j % 32;
    qs[j] = static_cast<uint8_t>((pair[0] & 15) | (pair[32] << 4));
  }
}
void StoreSixBits(const uint8_t* u, uint8_t* ql, uint8_t* qh) {
  for (int half = 0; half < 2; ++half, ql += 64, qh += 32, u += 128) {
    for (int l = 0; l < 32; ++l) {
      ql[l] = static_cast<uint8_t>((u[l] & 15) | (u[l + 64] << 4));
      ql[l + 32] = static_cast<uint8_t>((u[l + 32] & 15) | (u[l + 96] << 4));
      qh[l] = static_cast<uint8_t>(((u[l] >> 4) & 3) | (((u[l + 32] >> 4) & 3) << 2) |
                                   (((u[l + 64] >> 4) & 3) << 4) | (((u[l + 96] >> 4) & 3) << 6));
    }
  }
}

}  // namespace

void DecodeFileBlock(DType dtype, const std::byte* src, RawBlock* out) {
  const uint8_t* p = Bytes(src);
  switch (dtype) {
    case DType::kQ8_0:
      out->d = Load16(p);
      std::memcpy(out->u, p + 2, 32);
      return;
    case DType::kQ4_0:
      out->d = Load16(p);
      Nibbles32(p + 2, out->u);
      return;
    case DType::kQ4_1:
      out->d = Load16(p);
      out->m = Load16(p + 2);
      Nibbles32(p + 4, out->u);
      return;
    case DType::kQ5_0:
      out->d = Load16(p);
      Nibbles32(p + 6, out->u);
      FifthBits32(p + 2, out->u);
      return;
    case DType::kQ5_1:
      out->d = Load16(p);
      out->m = Load16(p + 2);
      Nibbles32(p + 8, out->u);
      FifthBits32(p + 4, out->u);
      return;
    case DType::kQ4_K:
    case DType::kQ5_K:
      out->d = Load16(p);
      out->m = Load16(p + 2);
      SixBitScales(p + 4, out->sc, out->mn);
      if (dtype == DType::kQ4_K) {
        NibblesK(p + 16, out->u);
      } else {
        NibblesK(p + 48, out->u);
        for (int j = 0; j < 256; ++j) {
          out->u[j] |= static_cast<uint8_t>(((p[16 + j % 32] >> (j / 32)) & 1) << 4);
        }
      }
      return;
    case DType::kQ6_K:
      SixBits(p, p + 128, out->u);
      std::memcpy(out->sc, p + 192, 16);
      out->d = Load16(p + 208);
      return;
    default:
      TUTTI_CHECK(!"a quantised type");
  }
}

void EncodeFileBlock(DType dtype, const RawBlock& block, std::byte* out) {
  auto* p = reinterpret_cast<uint8_t*>(out);
  switch (dtype) {
    case DType::kQ8_0:
      Store16(block.d, p);
      std::memcpy(p + 2, block.u, 32);
      return;
    case DType::kQ4_0:
      Store16(block.d, p);
      StoreNibbles32(block.u, p + 2);
      return;
    case DType::kQ4_1:
      Store16(block.d, p);
      Store16(block.m, p + 2);
      StoreNibbles32(block.u, p + 4);
      return;
    case DType::kQ5_0:
      Store16(block.d, p);
      StoreFifthBits32(block.u, p + 2);
      StoreNibbles32(block.u, p + 6);
      return;
    case DType::kQ5_1:
      Store16(block.d, p);
      Store16(block.m, p + 2);
      StoreFifthBits32(block.u, p + 4);
      StoreNibbles32(block.u, p + 8);
      return;
    case DType::kQ4_K:
    case DType::kQ5_K:
      Store16(block.d, p);
      Store16(block.m, p + 2);
      StoreSixBitScales(block.sc, block.mn, p + 4);
      p += 16;
      if (dtype == DType::kQ5_K) {
        std::memset(p, 0, 32);
        for (int j = 0; j < 256; ++j)
          p[j % 32] |= static_cast<uint8_t>(((block.u[j] >> 4) & 1) << (j / 32));
        p += 32;
      }
      StoreNibblesK(block.u, p);
      return;
    case DType::kQ6_K:
      StoreSixBits(block.u, p, p + 128);
      std::memcpy(p + 192, block.sc, 16);
      Store16(block.d, p + 208);
      return;
    default:
      TUTTI_CHECK(!"a quantised type");
  }
}

void NormalizeBlock(DType dtype, const RawBlock& raw, int part, Block32* out) {
  *out = Block32{};
  out->dw = HalfToFloat(raw.d);
  int offset = 0;
  switch (dtype) {
    case DType::kQ8_0:
      break;
    case DType::kQ4_0:
      offset = 8;
      break;
    case DType::kQ5_0:
      offset = 16;
      break;
    case DType::kQ4_1:
    case DType::kQ5_1:
      out->has_min = true;
      out->mw = HalfToFloat(raw.m);
      break;
    case DType::kQ4_K:
    case DType::kQ5_K:
      out->has_min = true;
      out->mw = -HalfToFloat(raw.m) * static_cast<float>(raw.mn[part]);
      out->dw *= static_cast<float>(raw.sc[part]);
      break;
    case DType::kQ6_K:
      offset = 32;
      out->scale[0] = static_cast<int8_t>(raw.sc[2 * part]);
      out->scale[1] = static_cast<int8_t>(raw.sc[2 * part + 1]);
      break;
    default:
      TUTTI_CHECK(!"a quantised type");
  }
  const uint8_t* u = raw.u + 32 * part;
  for (int j = 0; j < 32; ++j) out->w[j] = static_cast<int8_t>(static_cast<int8_t>(u[j]) - offset);
}

void Dequantize(const Block32& block, float* out) {
  for (int j = 0; j < 32; ++j) {
    const float scale = block.dw * static_cast<float>(block.scale[j / 16]);
    const float value = scale * static_cast<float>(block.w[j]);
    out[j] = block.has_min ? value + block.mw : value;
  }
}

void DequantizeBlocks(DType dtype, const std::byte* src, int64_t elements, float* out) {
  const auto u16 = [&](int64_t i) { return Load16(Bytes(src) + 2 * i); };
  switch (dtype) {
    case DType::kF32:
      std::memcpy(out, src, static_cast<size_t>(elements) * 4);
      return;
    case DType::kF16:
      for (int64_t i = 0; i < elements; ++i) out[i] = HalfToFloat(u16(i));
      return;
    case DType::kBF16:
      for (int64_t i = 0; i < elements; ++i) out[i] = BFloat16ToFloat(u16(i));
      return;
    default:
      break;
  }
  const DTypeTraits& traits = Traits(dtype);
  RawBlock raw;
  Block32 block;
  for (int64_t i = 0; i < elements; i += traits.block_elements, src += traits.block_bytes) {
    DecodeFileBlock(dtype, src, &raw);
    for (int part = 0; part < traits.block_elements / 32; ++part, out += 32) {
      NormalizeBlock(dtype, raw, part, &block);
      Dequantize(block, out);
    }
  }
}

}  // namespace tutti::kernels
