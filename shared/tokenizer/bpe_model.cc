#include "shared/tokenizer/bpe_model.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "shared/base/hash.h"
#include "shared/base/strings.h"
#include "shared/tokenizer/byte_alphabet.h"

namespace tutti::tokenizer {
namespace {

constexpr uint64_t kEmptyPair = ~uint64_t{0};

// The index of the leftmost smallest of ranks[0, n), n a multiple of 8.
inline size_t LeftmostMin(const int32_t* ranks, size_t n, int32_t* min_out) {
  using V = int32_t __attribute__((vector_size(16)));
  V a, b;
  std::memcpy(&a, ranks, 16);
  std::memcpy(&b, ranks + 4, 16);
  for (size_t i = 8; i < n; i += 8) {
    V x, y;
    std::memcpy(&x, ranks + i, 16);
    std::memcpy(&y, ranks + i + 4, 16);
    a = x < a ? x : a;
    b = y < b ? y : b;
  }
  a = b < a ? b : a;
  const int32_t m = std::min(std::min(a[0], a[1]), std::min(a[2], a[3]));
  *min_out = m;
  size_t i = 0;
  while (ranks[i] != m) ++i;
  return i;
}

}  // namespace

inline int32_t BpeModel::Rank(int32_t left, int32_t right) const {
  const uint64_t key = static_cast<uint64_t>(left) << kIdBits | static_cast<uint64_t>(right);
  const uint64_t hash = PairHash(key), bits = FilterBits(hash);
  if ((filter_[hash >> filter_shift_] & bits) != bits) return kNoRank;
  const uint64_t mask = pairs_.size() - 1;
  for (uint64_t i = hash >> pair_shift_;; i = (i + 1) & mask) {
    const uint64_t slot = pairs_[i];
    if (slot >> kRankBits == key) {
      const auto rank = static_cast<int32_t>(slot & ((1u << kRankBits) - 1));
      __builtin_prefetch(&merged_[rank]);
      return rank;
    }
    if (slot == kEmptyPair) return kNoRank;
  }
}

absl::StatusOr<BpeModel> BpeModel::Make(
    std::shared_ptr<const Vocabulary> vocabulary,
    const std::vector<std::pair<std::string_view, std::string_view>>& merges,
    const BpeOptions& options) {
  BpeModel m;
  m.vocabulary_ = std::move(vocabulary);
  m.options_ = options;
  const Vocabulary& v = *m.vocabulary_;
  for (int b = 0; b < 256; ++b) {
    const char c = static_cast<char>(b);
    m.byte_ids_[b] = v.IdOfBytes({&c, 1});
  }
  if (merges.size() >= size_t{1} << kRankBits) {
    return absl::InvalidArgumentError(absl::StrCat("merges: ", merges.size(), " entries; at most ",
                                                   (1 << kRankBits) - 1, " are supported"));
  }
  const uint64_t slots = std::bit_ceil(merges.size() * 2 + 2);
  m.pairs_.assign(slots, kEmptyPair);
  m.pair_shift_ = 64 - std::countr_zero(slots);
  m.filter_.assign(std::bit_ceil(merges.size() / 8 + 2), 0);
  m.filter_shift_ = 64 - std::countr_zero(m.filter_.size());
  m.merged_.reserve(merges.size());
  std::string bytes;
  std::vector<uint64_t> keys;
  keys.reserve(merges.size());
  const auto find = [&](std::string_view text) {
    bytes.clear();
    return Alphabet().Read(text, &bytes) ? v.IdOfBytes(bytes) : -1;
  };
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const auto& [left, right] = merges[rank];
    const int32_t r = find(right);
    std::string right_bytes = bytes;
    const int32_t l = find(left);
    if (l < 0 || r < 0) {
      return absl::InvalidArgumentError(absl::StrCat("merges[", rank, "]: token \"",
                                                     Printable(l < 0 ? left : right),
                                                     "\" is not in the vocabulary"));
    }
    bytes += right_bytes;
    const int32_t made = v.IdOfBytes(bytes);
    if (made < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("merges[", rank, "]: \"", Printable(left), "\" and \"", Printable(right),
                       "\" make a token that is not in the vocabulary"));
    }
    m.merged_.push_back(made);
    const uint64_t key = static_cast<uint64_t>(l) << kIdBits | static_cast<uint64_t>(r);
    keys.push_back(key);
    const uint64_t hash = PairHash(key);
    m.filter_[hash >> m.filter_shift_] |= FilterBits(hash);
    uint64_t i = hash >> m.pair_shift_;
    while (m.pairs_[i] != kEmptyPair && m.pairs_[i] >> kRankBits != key) i = (i + 1) & (slots - 1);
    m.pairs_[i] = key << kRankBits | rank;
  }
  m.byte_pair_ranks_.assign(256 * 256, kNoRank);
  for (int l = 0; l < 256; ++l) {
    for (int r = 0; r < 256; ++r) {
      if (m.byte_ids_[l] < 0 || m.byte_ids_[r] < 0) continue;
      m.byte_pair_ranks_[l * 256 + r] = m.Rank(m.byte_ids_[l], m.byte_ids_[r]);
    }
  }
  m.merges_hash_ = Hash64(keys.data(), keys.size() * sizeof(uint64_t));
  return m;
}

template <bool kLengths>
size_t BpeModel::Symbols(std::string_view word, int32_t* ids, int32_t* lengths) const {
  size_t n = 0;
  bool after_unk = false;
  for (const char c : word) {
    const auto b = static_cast<uint8_t>(c);
    int32_t id = byte_ids_[b];
    const bool unk = id < 0;
    if (unk) {
      if (options_.unk_id < 0) continue;
      if (after_unk && options_.fuse_unk) {
        if constexpr (kLengths) lengths[n - 1] += Alphabet().WrittenLength(b);
        continue;
      }
      id = options_.unk_id;
    }
    after_unk = unk;
    ids[n] = id;
    if constexpr (kLengths) lengths[n] = Alphabet().WrittenLength(b);
    ++n;
  }
  return n;
}

// Arrays stay dense: a merge moves what is behind it up by one.
template <bool kLengths>
size_t BpeModel::MergeShort(std::string_view word, int32_t* ids, int32_t* lengths, size_t n) const {
  alignas(16) int32_t ranks[kShortWord + 8];
  if (n < 2) return n;
  if (n == word.size() && options_.unk_id < 0) {  // a symbol is a byte
    for (size_t i = 0; i + 1 < n; ++i) {
      ranks[i] =
          byte_pair_ranks_[static_cast<uint8_t>(word[i]) << 8 | static_cast<uint8_t>(word[i + 1])];
    }
  } else {
    for (size_t i = 0; i + 1 < n; ++i) ranks[i] = Rank(ids[i], ids[i + 1]);
  }
  for (size_t i = n - 1; i < ((n + 7) & ~size_t{7}); ++i) ranks[i] = kNoRank;
  while (n > 1) {
    int32_t rank;
    const size_t i = LeftmostMin(ranks, (n + 7) & ~size_t{7}, &rank);
    if (rank == kNoRank) break;
    ids[i] = merged_[rank];
    if constexpr (kLengths) {
      lengths[i] += lengths[i + 1];
      std::memmove(lengths + i + 1, lengths + i + 2, (n - i - 2) * sizeof(int32_t));
    }
    std::memmove(ids + i + 1, ids + i + 2, (n - i - 2) * sizeof(int32_t));
    std::memmove(ranks + i, ranks + i + 1, (n - i - 1) * sizeof(int32_t));
    --n;
    ranks[n - 1] = kNoRank;
    ranks[n] = kNoRank;
    if (i > 0) ranks[i - 1] = Rank(ids[i - 1], ids[i]);
    if (i + 1 < n) ranks[i] = Rank(ids[i], ids[i + 1]);
  }
  return n;
}

// A linked list and a heap of (rank, position): n log n.
template <bool kLengths>
size_t BpeModel::MergeLong(BpeScratch* s, size_t n) const {
  auto& ids = s->ids;
  auto& prev = s->prev;
  auto& next = s->next;
  auto& heap = s->heap;
  prev.resize(n);
  next.resize(n);
  heap.clear();
  const auto entry = [](int32_t rank, size_t at) { return static_cast<uint64_t>(rank) << 32 | at; };
  for (size_t i = 0; i < n; ++i) {
    prev[i] = static_cast<int32_t>(i) - 1;
    next[i] = i + 1 < n ? static_cast<int32_t>(i + 1) : -1;
    if (i + 1 < n) {
      const int32_t rank = Rank(ids[i], ids[i + 1]);
      if (rank != kNoRank) heap.push_back(entry(rank, i));
    }
  }
  std::make_heap(heap.begin(), heap.end(), std::greater<>());
  const auto push = [&](int32_t left, int32_t right) {
    const int32_t rank = Rank(ids[left], ids[right]);
    if (rank == kNoRank) return;
    heap.push_back(entry(rank, static_cast<uint32_t>(left)));
    std::push_heap(heap.begin(), heap.end(), std::greater<>());
  };
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    const auto rank = static_cast<int32_t>(heap.back() >> 32);
    const auto at = static_cast<int32_t>(heap.back() & 0xFFFFFFFFu);
    heap.pop_back();
    // A symbol that was merged away has id -1; one whose pair has changed has another rank.
    if (ids[at] < 0 || next[at] < 0) continue;
    const int32_t right = next[at];
    if (Rank(ids[at], ids[right]) != rank) continue;
    ids[at] = merged_[rank];
    if constexpr (kLengths) s->lengths[at] += s->lengths[right];
    ids[right] = -1;
    next[at] = next[right];
    if (next[at] >= 0) prev[next[at]] = at;
    if (prev[at] >= 0) push(prev[at], at);
    if (next[at] >= 0) push(at, next[at]);
  }
  size_t out = 0;
  for (int32_t i = 0; i >= 0; i = next[i]) {
    ids[out] = ids[i];
    if constexpr (kLengths) s->lengths[out] = s->lengths[i];
    ++out;
  }
  return out;
}

template <bool kLengths>
void BpeModel::Merge(std::string_view word, BpeScratch* scratch, std::vector<int32_t>* ids,
                     std::vector<int32_t>* lengths) const {
  if (word.size() <= kShortWord) {
    int32_t id_buffer[kShortWord];
    int32_t length_buffer[kLengths ? kShortWord : 1];
    size_t n = Symbols<kLengths>(word, id_buffer, length_buffer);
    n = MergeShort<kLengths>(word, id_buffer, length_buffer, n);
    ids->insert(ids->end(), id_buffer, id_buffer + n);
    if constexpr (kLengths) lengths->insert(lengths->end(), length_buffer, length_buffer + n);
    return;
  }
  scratch->ids.resize(word.size());
  if constexpr (kLengths) scratch->lengths.resize(word.size());
  size_t n = Symbols<kLengths>(word, scratch->ids.data(), scratch->lengths.data());
  if (n > 1) n = MergeLong<kLengths>(scratch, n);
  ids->insert(ids->end(), scratch->ids.begin(), scratch->ids.begin() + n);
  if constexpr (kLengths) {
    lengths->insert(lengths->end(), scratch->lengths.begin(), scratch->lengths.begin() + n);
  }
}

void BpeModel::Encode(std::string_view word, BpeScratch* scratch, std::vector<int32_t>* ids) const {
  const int64_t slot = vocabulary_->FindWord(word);
  if (slot < 0) return Merge<false>(word, scratch, ids, nullptr);
  const int32_t id = vocabulary_->WordId(slot);
  switch (options_.ignore_merges ? Vocabulary::kWhole : vocabulary_->State(slot)) {
    case Vocabulary::kWhole:
      ids->push_back(id);
      return;
    case Vocabulary::kParts:
      return Merge<false>(word, scratch, ids, nullptr);
    case Vocabulary::kUnknown: {
      const size_t before = ids->size();
      Merge<false>(word, scratch, ids, nullptr);
      const bool whole = ids->size() == before + 1 && ids->back() == id;
      vocabulary_->Remember(slot, whole ? Vocabulary::kWhole : Vocabulary::kParts);
      return;
    }
  }
}

void BpeModel::EncodeWithLengths(std::string_view word, BpeScratch* scratch,
                                 std::vector<int32_t>* ids, std::vector<int32_t>* lengths) const {
  if (options_.ignore_merges) {
    if (const int32_t id = vocabulary_->IdOfBytes(word); id >= 0) {
      int32_t length = 0;
      for (const char c : word) length += Alphabet().WrittenLength(static_cast<uint8_t>(c));
      ids->push_back(id);
      lengths->push_back(length);
      return;
    }
  }
  Merge<true>(word, scratch, ids, lengths);
}

}  // namespace tutti::tokenizer
