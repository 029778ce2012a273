#include "shared/speculation/mapped_model.h"

#include <utility>

#include "shared/base/hash.h"

namespace tutti::speculation {

// Finite, as every logit must be; what a bias may add to it changes nothing.
constexpr float kNever = -1e30f;

MappedModel::MappedModel(std::unique_ptr<model::DecoderModel> model, const DraftPair& pair)
    : model_(std::move(model)), map_(pair.map), info_(model_->info()) {
  info_.vocab_size = map_->target_vocab_size();
  info_.eos_ids = pair.target_eos_ids;
  info_.fingerprint = Hash64("tutti mapped model\n" + Hex64(info_.fingerprint) + "\n" +
                             Hex64(pair.tokenizer_fingerprint));
}

absl::Status MappedModel::Forward(std::span<const model::SequenceSlice> slices,
                                  kv_cache::PagePool& pool, model::StepOutput* out) {
  size_t num_tokens = 0, num_logits = 0;
  for (const model::SequenceSlice& s : slices) {
    num_tokens += s.tokens.size();
    num_logits += static_cast<size_t>(s.num_logits);
  }
  std::vector<int32_t> ids;
  ids.reserve(num_tokens);
  std::vector<model::SequenceSlice> mapped(slices.begin(), slices.end());
  for (model::SequenceSlice& s : mapped) {
    const size_t begin = ids.size();
    for (const int32_t id : s.tokens) {
      if (id < 0 || id >= info_.vocab_size)
        return absl::InvalidArgumentError("token id " + std::to_string(id) + " is out of range");
      ids.push_back(map_->ReadBy(id));
    }
    s.tokens = {ids.data() + begin, s.tokens.size()};
  }
  inner_.want_hidden = out->want_hidden;
  const absl::Status status = model_->Forward(mapped, pool, &inner_);
  out->made_by = inner_.made_by;
  out->distrusted = inner_.distrusted;
  TUTTI_RETURN_IF_ERROR(status);
  out->hidden.swap(inner_.hidden);
  out->slice_status.swap(inner_.slice_status);
  const auto theirs = static_cast<size_t>(map_->draft_vocab_size()),
             ours = static_cast<size_t>(info_.vocab_size);
  out->logits.resize(num_logits * ours);
  for (size_t row = 0; row < num_logits; ++row) {
    const float* from = inner_.logits.data() + row * theirs;
    float* to = out->logits.data() + row * ours;
    for (size_t id = 0; id < ours; ++id) {
      const int32_t draft_id = map_->ToDraft(static_cast<int32_t>(id));
      to[id] = draft_id < 0 ? kNever : from[draft_id];
    }
  }
  return absl::OkStatus();
}

}  // namespace tutti::speculation
