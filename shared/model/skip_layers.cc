#include "shared/model/skip_layers.h"

#include <algorithm>
#include <charconv>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "shared/base/strings.h"

namespace tutti::model {
namespace {

bool ToInt(std::string_view text, int* value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *value);
  return error == std::errc() && end == text.data() + text.size();
}

template <typename T>
std::vector<T> Kept(const std::vector<T>& all, const std::vector<int>& layers) {
  std::vector<T> kept;
  for (int layer : layers) kept.push_back(all[static_cast<size_t>(layer)]);
  return kept;
}

}  // namespace

std::vector<int> DefaultSkippedLayers(int num_layers) {
  std::vector<int> layers;
  for (int i = std::max(1, num_layers / 3); i < num_layers - num_layers / 6 - 1; i += 2)
    layers.push_back(i);
  return layers;
}

absl::StatusOr<std::vector<int>> ParseLayers(std::string_view text, int num_layers) {
  if (text == "auto") return DefaultSkippedLayers(num_layers);
  std::vector<bool> named(static_cast<size_t>(num_layers), false);
  for (const absl::string_view part : absl::StrSplit(ToAbsl(text), ',')) {
    const std::pair<absl::string_view, absl::string_view> ends =
        absl::StrSplit(part, absl::MaxSplits('-', 1));
    const bool range = part.find('-') != part.npos;
    int first = 0, last = 0;
    const bool numbers = ToInt({ends.first.data(), ends.first.size()}, &first) &&
                         (!range || ToInt({ends.second.data(), ends.second.size()}, &last));
    if (!range) last = first;
    if (!numbers || first < 0 || first > last || last >= num_layers) {
      return absl::InvalidArgumentError(
          absl::StrCat("skip_layers: \"", Printable(std::string(part)), "\"; layers are 0 to ",
                       num_layers - 1, ": \"3,5,10-14\", or \"auto\""));
    }
    std::fill(named.begin() + first, named.begin() + last + 1, true);
  }
  std::vector<int> layers;
  for (int i = 0; i < num_layers; ++i) {
    if (named[static_cast<size_t>(i)]) layers.push_back(i);
  }
  if (static_cast<int>(layers.size()) == num_layers)
    return absl::InvalidArgumentError("skip_layers: one layer at least must be left");
  return layers;
}

absl::Status SkipLayers(std::string_view text, ModelConfig* config) {
  TUTTI_ASSIGN_OR_RETURN(const std::vector<int> skipped, ParseLayers(text, config->num_layers));
  if (skipped.empty()) return absl::OkStatus();
  std::vector<int> kept;
  for (int i = 0; i < config->num_layers; ++i) {
    if (!std::binary_search(skipped.begin(), skipped.end(), i)) kept.push_back(i);
  }
  config->layer_slides = Kept(config->layer_slides, kept);
  if (config->gating.num_experts > 0) config->layer_moe = Kept(config->layer_moe, kept);
  config->num_layers = static_cast<int>(kept.size());
  config->file_layers = std::move(kept);
  return config->Validate();
}

}  // namespace tutti::model
