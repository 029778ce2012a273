#include "shared/tokenizer/vocabulary.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "shared/base/strings.h"
#include "shared/tokenizer/byte_alphabet.h"

namespace tutti::tokenizer {
namespace {

inline uint64_t Load64(const char* p) {
  uint64_t v;
  std::memcpy(&v, p, 8);
  return v;
}

inline uint64_t Mix(uint64_t a, uint64_t b) {
  const auto m = static_cast<unsigned __int128>(a) * b;
  return static_cast<uint64_t>(m) ^ static_cast<uint64_t>(m >> 64);
}

// A quick hash for short strings, only ever compared within one process.
inline uint64_t HashWord(std::string_view s) {
  constexpr uint64_t kA = 0x9E3779B97F4A7C15u, kB = 0xD6E8FEB86659FD93u;
  const char* p = s.data();
  size_t n = s.size();
  uint64_t h = kA ^ n;
  if (n < 8) {
    uint64_t v = 0;
    if (n >= 4) {
      uint32_t lo, hi;
      std::memcpy(&lo, p, 4);
      std::memcpy(&hi, p + n - 4, 4);
      v = uint64_t{hi} << 32 | lo;
    } else if (n > 0) {
      v = uint64_t{static_cast<uint8_t>(p[0])} << 16 |
          uint64_t{static_cast<uint8_t>(p[n / 2])} << 8 | static_cast<uint8_t>(p[n - 1]);
    }
    return Mix(h ^ v, kB);
  }
  for (; n > 16; n -= 8, p += 8) h = Mix(h ^ Load64(p), kB);
  return Mix(h ^ Load64(p), kB ^ Load64(p + n - 8));
}

}  // namespace

absl::StatusOr<std::shared_ptr<const Vocabulary>> Vocabulary::Make(
    const std::vector<Entry>& model, const std::vector<Entry>& added) {
  int32_t top = -1;
  size_t text_bytes = 0;
  for (const auto* list : {&model, &added}) {
    for (const Entry& e : *list) {
      if (e.id < 0 || e.id >= kMaxVocabSize) {
        return absl::InvalidArgumentError(absl::StrCat("vocabulary: id ", e.id, " of token \"",
                                                       Printable(e.text), "\" is not in [0, ",
                                                       kMaxVocabSize, ")"));
      }
      top = std::max(top, e.id);
      text_bytes += e.text.size();
    }
  }
  if (top < 0) return absl::InvalidArgumentError("vocabulary: it is empty");
  if (text_bytes > kMaxVocabBytes)
    return absl::InvalidArgumentError("vocabulary: over 1 GB of text");

  std::vector<const Entry*> by_id(top + 1, nullptr);
  for (const auto* list : {&model, &added}) {
    for (const Entry& e : *list) {
      if (by_id[e.id] != nullptr && (by_id[e.id]->text != e.text || list == &model)) {
        return absl::InvalidArgumentError(
            absl::StrCat("vocabulary: id ", e.id, " belongs to two tokens, \"",
                         Printable(by_id[e.id]->text), "\" and \"", Printable(e.text), "\""));
      }
      if (by_id[e.id] == nullptr) by_id[e.id] = &e;
    }
  }

  auto v = std::make_shared<Vocabulary>();
  v->texts_.Reserve(top + 1, text_bytes);
  v->bytes_.Reserve(top + 1, text_bytes);
  const uint64_t num_slots = std::bit_ceil(model.size() * 2 + 2);
  v->slots_ = std::make_unique<std::atomic<uint64_t>[]>(num_slots);
  for (uint64_t i = 0; i < num_slots; ++i) v->slots_[i].store(kEmpty, std::memory_order_relaxed);
  v->slot_mask_ = num_slots - 1;

  const Entry* const first = model.data();
  std::string bytes;
  for (int32_t id = 0; id <= top; ++id) {
    const Entry* e = by_id[id];
    if (e == nullptr) {
      v->texts_.Add({});
      v->bytes_.Add({});
      continue;
    }
    bytes.clear();
    const bool written = Alphabet().Read(e->text, &bytes);
    v->texts_.Add(e->text);
    v->bytes_.Add(written ? std::string_view(bytes) : e->text);
    const bool of_model = e >= first && e < first + model.size();
    if (!of_model || !written || bytes.empty()) {
      v->others_.push_back(id);
      continue;
    }
    v->longest_word_ = std::max(v->longest_word_, bytes.size());
    const uint64_t h = HashWord(bytes);
    uint64_t i = h & v->slot_mask_;
    for (;; i = (i + 1) & v->slot_mask_) {
      const uint64_t slot = v->slots_[i].load(std::memory_order_relaxed);
      if (slot == kEmpty) break;
      if (slot >> 32 == h >> 32 && v->bytes_[slot & kIdMask] == bytes) {
        return absl::InvalidArgumentError(absl::StrCat("vocabulary: token \"", Printable(e->text),
                                                       "\" has two ids, ", slot & kIdMask, " and ",
                                                       id));
      }
    }
    v->slots_[i].store((h >> 32) << 32 | static_cast<uint64_t>(id), std::memory_order_relaxed);
  }
  std::sort(v->others_.begin(), v->others_.end(), [&](int32_t a, int32_t b) {
    return std::pair(v->texts_[a], a) < std::pair(v->texts_[b], b);
  });
  return v;
}

int64_t Vocabulary::FindWord(std::string_view bytes) const {
  if (bytes.size() > longest_word_) return -1;
  const uint64_t h = HashWord(bytes);
  for (uint64_t i = h & slot_mask_;; i = (i + 1) & slot_mask_) {
    const uint64_t slot = slots_[i].load(std::memory_order_relaxed);
    if (slot == kEmpty) return -1;
    if (slot >> 32 == h >> 32 && bytes_[slot & kIdMask] == bytes) return static_cast<int64_t>(i);
  }
}

int32_t Vocabulary::Id(std::string_view text) const {
  const auto it = std::lower_bound(others_.begin(), others_.end(), text,
                                   [&](int32_t id, std::string_view t) { return texts_[id] < t; });
  if (it != others_.end() && !text.empty() && texts_[*it] == text) return *it;
  std::string bytes;
  if (!Alphabet().Read(text, &bytes) || bytes.empty()) return -1;
  return IdOfBytes(bytes);
}

}  // namespace tutti::tokenizer
