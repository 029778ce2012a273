// What is dropped and computed again when a shard turns out to compute wrong.
//
// Each page knows which shards' rows its K and V were made with, and so does each sequence. When a
// shard is distrusted, cached pages that were made with it go, and sequences that were are computed
// again from the prompt on. What they said is verified (verification.h): a token or digest that
// comes otherwise ends the sequence with DATA_LOSS, since what was sent cannot be taken back.
#include <algorithm>

#include "shared/engine/generation.h"

namespace tutti::engine {
// The caller is not to ask others whether this engine or they are wrong.
absl::Status Generation::SentWrong(std::string_view what) {
  return WithReason(
      absl::DataLossError("an expert shard computed wrong and was found after output was sent: " +
                          std::string(what) + "; a new request gives the right answer"),
      "COMPUTED_WRONG");
}

void Generation::NoteMakers(const std::vector<Slice>& batch) {
  const uint64_t made_by = step_output_.made_by;
  if (made_by == 0) return;
  for (const Slice& b : batch) {
    b.sequence->made_by |= made_by;
    const Lane& lane = b.sequence->lanes[b.lane];
    const int32_t last = (lane.computed + b.num_rows - 1) / kv_cache::kPageTokens;
    for (int32_t p = lane.computed / kv_cache::kPageTokens; p <= last; ++p)
      store_.pool().AddMakers(lane.pages[static_cast<size_t>(p)], made_by);
  }
}

void Generation::Distrust(uint64_t shards, int64_t now_us, std::vector<SequenceOutput>* out) {
  std::vector<Sequence*> made_with;
  for (const auto& [id, s] : sequences_) {
    if ((s->made_by & shards) != 0) made_with.push_back(s.get());
  }
  std::sort(made_with.begin(), made_with.end(), BeforeOrder());
  for (Sequence* s : made_with) {
    ++stats_.distrusted_sequences;
    if (!s->prompt_reported) {
      s->distrusted = true;
      Recompute(s);
      continue;
    }
    SequenceOutput output{.id = s->request.id,
                          .first_index = static_cast<int32_t>(s->history.num_output())};
    Finish(s, FinishReason::kError, SentWrong("logprobs of the prompt"), now_us, &output);
    out->push_back(std::move(output));
  }
  stats_.distrusted_pages += static_cast<uint64_t>(store_.DropMadeBy(shards));
  stalled_ = false;
}

}  // namespace tutti::engine
