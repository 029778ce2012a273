// A model that speaks another one's token ids: a draft of another vocabulary, in its target's ids.
#pragma once

#include <memory>
#include <vector>

#include "shared/model/decoder_model.h"
#include "shared/speculation/vocabulary_map.h"

namespace tutti::speculation {

// Takes target ids and gives logits in the order of target ids. So all above it (sampling with the
// noise of the target's id, penalties, hints) is as for a draft of the target's own vocabulary, and
// equal distributions draw equal tokens. Tokens that the draft does not have get a logit that
// nothing chooses.
//
// Thread safety: as the model. Determinism: exact.
// Cost: a copy of the logits.
class MappedModel : public model::DecoderModel {
 public:
  // REQUIRES: pair.map is of this model.
  MappedModel(std::unique_ptr<model::DecoderModel> model, const DraftPair& pair);

  const model::ModelInfo& info() const override { return info_; }
  absl::Status Forward(std::span<const model::SequenceSlice> slices, kv_cache::PagePool& pool,
                       model::StepOutput* out) override;

 private:
  const std::unique_ptr<model::DecoderModel> model_;
  const std::shared_ptr<const VocabularyMap> map_;
  model::ModelInfo info_;
  model::StepOutput inner_;
};

}  // namespace tutti::speculation
