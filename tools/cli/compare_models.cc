#include "tools/cli/compare_models.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "shared/model/single_sequence.h"

namespace tutti::cli {
namespace {

constexpr int kChunk = 64;  // rows of logits in memory, per model

double LogSumExp(std::span<const float> x) {
  const double top = *std::max_element(x.begin(), x.end());
  double sum = 0;
  for (const float v : x) sum += std::exp(v - top);
  return top + std::log(sum);
}

struct Row {
  double kl = 0, reference_nll = 0, nll = 0, logit_change = 0;
  bool same_top = false, has_next = false;
};

// `next`: the token that follows, or -1.
Row CompareRow(std::span<const float> p, std::span<const float> q, int32_t next) {
  const double p_lse = LogSumExp(p), q_lse = LogSumExp(q);
  Row row;
  for (size_t i = 0; i < p.size(); ++i) {
    const double lp = p[i] - p_lse, lq = q[i] - q_lse;
    row.kl += std::exp(lp) * (lp - lq);
    row.logit_change = std::max(row.logit_change, std::fabs(static_cast<double>(p[i]) - q[i]));
  }
  row.kl = std::max(row.kl, 0.0);  // below by rounding alone
  row.same_top = std::max_element(p.begin(), p.end()) - p.begin() ==
                 std::max_element(q.begin(), q.end()) - q.begin();
  if (next >= 0) {
    row.has_next = true;
    row.reference_nll = p_lse - p[static_cast<size_t>(next)];
    row.nll = q_lse - q[static_cast<size_t>(next)];
  }
  return row;
}

Comparison Summarise(const std::vector<Row>& rows) {
  Comparison out;
  out.tokens = static_cast<int>(rows.size());
  std::vector<double> kl;
  double reference_nll = 0, nll = 0, scored = 0;
  for (const Row& r : rows) {
    kl.push_back(r.kl);
    out.logit_change_max = std::max(out.logit_change_max, r.logit_change);
    out.kl_mean += r.kl / static_cast<double>(rows.size());
    out.same_top += (r.same_top ? 1.0 : 0.0) / static_cast<double>(rows.size());
    reference_nll += r.reference_nll;
    nll += r.nll;
    scored += r.has_next ? 1 : 0;
  }
  std::sort(kl.begin(), kl.end());
  // The smallest value with at least 99 % of the positions at or below it.
  const auto rank = static_cast<size_t>(std::ceil(0.99 * static_cast<double>(kl.size())));
  out.kl_p99 = kl[std::max<size_t>(rank, 1) - 1];
  out.kl_max = kl.back();
  out.reference_perplexity = std::exp(reference_nll / scored);
  out.perplexity = std::exp(nll / scored);
  return out;
}

}  // namespace

absl::StatusOr<Comparison> CompareModels(LocalModel& reference, LocalModel& other,
                                         const std::vector<int32_t>& ids, int window,
                                         const std::function<bool(int done)>& on_progress) {
  const model::ModelInfo &a = reference.decoder->info(), &b = other.decoder->info();
  if (ids.size() < 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("the text has ", ids.size(), " tokens; at least 2 are needed"));
  }
  if (a.vocab_size != b.vocab_size) {
    return absl::InvalidArgumentError(absl::StrCat("the models have vocabularies of ", a.vocab_size,
                                                   " and ", b.vocab_size, " tokens"));
  }
  const auto vocab = static_cast<size_t>(a.vocab_size);
  window = std::clamp(window, 2, std::min(a.context_tokens, b.context_tokens));
  const int total = static_cast<int>(ids.size());
  std::vector<Row> rows(ids.size());
  for (int begin = 0; begin < total; begin += window) {
    const int end = std::min(begin + window, total);
    TUTTI_ASSIGN_OR_RETURN(const auto p_sequence,
                           model::SingleSequence::Create(reference.decoder.get(), end - begin));
    TUTTI_ASSIGN_OR_RETURN(const auto q_sequence,
                           model::SingleSequence::Create(other.decoder.get(), end - begin));
    for (int at = begin; at < end; at += kChunk) {
      const int n = std::min(kChunk, end - at);
      const auto tokens = std::span(ids).subspan(at, n);
      TUTTI_ASSIGN_OR_RETURN(const auto p, p_sequence->Append(tokens, n));
      TUTTI_ASSIGN_OR_RETURN(const auto q, q_sequence->Append(tokens, n));
      reference.pool->ParallelFor(n, [&](int64_t i, int) {
        const auto row = static_cast<size_t>(i);
        const int32_t next = at + i + 1 < end ? ids[at + row + 1] : -1;
        rows[at + row] =
            CompareRow(p.subspan(row * vocab, vocab), q.subspan(row * vocab, vocab), next);
      });
      if (on_progress && !on_progress(at + n)) return absl::CancelledError("interrupted");
    }
  }
  return Summarise(rows);
}

}  // namespace tutti::cli
