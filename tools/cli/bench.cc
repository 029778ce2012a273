#include "tools/cli/bench.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>

#include "absl/strings/str_cat.h"
#include "shared/base/philox.h"
#include "shared/sampling/ranges.h"
#include "tools/cli/cluster_client.h"
#include "tools/cli/http_api.h"
#include "tools/cli/terminal.h"

namespace tutti::cli {
namespace {

using nlohmann::json;

double Since(int64_t start_us) { return static_cast<double>(NowUs() - start_us) / 1e6; }

// One client over a connection of its own.
class HttpClient {
 public:
  explicit HttpClient(const BenchOptions& o) : options_(o), api_(o.endpoint) {}

  absl::StatusOr<RequestFigures> Run(int index, const std::atomic<bool>& stop) {
    json body = {
        {"model", options_.model},
        {"prompt", BenchPrompt(options_, index)},
        {"max_tokens", options_.max_tokens},
        {"temperature", options_.temperature},
        {"stream", true},
        {"stream_options", {{"include_usage", true}, {"continuous_usage_stats", true}}},
        {"seed", static_cast<int64_t>((options_.seed + static_cast<uint64_t>(index)) & INT64_MAX)}};
    if (options_.ignore_eos) body["ignore_eos"] = true;
    RequestFigures f;
    const int64_t start = NowUs();
    TUTTI_RETURN_IF_ERROR(api_.Stream(
        "/v1/completions", body, [&](const json& event) { Take(event, start, &f); }, &stop));
    f.end_s = Since(start);
    if (f.output_tokens == 0) f.output_tokens = static_cast<int64_t>(f.arrivals.size());
    return f;
  }

 private:
  static void Take(const json& event, int64_t start, RequestFigures* f) {
    int64_t new_tokens = 0;
    if (const auto usage = event.find("usage"); usage != event.end() && usage->is_object()) {
      const auto count = [&](const char* name) {
        const auto it = usage->find(name);
        return it != usage->end() && it->is_number_integer() ? it->get<int64_t>() : 0;
      };
      f->prompt_tokens = count("prompt_tokens");
      new_tokens = count("completion_tokens") - f->output_tokens;
      f->output_tokens += new_tokens;
    }
    const auto choices = event.find("choices");
    if (choices == event.end() || !choices->is_array() || choices->empty()) return;
    const json& c = (*choices)[0];
    const bool text = c.is_object() && c.contains("text") && c["text"].is_string() &&
                      !c["text"].get_ref<const std::string&>().empty();
    if (text || new_tokens > 0) f->arrivals.push_back({Since(start), static_cast<int>(new_tokens)});
  }

  const BenchOptions& options_;
  HttpApi api_;
};

// A thread for each client.
void RunHttpLoad(const BenchOptions& o, BenchTally* tally,
                 const std::function<void(int done)>& on_progress, const std::atomic<bool>& stop) {
  std::atomic<int> next{0};
  std::mutex mutex;  // guards tally
  const auto work = [&] {
    HttpClient client(o);
    for (int i; !stop.load() && (i = next.fetch_add(1)) < o.requests;) {
      const auto figures = client.Run(i, stop);
      const std::lock_guard lock(mutex);
      tally->Add(figures);
      on_progress(tally->done());
    }
  };
  std::vector<std::thread> threads;
  for (int c = 0; c < std::min(o.clients, o.requests); ++c) threads.emplace_back(work);
  for (auto& t : threads) t.join();
}

}  // namespace

absl::Status BenchOptions::Validate() const {
  const auto error = [](const auto&... parts) {
    return absl::InvalidArgumentError(absl::StrCat(parts...));
  };
  if (clients < 1 || clients > 4096) return error("--clients: ", clients, "; 1 to 4096");
  if (requests < 1) return error("--requests: ", requests, "; at least 1");
  if (prompt_words < 1 || prompt_words > 1'000'000)
    return error("--prompt-words: ", prompt_words, "; 1 to 1000000");
  if (max_tokens < 1) return error("--max-tokens: ", max_tokens, "; at least 1");
  if (const auto& range = sampling::RangeOf("temperature"); !range.Holds(temperature))
    return error("--temperature: ", temperature, "; must be ", range.Text());
  return absl::OkStatus();
}

Percentiles Summarise(std::vector<double> v) {
  if (v.empty()) return {};
  std::sort(v.begin(), v.end());
  const auto at = [&](double share) {
    const auto rank = static_cast<size_t>(std::ceil(share * static_cast<double>(v.size())));
    return v[std::clamp<size_t>(rank, 1, v.size()) - 1];
  };
  double sum = 0;
  for (const double x : v) sum += x;
  return {sum / static_cast<double>(v.size()), at(0.5), at(0.95), at(0.99), v.back()};
}

void BenchTally::Add(const absl::StatusOr<RequestFigures>& figures) {
  if (!figures.ok()) {
    if (report_.failed++ == 0) report_.first_error = std::string(figures.status().message());
    return;
  }
  ++report_.completed;
  report_.prompt_tokens += figures->prompt_tokens;
  report_.output_tokens += figures->output_tokens;
  if (!figures->arrivals.empty()) first_.push_back(figures->arrivals[0].at_s);
  const std::vector<double> gaps = TokenGaps(*figures);
  inter_.insert(inter_.end(), gaps.begin(), gaps.end());
  total_.push_back(figures->end_s);
}

std::vector<double> TokenGaps(const RequestFigures& f) {
  std::vector<double> gaps;
  const auto& a = f.arrivals;
  if (a.size() < 2) return gaps;
  bool counted = true;
  for (const auto& arrival : a) counted = counted && arrival.tokens > 0;
  if (!counted) {
    // The first message has a token at least; how many it has is not known either.
    const auto tokens = std::max<int64_t>(f.output_tokens - 1, 1);
    gaps.assign(static_cast<size_t>(tokens),
                (a.back().at_s - a[0].at_s) / static_cast<double>(tokens));
    return gaps;
  }
  for (size_t k = 1; k < a.size(); ++k) {
    gaps.insert(gaps.end(), static_cast<size_t>(a[k].tokens),
                (a[k].at_s - a[k - 1].at_s) / a[k].tokens);
  }
  return gaps;
}

BenchReport BenchTally::Finish(double seconds) {
  report_.seconds = seconds;
  report_.first_token_s = Summarise(std::move(first_));
  report_.inter_token_s = Summarise(std::move(inter_));
  report_.end_to_end_s = Summarise(std::move(total_));
  return report_;
}

std::string BenchPrompt(const BenchOptions& o, int index) {
  static constexpr const char* kWords[] = {
      "river",  "stone", "morning",  "the",    "of",     "and",   "light",   "walks",
      "under",  "green", "mountain", "slowly", "people", "with",  "music",   "in",
      "small",  "house", "where",    "bread",  "wind",   "sings", "because", "winter",
      "letter", "was",   "written",  "again",  "by",     "hand",  "old",     "sea"};
  std::string out;
  for (int w = 0; w < o.prompt_words; ++w) {
    const bool common = o.shared_prefix && w < o.prompt_words / 2;
    const auto block = Philox4x32(
        o.seed, {static_cast<uint32_t>(w), common ? 0u : static_cast<uint32_t>(index) + 1, 0, 0});
    absl::StrAppend(&out, w == 0 ? "" : " ", kWords[block[0] % std::size(kWords)]);
  }
  return out;
}

absl::StatusOr<BenchReport> RunBench(const BenchOptions& given,
                                     const std::function<void(int done)>& on_progress,
                                     const std::atomic<bool>& stop) {
  BenchOptions o = given;
  TUTTI_RETURN_IF_ERROR(o.Validate());
  if (o.endpoint.http) {
    if (o.model.empty()) {
      TUTTI_ASSIGN_OR_RETURN(o.model, HttpApi(o.endpoint).FirstModel());
    }
  } else {
    TUTTI_ASSIGN_OR_RETURN(const int models, CountServableModels(o.endpoint, 5000));
    if (models == 0)
      return absl::UnavailableError(o.endpoint.address + ": no model is ready there");
  }

  BenchTally tally;
  const int64_t start = NowUs();
  if (o.endpoint.http) {
    RunHttpLoad(o, &tally, on_progress, stop);
  } else {
    TUTTI_RETURN_IF_ERROR(RunGrpcLoad(o, &tally, on_progress, stop));
  }
  return tally.Finish(Since(start));
}

}  // namespace tutti::cli
