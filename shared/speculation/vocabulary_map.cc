#include "shared/speculation/vocabulary_map.h"

#include <algorithm>
#include <string_view>
#include <unordered_map>

#include "absl/strings/str_cat.h"
#include "shared/model/registry.h"
#include "shared/weights/model_files.h"

namespace tutti::speculation {
namespace {

using tokenizer::TokenDecoder;

// Bytes of a token to its id; special tokens have a mark in front, so that they never meet others.
class Index {
 public:
  Index(const TokenDecoder& decoder, int vocab_size) {
    for (int32_t id = std::min(vocab_size, decoder.vocab_size()) - 1; id >= 0; --id) {
      const std::string_view bytes = decoder.Bytes(id);
      if (!bytes.empty()) (decoder.IsSpecial(id) ? special_ : plain_)[bytes] = id;
    }
  }
  int32_t Find(std::string_view bytes, bool special) const {
    const auto& ids = special ? special_ : plain_;
    const auto it = ids.find(bytes);
    return it == ids.end() ? -1 : it->second;
  }

 private:
  std::unordered_map<std::string_view, int32_t> plain_, special_;
};

struct ModelVocabulary {
  std::shared_ptr<const tokenizer::Tokenizer> tokenizer;
  int size = 0;  // rows of the embedding
  std::vector<int32_t> eos_ids;
};

absl::StatusOr<ModelVocabulary> Open(const std::string& path) {
  TUTTI_ASSIGN_OR_RETURN(const auto files, weights::ModelFiles::Open(path));
  TUTTI_ASSIGN_OR_RETURN(const model::ParsedModel parsed, model::ParseModel(*files));
  ModelVocabulary v{nullptr, parsed.config.vocab_size, parsed.config.eos_ids};
  TUTTI_ASSIGN_OR_RETURN(v.tokenizer, tokenizer::LoadTokenizer(path));
  return v;
}

}  // namespace

absl::StatusOr<VocabularyMap> VocabularyMap::Make(const TokenDecoder& target, int target_vocab_size,
                                                  const TokenDecoder& draft, int draft_vocab_size) {
  VocabularyMap map;
  map.to_draft_.assign(static_cast<size_t>(target_vocab_size), -1);
  map.read_by_.assign(static_cast<size_t>(target_vocab_size), 0);
  map.to_target_.assign(static_cast<size_t>(draft_vocab_size), -1);
  const Index of_draft(draft, draft_vocab_size);
  for (int32_t id = 0; id < std::min(target_vocab_size, target.vocab_size()); ++id) {
    const std::string_view bytes = target.Bytes(id);
    if (bytes.empty()) continue;
    ++map.num_tokens_;
    const auto at = static_cast<size_t>(id);
    const int32_t found = of_draft.Find(bytes, target.IsSpecial(id));
    if (found >= 0) {
      map.read_by_[at] = found;
      int32_t& back = map.to_target_[static_cast<size_t>(found)];
      if (back >= 0) continue;  // another token of the target with these bytes came first
      back = id;
      map.to_draft_[at] = found;
      ++map.num_shared_;
      continue;
    }
    for (size_t n = bytes.size(); n > 0; --n) {
      const int32_t part = of_draft.Find(bytes.substr(0, n), false);
      if (part < 0) continue;
      map.read_by_[at] = part;
      break;
    }
  }
  if (2 * map.num_shared_ >= map.num_tokens_ && map.num_shared_ > 0) return map;
  return WithReason(
      absl::FailedPreconditionError(absl::StrCat(
          map.num_shared_, " of the target's ", map.num_tokens_,
          " tokens are tokens of the draft, too; at least half must be, or it could hardly guess")),
      "VOCABULARY_MISMATCH");
}

absl::StatusOr<DraftPair> PairWithTarget(const std::string& target, const std::string& draft) {
  auto of_target = Open(target);
  if (!of_target.ok()) return Annotate(of_target.status(), "the draft's target");
  auto of_draft = Open(draft);
  if (!of_draft.ok()) return Annotate(of_draft.status(), "the draft");
  DraftPair pair{of_target->tokenizer->fingerprint(), of_target->size, of_target->eos_ids, nullptr};
  const bool same = of_draft->tokenizer->fingerprint() == pair.tokenizer_fingerprint &&
                    of_draft->size == of_target->size;
  if (same) return pair;
  auto map = VocabularyMap::Make(*of_target->tokenizer->decoder(), of_target->size,
                                 *of_draft->tokenizer->decoder(), of_draft->size);
  if (!map.ok())
    return Annotate(map.status(), absl::StrCat("the vocabularies of ", target, " and ", draft));
  pair.map = std::make_shared<const VocabularyMap>(*std::move(map));
  return pair;
}

}  // namespace tutti::speculation
