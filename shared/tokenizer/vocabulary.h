// The tokens of a byte-level vocabulary: their writing, their bytes, and which id a run of bytes
// has.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "shared/base/status.h"

namespace tutti::tokenizer {

// Many strings in one block of memory, by index.
class StringTable {
 public:
  size_t size() const { return offsets_.size() - 1; }
  std::string_view operator[](size_t i) const {
    return std::string_view(text_).substr(offsets_[i], offsets_[i + 1] - offsets_[i]);
  }
  void Add(std::string_view s) {
    text_.append(s);
    offsets_.push_back(static_cast<uint32_t>(text_.size()));
  }
  void Reserve(size_t strings, size_t bytes) {
    offsets_.reserve(strings + 1);
    text_.reserve(bytes);
  }
  size_t total_bytes() const { return text_.size(); }

 private:
  std::string text_;
  std::vector<uint32_t> offsets_ = {0};
};

inline constexpr int32_t kMaxVocabSize = 1 << 21;  // ids fit 21 bits
inline constexpr size_t kMaxVocabBytes = size_t{1} << 30;

// Immutable after Make (but for the marks of WordState, which only remember). Shareable.
class Vocabulary {
 public:
  struct Entry {
    std::string_view text;
    int32_t id;
  };
  // `model`: the model's own vocabulary. `added`: tokens beside it, which no merge can produce.
  // Errors: INVALID_ARGUMENT  an id below 0 or too large, used twice, or a text used twice
  static absl::StatusOr<std::shared_ptr<const Vocabulary>> Make(const std::vector<Entry>& model,
                                                                const std::vector<Entry>& added);

  int size() const {
    return static_cast<int>(texts_.size());
  }  // the largest id + 1; ids may be missing
  std::string_view Text(int32_t id) const { return InRange(id) ? texts_[id] : std::string_view(); }
  // What the token stands for in running text: the bytes that its text writes, or the text itself.
  std::string_view Bytes(int32_t id) const { return InRange(id) ? bytes_[id] : std::string_view(); }
  int32_t Id(std::string_view text) const;  // -1: unknown

  // Looks a run of bytes up among the model's tokens: a slot for the two functions below, or -1.
  int64_t FindWord(std::string_view bytes) const;
  int32_t WordId(int64_t slot) const {
    return static_cast<int32_t>(slots_[slot].load(std::memory_order_relaxed) & kIdMask);
  }
  int32_t IdOfBytes(std::string_view bytes) const {
    const int64_t slot = FindWord(bytes);
    return slot < 0 ? -1 : WordId(slot);
  }

  // Whether merging the token's own bytes gives just this token: found out when first asked for
  // and remembered.
  enum WordState { kUnknown, kWhole, kParts };
  WordState State(int64_t slot) const {
    return static_cast<WordState>(slots_[slot].load(std::memory_order_relaxed) >> kStateShift & 3);
  }
  void Remember(int64_t slot, WordState state) const {
    slots_[slot].fetch_or(uint64_t{state} << kStateShift, std::memory_order_relaxed);
  }

 private:
  // A slot: hash tag (high 32 bits) | state (2) | id (21). All ones: empty.
  static constexpr uint64_t kIdMask = (1u << 21) - 1;
  static constexpr int kStateShift = 21;
  static constexpr uint64_t kEmpty = ~uint64_t{0};

  bool InRange(int32_t id) const { return id >= 0 && static_cast<size_t>(id) < texts_.size(); }

  StringTable texts_, bytes_;  // [id]
  std::unique_ptr<std::atomic<uint64_t>[]> slots_;
  uint64_t slot_mask_ = 0;
  size_t longest_word_ = 0;      // bytes of the longest token in slots_
  std::vector<int32_t> others_;  // ids whose text is not in slots_, sorted by text
};

}  // namespace tutti::tokenizer
