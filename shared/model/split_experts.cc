#include "shared/model/split_experts.h"

namespace tutti::model {

void SplitExperts::Part::Clear() {
  row_offsets.assign(1, 0);
  expert_ids.clear();
  out_rows.clear();
}

moe::ExpertBatch SplitExperts::Part::Of(const moe::ExpertBatch& batch) const {
  moe::ExpertBatch part = batch;
  part.row_offsets = row_offsets;
  part.expert_ids = expert_ids;
  part.out_rows = out_rows;
  return part;
}

bool SplitExperts::IsLocal(int moe_layer, int32_t expert) const {
  const std::vector<FfnWeights>& experts = *layers_[static_cast<size_t>(moe_layer)];
  return !experts.empty() && experts[static_cast<size_t>(expert)].up.weight.rows() > 0;
}

void SplitExperts::Start(const moe::ExpertBatch& batch, int lane, float* out) {
  Part& theirs = theirs_[static_cast<size_t>(lane)];
  mine_.Clear();
  theirs.Clear();
  for (size_t r = 0; r < static_cast<size_t>(batch.num_rows); ++r) {
    for (int32_t p = batch.row_offsets[r]; p < batch.row_offsets[r + 1]; ++p) {
      const int32_t expert = batch.expert_ids[static_cast<size_t>(p)];
      Part& part = IsLocal(batch.moe_layer, expert) ? mine_ : theirs;
      part.expert_ids.push_back(expert);
      part.out_rows.push_back(static_cast<int32_t>(batch.OutRow(p)));
    }
    for (Part* part : {&mine_, &theirs})
      part->row_offsets.push_back(static_cast<int32_t>(part->expert_ids.size()));
  }
  if (!theirs.empty()) others_->Start(theirs.Of(batch), lane, out);
  if (!mine_.empty()) local_.Start(mine_.Of(batch), lane, out);
}

absl::Status SplitExperts::Wait(int lane) {
  if (theirs_[static_cast<size_t>(lane)].empty()) return absl::OkStatus();
  return others_->Wait(lane);
}

}  // namespace tutti::model
