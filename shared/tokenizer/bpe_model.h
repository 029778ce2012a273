// Byte-pair merging over a byte-level vocabulary (Sennrich et al., arXiv:1508.07909; bytes as in
// GPT-2).
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "shared/base/status.h"
#include "shared/tokenizer/vocabulary.h"

namespace tutti::tokenizer {

struct BpeOptions {
  bool ignore_merges = false;  // a word that is a token becomes it, whatever the merges say
  int32_t unk_id = -1;         // for bytes that the vocabulary lacks; -1: they are dropped
  bool fuse_unk = false;       // neighbouring unknown bytes become one unk
};

// Memory that encoding needs, kept between words. One per thread.
struct BpeScratch {
  std::vector<int32_t> ids, prev, next, lengths;
  std::vector<uint64_t> heap;
};

// Immutable, shareable.
// Determinism: exact: always the merge of the lowest rank, the leftmost of equals.
// Cost: a token that is its own result is one hash lookup; short words a scan per merge; long ones
// n log n, whatever the text.
class BpeModel {
 public:
  // `merges`: pairs of token texts as the vocabulary writes them, best first. A later copy of a
  // pair wins. Errors: INVALID_ARGUMENT  merges[i] names a token that is not there, or makes one
  // that is not
  static absl::StatusOr<BpeModel> Make(
      std::shared_ptr<const Vocabulary> vocabulary,
      const std::vector<std::pair<std::string_view, std::string_view>>& merges,
      const BpeOptions& options);

  // Appends the tokens of one word (a piece that the pre-tokenizer cut).
  void Encode(std::string_view word, BpeScratch* scratch, std::vector<int32_t>* ids) const;

  // As Encode, and appends each token's length in bytes of the vocabulary's writing (ByteAlphabet),
  // the unit in which Hugging Face tokenizers counts offsets.
  void EncodeWithLengths(std::string_view word, BpeScratch* scratch, std::vector<int32_t>* ids,
                         std::vector<int32_t>* lengths) const;

  const Vocabulary& vocabulary() const { return *vocabulary_; }
  const BpeOptions& options() const { return options_; }
  uint64_t merges_hash() const { return merges_hash_; }

 private:
  static constexpr int32_t kNoRank = INT32_MAX;
  static constexpr int kRankBits = 22, kIdBits = 21;
  static constexpr size_t kShortWord = 96;

  BpeModel() = default;
  static uint64_t PairHash(uint64_t key) { return key * 0x9E3779B97F4A7C15u; }
  static uint64_t FilterBits(uint64_t hash) {
    return uint64_t{1} << (hash >> 14 & 63) | uint64_t{1} << (hash >> 20 & 63);
  }
  int32_t Rank(int32_t left, int32_t right) const;
  // The symbols before any merge: ids, and lengths when asked for. Returns their number.
  template <bool kLengths>
  size_t Symbols(std::string_view word, int32_t* ids, int32_t* lengths) const;
  template <bool kLengths>
  size_t MergeShort(std::string_view word, int32_t* ids, int32_t* lengths, size_t n) const;
  template <bool kLengths>
  size_t MergeLong(BpeScratch* scratch, size_t n) const;
  template <bool kLengths>
  void Merge(std::string_view word, BpeScratch* scratch, std::vector<int32_t>* ids,
             std::vector<int32_t>* lengths) const;

  std::shared_ptr<const Vocabulary> vocabulary_;
  BpeOptions options_;
  std::array<int32_t, 256> byte_ids_;  // -1: the vocabulary lacks it
  // Open addressing; an entry is left (21 bits) | right (21) | rank (22). All ones: empty.
  std::vector<uint64_t> pairs_;
  int pair_shift_ = 63;
  // Most pairs that are asked for do not merge. Two bits per pair in one word say so for nearly all
  // of them, and fit the second cache.
  std::vector<uint64_t> filter_;
  int filter_shift_ = 63;
  std::vector<int32_t> byte_pair_ranks_;  // [256, 256] of two single bytes
  std::vector<int32_t> merged_;           // [rank] the token that the merge makes
  uint64_t merges_hash_ = 0;
};

}  // namespace tutti::tokenizer
