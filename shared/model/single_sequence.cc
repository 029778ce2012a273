#include "shared/model/single_sequence.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace tutti::model {

SingleSequence::SingleSequence(DecoderModel* model, int32_t num_pages)
    : model_(model), pool_(model->info().kv, num_pages) {}

absl::StatusOr<std::unique_ptr<SingleSequence>> SingleSequence::Create(DecoderModel* model,
                                                                       int64_t max_tokens) {
  if (max_tokens < 1 || max_tokens > model->info().context_tokens) {
    return absl::InvalidArgumentError(absl::StrCat("a sequence of ", max_tokens,
                                                   " tokens does not fit the model's context of ",
                                                   model->info().context_tokens));
  }
  const auto num_pages =
      static_cast<int32_t>((max_tokens + kv_cache::kPageTokens - 1) / kv_cache::kPageTokens);
  std::unique_ptr<SingleSequence> sequence(new SingleSequence(model, num_pages));
  for (int32_t i = 0; i < num_pages; ++i) {
    TUTTI_ASSIGN_OR_RETURN(const kv_cache::PageId page, sequence->pool_.Allocate());
    sequence->pages_.push_back(page);
  }
  return sequence;
}

absl::StatusOr<std::span<const float>> SingleSequence::Append(std::span<const int32_t> tokens,
                                                              int32_t num_logits) {
  const SequenceSlice slice{.tokens = tokens,
                            .first_pos = length_,
                            .pages = pages_,
                            .num_logits = num_logits,
                            .seed = seed_};
  TUTTI_RETURN_IF_ERROR(model_->Forward({&slice, 1}, pool_, &output_));
  TUTTI_RETURN_IF_ERROR(output_.slice_status[0]);
  length_ += static_cast<int32_t>(tokens.size());
  return std::span<const float>(output_.logits);
}

absl::Status ForEachPromptLogits(DecoderModel* model, std::span<const int32_t> ids,
                                 const LogitsSink& sink, int32_t chunk_tokens) {
  if (chunk_tokens < 1) return absl::InvalidArgumentError("chunk_tokens must be at least 1");
  TUTTI_ASSIGN_OR_RETURN(const auto sequence,
                         SingleSequence::Create(model, static_cast<int64_t>(ids.size())));
  while (sequence->length() < static_cast<int64_t>(ids.size())) {
    const int32_t first = sequence->length();
    const auto n = std::min<int64_t>(chunk_tokens, static_cast<int64_t>(ids.size()) - first);
    TUTTI_ASSIGN_OR_RETURN(const auto logits,
                           sequence->Append(ids.subspan(first, n), static_cast<int32_t>(n)));
    TUTTI_RETURN_IF_ERROR(sink(first, logits));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<float>> PromptLogits(DecoderModel* model, std::span<const int32_t> ids,
                                                int32_t chunk_tokens) {
  std::vector<float> all;
  TUTTI_RETURN_IF_ERROR(ForEachPromptLogits(
      model, ids,
      [&](int32_t, std::span<const float> logits) {
        all.insert(all.end(), logits.begin(), logits.end());
        return absl::OkStatus();
      },
      chunk_tokens));
  return all;
}

}  // namespace tutti::model
