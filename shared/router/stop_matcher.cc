#include "shared/router/stop_matcher.h"

#include <algorithm>
#include <utility>

namespace tutti::router {

StopMatcher::StopMatcher(std::vector<std::string> stops) : matched_bytes_(stops.size(), 0) {
  auto table = std::make_shared<std::vector<Stop>>();
  for (std::string& s : stops) {
    Stop stop{std::move(s), {}};
    stop.fail.assign(stop.text.size(), 0);
    for (size_t i = 1, k = 0; i < stop.text.size(); ++i) {
      while (k > 0 && stop.text[i] != stop.text[k]) k = stop.fail[k - 1];
      if (stop.text[i] == stop.text[k]) ++k;
      stop.fail[i] = static_cast<uint16_t>(k);
    }
    table->push_back(std::move(stop));
  }
  stops_ = std::move(table);
}

StopMatcher::Result StopMatcher::Push(std::string_view text, bool include_stop) {
  Result result;
  if (stops_->empty()) {
    result.text = std::string(text);
    return result;
  }
  for (const char c : text) {
    held_.push_back(c);
    for (size_t s = 0; s < stops_->size(); ++s) {
      const Stop& stop = (*stops_)[s];
      size_t k = matched_bytes_[s];
      while (k > 0 && stop.text[k] != c) k = stop.fail[k - 1];
      if (stop.text[k] == c) ++k;
      matched_bytes_[s] = static_cast<uint16_t>(k);
      if (k == stop.text.size() &&
          (result.matched < 0 || k > (*stops_)[static_cast<size_t>(result.matched)].text.size())) {
        result.matched = static_cast<int>(s);
      }
    }
    if (result.matched >= 0) {
      const size_t cut = include_stop ? 0 : stop(result.matched).size();
      result.text = held_.substr(0, held_.size() - cut);
      held_.clear();
      return result;
    }
  }
  const size_t open = *std::max_element(matched_bytes_.begin(), matched_bytes_.end());
  result.text = held_.substr(0, held_.size() - open);
  held_.erase(0, held_.size() - open);
  return result;
}

std::string StopMatcher::Flush() {
  std::fill(matched_bytes_.begin(), matched_bytes_.end(), uint16_t{0});
  return std::exchange(held_, {});
}

}  // namespace tutti::router
