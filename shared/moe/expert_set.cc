#include "shared/moe/expert_set.h"

#include <charconv>
#include <string>

namespace tutti::moe {
namespace {

bool ParseNumber(std::string_view s, int* out) {
  const auto [at, error] = std::from_chars(s.data(), s.data() + s.size(), *out);
  return error == std::errc() && at == s.data() + s.size() && *out >= 0 &&
         *out < ExpertRange::kOpenEnd;
}

// "7" or "3-9" -> [begin, end).
bool ParseInterval(std::string_view text, int* begin, int* end) {
  const size_t dash = text.find('-');
  if (!ParseNumber(text.substr(0, dash), begin)) return false;
  *end = *begin;
  if (dash != std::string_view::npos && !ParseNumber(text.substr(dash + 1), end)) return false;
  return *begin <= (*end)++;
}

}  // namespace

absl::StatusOr<std::vector<ExpertRange>> ParseExpertRanges(std::string_view text) {
  ExpertRange r;
  if (text == "all") return std::vector<ExpertRange>{r};
  if (ParseNumber(text, &r.expert_end)) return std::vector<ExpertRange>{r};
  std::vector<ExpertRange> out;
  for (std::string_view rest = text;;) {
    const size_t comma = rest.find(',');
    const std::string_view one = rest.substr(0, comma);
    const size_t slash = one.find('/');
    if (slash == std::string_view::npos ||
        !ParseInterval(one.substr(0, slash), &r.layer_begin, &r.layer_end) ||
        !ParseInterval(one.substr(slash + 1), &r.expert_begin, &r.expert_end)) {
      return absl::InvalidArgumentError(
          "\"" + std::string(text) +
          "\" is not all, a number of each layer's experts, or LAYERS/EXPERTS as 3/0,0-29/1-4");
    }
    out.push_back(r);
    if (comma == std::string_view::npos) return out;
    rest.remove_prefix(comma + 1);
  }
}

absl::StatusOr<ExpertSet> ExpertSet::Parse(std::string_view text, int num_layers,
                                           int experts_per_layer) {
  ExpertSet set;
  if (text.empty()) return set;
  TUTTI_ASSIGN_OR_RETURN(const std::vector<ExpertRange> ranges, ParseExpertRanges(text));
  const auto end_of = [](int end, int all) { return end == ExpertRange::kOpenEnd ? all : end; };
  std::vector<bool> has(static_cast<size_t>(num_layers * experts_per_layer), false);
  bool any = false;
  for (const ExpertRange& r : ranges) {
    const int layers = end_of(r.layer_end, num_layers);
    const int experts = end_of(r.expert_end, experts_per_layer);
    if (layers > num_layers || experts > experts_per_layer) {
      return absl::InvalidArgumentError("\"" + std::string(text) + "\": the model has " +
                                        std::to_string(num_layers) + " layers of " +
                                        std::to_string(experts_per_layer) + " experts");
    }
    for (int l = r.layer_begin; l < layers; ++l) {
      for (int e = r.expert_begin; e < experts; ++e)
        any = has[static_cast<size_t>(l * experts_per_layer + e)] = true;
    }
  }
  if (!any) return set;
  set.experts_per_layer_ = experts_per_layer;
  set.has_ = std::move(has);
  return set;
}

}  // namespace tutti::moe
