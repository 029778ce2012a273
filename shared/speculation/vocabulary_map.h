// Which token of a draft's vocabulary is which of its target's: the tokens that stand for the same
// bytes.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "shared/base/status.h"
#include "shared/tokenizer/tokenizer.h"

namespace tutti::speculation {

// Immutable, shareable.
class VocabularyMap {
 public:
  // Special tokens map to special ones only. Of several tokens with the same bytes the lowest id
  // counts. Ids of the model beyond its tokenizer's (rows that pad an embedding) map to nothing.
  // Errors: FAILED_PRECONDITION, reason VOCABULARY_MISMATCH  fewer than half of the target's tokens
  //                             are the draft's, too: its guesses would hardly ever be right
  static absl::StatusOr<VocabularyMap> Make(const tokenizer::TokenDecoder& target,
                                            int target_vocab_size,
                                            const tokenizer::TokenDecoder& draft,
                                            int draft_vocab_size);

  // -1: it has no counterpart, so the draft never proposes it, and a proposal ends before it.
  int32_t ToDraft(int32_t target_id) const { return to_draft_[static_cast<size_t>(target_id)]; }
  int32_t ToTarget(int32_t draft_id) const { return to_target_[static_cast<size_t>(draft_id)]; }
  // What the draft reads where the target said that token: its counterpart, or the draft's token
  // that begins with the most of its bytes. It can only make a guess worse.
  int32_t ReadBy(int32_t target_id) const { return read_by_[static_cast<size_t>(target_id)]; }

  int target_vocab_size() const { return static_cast<int>(to_draft_.size()); }
  int draft_vocab_size() const { return static_cast<int>(to_target_.size()); }
  // Of the target's tokens, those that have a counterpart; and all that have bytes.
  int num_shared() const { return num_shared_; }
  int num_tokens() const { return num_tokens_; }

 private:
  std::vector<int32_t> to_draft_, read_by_;  // [target_vocab_size]
  std::vector<int32_t> to_target_;           // [draft_vocab_size]
  int num_shared_ = 0, num_tokens_ = 0;
};

// What a draft model needs to guess for a target model. The one place where a pair is checked.
struct DraftPair {
  uint64_t tokenizer_fingerprint = 0;  // of the target
  int target_vocab_size = 0;
  std::vector<int32_t> target_eos_ids;
  // nullptr: the ids mean the same in both.
  std::shared_ptr<const VocabularyMap> map;
};

// Reads no weights. Errors: those of the files, naming which; VOCABULARY_MISMATCH as above.
absl::StatusOr<DraftPair> PairWithTarget(const std::string& target, const std::string& draft);

}  // namespace tutti::speculation
