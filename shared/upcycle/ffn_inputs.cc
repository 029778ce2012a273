#include "shared/upcycle/ffn_inputs.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "shared/base/strings.h"
#include "shared/model/single_sequence.h"
#include "shared/moe/gating.h"

namespace tutti::upcycle {
namespace {

constexpr size_t kChunkTokens = 64;  // logits are computed for all rows: bounds their memory

// What is read just now.
struct Place {
  size_t text = 0;
  size_t skip = 0;  // rows at the beginning of the chunk that do not count
};

absl::Status ReadTexts(model::Transformer* model, std::span<const Text> texts,
                       const TokensDone& on_tokens, Place* place) {
  const auto window = static_cast<size_t>(std::min(kWindowTokens, model->info().context_tokens));
  int64_t done = 0, total = 0;
  for (const Text& t : texts) total += static_cast<int64_t>(t.ids.size());
  TUTTI_ASSIGN_OR_RETURN(const auto sequence,
                         model::SingleSequence::Create(model, static_cast<int64_t>(window)));
  for (size_t t = 0; t < texts.size(); ++t) {
    const std::span<const int32_t> ids = texts[t].ids;
    if (ids.size() < 2 || window < 2) {
      return absl::InvalidArgumentError(absl::StrCat("text ", Printable(texts[t].name), ": ",
                                                     ids.size(),
                                                     " tokens; there must be at least 2"));
    }
    place->text = t;
    for (size_t at = 0; at < ids.size(); at += window) {
      const auto piece = ids.subspan(at, std::min(window, ids.size() - at));
      sequence->Truncate(0);
      for (size_t i = 0; i < piece.size(); i += kChunkTokens) {
        const auto chunk = piece.subspan(i, std::min(kChunkTokens, piece.size() - i));
        place->skip = i == 0 ? 1 : 0;
        // Logits of all rows: else those that nobody wants end before the last FFN.
        const auto logits = sequence->Append(chunk, static_cast<int32_t>(chunk.size()));
        if (!logits.ok()) {
          return Annotate(logits.status(), absl::StrCat("text ", Printable(texts[t].name)));
        }
        done += static_cast<int64_t>(chunk.size());
        if (on_tokens && !on_tokens(done, total)) return absl::CancelledError("interrupted");
      }
    }
  }
  return absl::OkStatus();
}

double PLogP(double p) { return p > 0 ? p * std::log2(p) : 0; }

// Counts of one layer.
struct Counts {
  std::vector<std::vector<double>> chosen, best;  // [texts][experts]
  std::vector<float> logits;
  std::vector<int32_t> ids;
  double dropped = 0;
};

LayerLoad Summarize(const moe::GatingOptions& gating, int layer, const Counts& counts) {
  const auto experts = static_cast<size_t>(gating.num_experts);
  LayerLoad load{.layer = layer, .share = std::vector<double>(experts)};
  const auto rows = static_cast<int64_t>(counts.logits.size() / experts);
  load.balancing_loss = moe::LoadBalancingLoss(gating, rows, counts.logits, counts.ids);
  load.dropped = counts.dropped / static_cast<double>(counts.ids.size());
  std::vector<double> best(experts);
  double of_texts = 0, of_experts = 0, of_both = 0;  // entropies
  const auto n = static_cast<double>(rows);
  for (size_t t = 0; t < counts.chosen.size(); ++t) {
    double text_rows = 0;
    for (size_t e = 0; e < experts; ++e) {
      load.share[e] += counts.chosen[t][e] / (n * gating.top_k);
      best[e] += counts.best[t][e] / n;
      text_rows += counts.best[t][e];
      of_both -= PLogP(counts.best[t][e] / n);
    }
    of_texts -= PLogP(text_rows / n);
    auto& shares = load.text_share.emplace_back(counts.chosen[t]);
    for (double& s : shares) s /= std::max(1.0, text_rows * gating.top_k);
  }
  for (double b : best) of_experts -= PLogP(b);
  if (of_texts > 0) load.told = std::max(0.0, (of_texts + of_experts - of_both) / of_texts);
  return load;
}

}  // namespace

absl::StatusOr<std::vector<std::vector<float>>> CollectFfnInputs(model::Transformer* model,
                                                                 std::span<const Text> texts,
                                                                 const TokensDone& on_tokens) {
  std::vector<std::vector<float>> inputs(static_cast<size_t>(model->config().num_layers));
  const auto hidden = static_cast<size_t>(model->config().hidden_size);
  Place place;
  model->set_ffn_observer([&](int layer, std::span<const float> rows) {
    const auto counted = rows.subspan(place.skip * hidden);
    auto& all = inputs[static_cast<size_t>(layer)];
    all.insert(all.end(), counted.begin(), counted.end());
  });
  const absl::Status status = ReadTexts(model, texts, on_tokens, &place);
  model->set_ffn_observer(nullptr);
  TUTTI_RETURN_IF_ERROR(status);
  return inputs;
}

absl::StatusOr<std::vector<LayerLoad>> MeasureLoad(model::Transformer* model,
                                                   std::span<const Text> texts,
                                                   const TokensDone& on_tokens) {
  const moe::GatingOptions& gating = model->config().gating;
  const auto experts = static_cast<size_t>(gating.num_experts);
  const auto top_k = static_cast<size_t>(gating.top_k);
  std::vector<Counts> counts(static_cast<size_t>(model->config().num_moe_layers()));
  for (Counts& c : counts)
    c.chosen = c.best = std::vector(texts.size(), std::vector<double>(experts));
  Place place;
  model->set_routing_observer([&](const model::RoutingView& view) {
    Counts& c = counts[static_cast<size_t>(view.moe_layer)];
    const auto logits = view.logits.subspan(place.skip * experts);
    const auto ids = view.ids.subspan(place.skip * top_k);
    c.logits.insert(c.logits.end(), logits.begin(), logits.end());
    c.ids.insert(c.ids.end(), ids.begin(), ids.end());
    if (!view.kept.empty()) {
      const auto kept = view.kept.subspan(place.skip * top_k);
      c.dropped += static_cast<double>(std::count(kept.begin(), kept.end(), 0));
    }
    for (size_t i = 0; i < ids.size(); ++i) {
      ++c.chosen[place.text][static_cast<size_t>(ids[i])];
      if (i % top_k != 0) continue;
      const auto row = logits.subspan(i / top_k * experts, experts);
      ++c.best[place.text]
              [static_cast<size_t>(std::max_element(row.begin(), row.end()) - row.begin())];
    }
  });
  const absl::Status status = ReadTexts(model, texts, on_tokens, &place);
  model->set_routing_observer(nullptr);
  TUTTI_RETURN_IF_ERROR(status);
  std::vector<LayerLoad> loads;
  for (int layer = 0; layer < model->config().num_layers; ++layer) {
    if (model->config().is_moe(layer))
      loads.push_back(Summarize(gating, layer, counts[loads.size()]));
  }
  return loads;
}

}  // namespace tutti::upcycle
