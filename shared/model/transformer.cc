#include "shared/model/transformer.h"

#include <algorithm>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "shared/model/local_experts.h"
#include "shared/model/split_experts.h"

namespace tutti::model {
namespace {

// Rows of one slice that one attention task does; small, because later rows cost more.
constexpr int32_t kAttentionRows = 16;
constexpr int64_t kLongText = 4 * kernels::kAttentionChunk;  // halves of it are nearly equal
static_assert(moe::kWindowPositions == kv_cache::kPageTokens, "a window's record is in its page");

}  // namespace

Transformer::Transformer(ModelConfig config, ModelWeights weights, ModelInfo info, ThreadPool* pool,
                         moe::ExpertBackend* experts)
    : config_(std::move(config)),
      weights_(std::move(weights)),
      info_(std::move(info)),
      exec_(&kernels::Kernels(), pool) {
  if (!config_.learned_positions) {
    rope_ = std::make_unique<RopeCache>(config_.rope, config_.rotary_dim, config_.context_tokens);
    if (config_.has_local_rope) {
      local_rope_ = std::make_unique<RopeCache>(config_.local_rope, config_.rotary_dim,
                                                config_.context_tokens);
    }
  }
  scratch_.resize(exec_.num_threads());
  if (config_.is_latent()) {
    head_quantized_.resize(scratch_.size());
  } else {
    PlanHeads();
  }
  MakeFfns(experts);
}

void Transformer::PlanHeads() {
  // The fewest heads that fill whole groups of 16 outputs.
  const int unit = kernels::kLanes / std::gcd(config_.head_dim, kernels::kLanes);
  const auto add_units = [&](HeadUnit::Kind kind, int heads) {
    for (int h = 0; h < heads; h += unit)
      head_units_.push_back({kind, h, std::min(unit, heads - h)});
  };
  if (config_.qk_norm_whole) {  // their norm needs all of them
    head_units_.push_back({HeadUnit::kQ, 0, config_.num_heads});
    head_units_.push_back({HeadUnit::kK, 0, config_.num_kv_heads});
  } else {
    add_units(HeadUnit::kQ, config_.num_heads);
    add_units(HeadUnit::kK, config_.num_kv_heads);
  }
  add_units(HeadUnit::kV, config_.num_kv_heads);
  int most_heads = unit;
  for (const HeadUnit& u : head_units_) most_heads = std::max(most_heads, u.num_heads);
  for (ThreadScratch& s : scratch_)
    s.a.Reserve(TaskGrid::kRowBlock * most_heads * config_.head_dim);
}

void Transformer::MakeFfns(moe::ExpertBackend* elsewhere) {
  experts_ = elsewhere;
  std::vector<const std::vector<FfnWeights>*> layers;
  bool any_here = false;
  for (int i = 0; i < config_.num_layers; ++i) {
    if (!config_.has_experts(i)) continue;
    layers.push_back(&weights_.layers[i].moe.experts);
    any_here |= !layers.back()->empty();
  }
  if (any_here && elsewhere == nullptr) {
    own_experts_ = std::make_unique<LocalExperts>(&exec_, config_.activation, std::move(layers));
  } else if (any_here) {
    own_experts_ =
        std::make_unique<SplitExperts>(&exec_, config_.activation, std::move(layers), elsewhere);
  }
  if (own_experts_ != nullptr) experts_ = own_experts_.get();
  int moe_layer = 0;
  for (int i = 0; i < config_.num_layers; ++i) {
    const LayerWeights& layer = weights_.layers[i];
    if (config_.ffn_slices > 0) {
      ffn_.push_back(MakeSlicedFfn(config_, i, &layer.moe, experts_, &moe_spaces_));
      continue;
    }
    ffn_.push_back(config_.is_moe(i)
                       ? MakeMoeFfn(config_, moe_layer++, &layer.moe, experts_, &moe_spaces_)
                       : MakeDenseFfn(config_, &layer.ffn, &ffn_space_));
  }
}

Transformer::~Transformer() = default;

RopeCache* Transformer::RopeOf(int layer) const {
  return local_rope_ != nullptr && config_.layer_slides[layer] ? local_rope_.get() : rope_.get();
}

absl::Status Transformer::CheckStep(std::span<const SequenceSlice> slices,
                                    const kv_cache::PagePool& pool) const {
  const kv_cache::PageLayout& have = pool.layout();
  if (have.num_layers != info_.kv.num_layers || have.num_kv_heads != info_.kv.num_kv_heads ||
      have.head_dim != info_.kv.head_dim || have.v_head_dim != info_.kv.v_head_dim ||
      have.dtype != info_.kv.dtype || have.routing_bytes != info_.kv.routing_bytes) {
    return absl::InvalidArgumentError("page pool: its layout is not this model's");
  }
  for (size_t i = 0; i < slices.size(); ++i) {
    const SequenceSlice& s = slices[i];
    const auto bad = [&](const std::string& what) {
      return absl::InvalidArgumentError(absl::StrCat("slice ", i, ": ", what));
    };
    const auto n = static_cast<int64_t>(s.tokens.size());
    if (n < 1) return bad("it has no tokens");
    if (s.first_pos < 0 || s.first_pos + n > config_.context_tokens) {
      return bad(absl::StrCat("positions [", s.first_pos, ", ", s.first_pos + n,
                              ") must lie in [0, ", config_.context_tokens, ")"));
    }
    if (s.num_logits < 0 || s.num_logits > n) {
      return bad(absl::StrCat("num_logits is ", s.num_logits, "; it must be in [0, ", n, "]"));
    }
    if (static_cast<int64_t>(s.pages.size()) * kv_cache::kPageTokens < s.first_pos + n) {
      return bad(absl::StrCat(s.pages.size(), " pages of ", kv_cache::kPageTokens, " do not cover ",
                              s.first_pos + n, " positions"));
    }
    for (kv_cache::PageId page : s.pages) {
      if (page < 0 || page >= pool.num_pages()) {
        return bad(absl::StrCat("page ", page, " is not in [0, ", pool.num_pages(), ")"));
      }
    }
    for (int64_t t = 0; t < n; ++t) {
      if (s.tokens[t] < 0 || s.tokens[t] >= config_.vocab_size) {
        return bad(absl::StrCat("token id ", s.tokens[t], " at position ", s.first_pos + t,
                                " must be in [0, ", config_.vocab_size, ")"));
      }
    }
  }
  return absl::OkStatus();
}

void Transformer::PlanStep(std::span<const SequenceSlice> slices, kv_cache::PagePool& pool) {
  rows_.clear();
  pages_.clear();
  slices_.clear();
  int64_t end = 0;
  for (size_t i = 0; i < slices.size(); ++i) {
    const SequenceSlice& s = slices[i];
    const auto n = static_cast<int32_t>(s.tokens.size());
    for (int32_t t = 0; t < n; ++t) rows_.push_back({static_cast<int32_t>(i), s.first_pos + t, -1});
    slices_.push_back({.first_page = static_cast<int64_t>(pages_.size())});
    for (kv_cache::PageId page : s.pages) pages_.push_back(pool.Data(page));
    end = std::max<int64_t>(end, s.first_pos + n);
  }
  num_rows_ = static_cast<int64_t>(rows_.size());
  // Observers see all rows of a layer before any goes on.
  const bool overlaps = experts_ != nullptr && !observer_ && !ffn_observer_ && num_rows_ > 1 &&
                        num_rows_ >= experts_->MinRowsToOverlap();
  split_ = overlaps ? num_rows_ / 2 : 0;
  PlanRuns();
  PlaceRows(slices);
  if (rope_ != nullptr) rope_->Reserve(end);
  if (local_rope_ != nullptr) local_rope_->Reserve(end);

  const int64_t hidden = config_.hidden_size, q_size = config_.q_size();
  x_.Reserve(num_rows_ * hidden);
  y_.Reserve(num_rows_ * hidden);
  normed_.Reserve(num_rows_ * hidden);
  q_.Reserve(num_rows_ * q_size);
  attn_.Reserve(num_rows_ * q_size);
  normed_quantized_.Reserve(num_rows_, hidden);
  attn_quantized_.Reserve(num_rows_, config_.attn_size());
}

// Where each row stands in its sequence, for mixtures that leave pairs out by it.
void Transformer::PlaceRows(std::span<const SequenceSlice> slices) {
  if (!config_.gating.drops()) return;
  places_.clear();
  for (const Row& row : rows_) {
    std::byte* page = pages_[slices_[row.slice].first_page + row.pos / kv_cache::kPageTokens];
    places_.push_back({slices[row.slice].seed, row.pos, page + info_.kv.RoutingOffset()});
  }
}

void Transformer::PlanRuns() {
  runs_.clear();
  const auto num = static_cast<int32_t>(rows_.size());
  // A run is a task for each KV head, and rows go in fours or pairs there: the few rows of a draft
  // are cut so that every thread has some, unless they see enough positions to be cut by these.
  const bool long_text =
      std::all_of(rows_.begin(), rows_.end(), [](const Row& row) { return row.pos >= kLongText; });
  int32_t most = kAttentionRows;
  while (most > (long_text ? 4 : 2) &&
         (num + most - 1) / most * config_.num_kv_heads < 2 * exec_.num_threads()) {
    most /= 2;
  }
  for (int32_t r = 0; r < num; ++r) {
    if (runs_.empty() || rows_[r].slice != rows_[r - 1].slice || r - runs_.back().begin == most ||
        r == split_) {
      runs_.push_back({r, r});
    }
    runs_.back().end = r + 1;
  }
  if (config_.is_latent()) return;
  run_positions_.clear();
  const bool all_slide = std::all_of(config_.layer_slides.begin(), config_.layer_slides.end(),
                                     [](bool slides) { return slides; });
  for (const RowRun& run : runs_) {
    int64_t seen = rows_[run.end - 1].pos + 1;
    if (all_slide && config_.sliding_window > 0)  // and chunks that it begins and ends in
      seen = std::min(seen, config_.sliding_window + run.size() + kernels::kAttentionChunk);
    run_positions_.push_back(seen);
  }
  const auto split = static_cast<int32_t>(split_);
  const RowRun of[] = {AllRows(), {0, split}, {split, num}};
  for (size_t i = 0; i < (split > 0 ? 3 : 1); ++i) {
    const std::span<const RowRun> runs = RunsOf(of[i]);
    PlanAttention({.runs = runs,
                   .positions = {run_positions_.data() + (runs.data() - runs_.data()), runs.size()},
                   .num_kv_heads = config_.num_kv_heads,
                   .group = config_.num_heads / config_.num_kv_heads,
                   .head_dim = config_.head_dim},
                  exec_.num_threads(), &attention_plans_[i]);
    chunk_results_.Reserve(attention_plans_[i].results);
  }
}

void Transformer::CollectFaults() {
  for (const Row& row : rows_) {
    if (row.fault < 0) continue;
    StepSlice& slice = slices_[row.slice];
    if (slice.fault >= 0 && slice.fault <= row.fault) continue;
    slice.fault = row.fault;
    slice.fault_pos = row.pos;
  }
}

void Transformer::ReportFaults(StepOutput* out) const {
  out->slice_status.assign(slices_.size(), absl::OkStatus());
  for (size_t i = 0; i < slices_.size(); ++i) {
    const StepSlice& slice = slices_[i];
    if (slice.fault < 0) continue;
    const std::string where =
        slice.fault == config_.num_layers ? "the logits" : absl::StrCat("layer ", slice.fault);
    out->slice_status[i] =
        WithReason(absl::InternalError(absl::StrCat("the output of ", where, " at row ",
                                                    slice.fault_pos, " (position) is not finite")),
                   "NUMERIC_FAULT");
  }
}

}  // namespace tutti::model
