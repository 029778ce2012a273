#include "shared/testing/toy_model.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "absl/strings/str_format.h"

namespace tutti::testing {

namespace {

constexpr int kFeatures = 4;

uint64_t Mix(uint64_t x) {  // the finaliser of SplitMix64
  x += 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

// A number in [-1, 1) with 23 random bits.
float ToUnit(uint64_t bits) { return static_cast<float>(bits >> 41) * 0x1p-22f - 1.0f; }

uint64_t ReadRecord(const kv_cache::PagePool& pool, std::span<const kv_cache::PageId> pages,
                    int layer, int32_t pos) {
  uint64_t record;
  std::memcpy(&record,
              pool.Data(pages[static_cast<size_t>(pos / kv_cache::kPageTokens)]) +
                  pool.layout().KOffset(layer, 0) +
                  8 * static_cast<size_t>(pos % kv_cache::kPageTokens),
              8);
  return record;
}

void WriteRecord(kv_cache::PagePool& pool, std::span<const kv_cache::PageId> pages, int layer,
                 int32_t pos, uint64_t record) {
  std::memcpy(pool.Data(pages[static_cast<size_t>(pos / kv_cache::kPageTokens)]) +
                  pool.layout().KOffset(layer, 0) +
                  8 * static_cast<size_t>(pos % kv_cache::kPageTokens),
              &record, 8);
}

uint64_t FoldRecords(const kv_cache::PagePool& pool, std::span<const kv_cache::PageId> pages,
                     int layer, int32_t end) {
  uint64_t hash = static_cast<uint64_t>(layer) + 1;
  for (int32_t pos = 0; pos < end; ++pos) hash = Mix(hash ^ ReadRecord(pool, pages, layer, pos));
  return hash;
}

}  // namespace

ToyModel::ToyModel(const ToyOptions& options) : options_(options) {
  info_.name = "toy";
  info_.architecture = "toy";
  info_.vocab_size = options.vocab_size;
  info_.context_tokens = options.context_tokens;
  info_.hidden_size = kFeatures;
  info_.eos_ids = options.eos_ids;
  // One 64-bit record per layer and position: 2 floats of K.
  info_.kv = {
      .num_layers = 2, .num_kv_heads = 1, .head_dim = 2, .v_head_dim = 2, .dtype = DType::kF32};
  weights_.resize(static_cast<size_t>(options.vocab_size) * kFeatures);
  uint64_t fingerprint = Mix(options.seed);
  for (size_t i = 0; i < weights_.size(); ++i) {
    weights_[i] = options.sharpness * ToUnit(Mix(options.seed * 0x10001 + i));
    fingerprint = Mix(fingerprint ^ std::bit_cast<uint32_t>(weights_[i]));
  }
  info_.fingerprint = fingerprint;
  info_.weight_bytes = weights_.size() * sizeof(float);
}

void ToyModel::FlipWeightBit(size_t weight, int bit) {
  weights_[weight] = std::bit_cast<float>(std::bit_cast<uint32_t>(weights_[weight]) ^ (1u << bit));
}

absl::Status ToyModel::ForwardSlice(const model::SequenceSlice& slice, kv_cache::PagePool& pool,
                                    float* logits, float* hidden) const {
  const int32_t n = static_cast<int32_t>(slice.tokens.size());
  for (int32_t i = 0; i < n; ++i) {
    const int32_t pos = slice.first_pos + i;
    const uint64_t token = static_cast<uint64_t>(slice.tokens[static_cast<size_t>(i)]);
    WriteRecord(pool, slice.pages, 0, pos, Mix((token + 1) << 32 | static_cast<uint64_t>(pos)));
    WriteRecord(pool, slice.pages, 1, pos, FoldRecords(pool, slice.pages, 0, pos + 1));
    if (i < n - slice.num_logits) continue;
    const uint64_t hash = FoldRecords(pool, slice.pages, 1, pos + 1);
    std::array<float, kFeatures> features;
    for (int j = 0; j < kFeatures; ++j)
      features[static_cast<size_t>(j)] = ToUnit(Mix(hash + static_cast<uint64_t>(j)));
    for (int v = 0; v < options_.vocab_size; ++v) {
      const float* w = &weights_[static_cast<size_t>(v) * kFeatures];
      float sum = 0;
      for (int j = 0; j < kFeatures; ++j) sum += w[j] * features[static_cast<size_t>(j)];
      const float denormal = (w[0] * 0x1p-130f) * features[1];  // below 2^-126 for |w| < 16
      *logits++ = sum + denormal * 0x1p126f;
    }
    if (hidden != nullptr) hidden = std::copy(features.begin(), features.end(), hidden);
  }
  if (std::find(slice.tokens.begin(), slice.tokens.end(), options_.fault_token) !=
      slice.tokens.end()) {
    return WithReason(absl::InternalError("toy: layer 0 row 0 is not finite"), "NUMERIC_FAULT");
  }
  return absl::OkStatus();
}

absl::Status ToyModel::Forward(std::span<const model::SequenceSlice> slices,
                               kv_cache::PagePool& pool, model::StepOutput* out) {
  if (on_forward) TUTTI_RETURN_IF_ERROR(on_forward(slices));
  ++num_forwards_;
  size_t num_logits = 0;
  for (const model::SequenceSlice& slice : slices) {
    const int32_t n = static_cast<int32_t>(slice.tokens.size());
    const int64_t end = int64_t{slice.first_pos} + n;
    if (n < 1 || slice.first_pos < 0 || end > options_.context_tokens || slice.num_logits < 0 ||
        slice.num_logits > n) {
      return absl::InvalidArgumentError(
          absl::StrFormat("toy: rows [%d, %d) or %d logits are out of range", slice.first_pos, end,
                          slice.num_logits));
    }
    if (static_cast<int64_t>(slice.pages.size()) * kv_cache::kPageTokens < end) {
      return absl::InvalidArgumentError(
          absl::StrFormat("toy: %d pages do not cover %d rows", slice.pages.size(), end));
    }
    for (size_t p = 0; p < slice.pages.size(); ++p) {
      const bool written = static_cast<int64_t>(p + 1) * kv_cache::kPageTokens > slice.first_pos &&
                           static_cast<int64_t>(p) * kv_cache::kPageTokens < end;
      const int32_t owners = pool.RefCount(slice.pages[p]);
      if (owners < 1 || (written && owners != 1)) {
        return absl::InvalidArgumentError(
            absl::StrFormat("toy: page %d of the slice has %d owners%s", p, owners,
                            written ? ", and is written" : ""));
      }
    }
    for (int32_t token : slice.tokens) {
      if (token < 0 || token >= options_.vocab_size) {
        return absl::InvalidArgumentError(
            absl::StrFormat("toy: token id %d is not in [0, %d)", token, options_.vocab_size));
      }
    }
    num_logits += static_cast<size_t>(slice.num_logits);
    num_rows_ += n;
  }
  out->logits.resize(num_logits * static_cast<size_t>(options_.vocab_size));
  out->hidden.resize(out->want_hidden ? num_logits * kFeatures : 0);
  out->slice_status.clear();
  float* logits = out->logits.data();
  float* hidden = out->want_hidden ? out->hidden.data() : nullptr;
  for (const model::SequenceSlice& slice : slices) {
    out->slice_status.push_back(ForwardSlice(slice, pool, logits, hidden));
    logits += static_cast<size_t>(slice.num_logits) * static_cast<size_t>(options_.vocab_size);
    if (hidden != nullptr) hidden += static_cast<size_t>(slice.num_logits) * kFeatures;
  }
  return absl::OkStatus();
}

std::unique_ptr<ToyModel> MakeToyModel(uint64_t seed) {
  return std::make_unique<ToyModel>(ToyOptions{.seed = seed});
}

}  // namespace tutti::testing
