#include "tools/cli/bench.h"

#include <httplib.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>

#include "absl/strings/str_cat.h"
#include "shared/base/philox.h"
#include "shared/base/strings.h"
#include "tools/cli/cluster_client.h"
#include "tools/cli/terminal.h"

namespace tutti::cli {
namespace {

using nlohmann::json;

double Since(int64_t start_us) { return static_cast<double>(NowUs() - start_us) / 1e6; }

// One client's connection.
class HttpClient {
 public:
  HttpClient(const BenchOptions& o, const std::string& base) : options_(o), client_(base) {
    client_.set_keep_alive(true);
    client_.set_tcp_nodelay(true);
    client_.set_read_timeout(600, 0);
    if (!o.api_key.empty()) client_.set_bearer_token_auth(o.api_key);
  }

  absl::StatusOr<std::string> FirstModel() {
    const auto r = client_.Get("/v1/models");
    if (!r)
      return absl::UnavailableError(
          absl::StrCat(options_.address, ": ", httplib::to_string(r.error())));
    const json j = json::parse(r->body, nullptr, false);
    if (r->status == 200 && j.is_object() && j.contains("data") && j["data"].is_array() &&
        !j["data"].empty() && j["data"][0].is_object() && j["data"][0].contains("id") &&
        j["data"][0]["id"].is_string()) {
      return j["data"][0]["id"].get<std::string>();
    }
    return absl::UnavailableError(absl::StrCat(options_.address, "/v1/models: status ", r->status,
                                               ", no model in ", Printable(r->body, 200)));
  }

  absl::StatusOr<RequestFigures> Run(const std::string& prompt, int index) {
    json body = {
        {"model", options_.model},
        {"prompt", prompt},
        {"max_tokens", options_.max_tokens},
        {"temperature", options_.temperature},
        {"stream", true},
        {"stream_options", {{"include_usage", true}}},
        {"seed", static_cast<int64_t>((options_.seed + static_cast<uint64_t>(index)) & INT64_MAX)}};
    if (options_.ignore_eos) body["ignore_eos"] = true;
    RequestFigures f;
    std::string pending, refused;
    int64_t start = 0;
    bool done = false;
    httplib::Request request;
    request.method = "POST";
    request.path = "/v1/completions";
    request.set_header("Content-Type", "application/json");
    request.body = body.dump();
    int status = 0;
    request.response_handler = [&](const httplib::Response& r) {
      status = r.status;
      return true;
    };
    request.content_receiver = [&](const char* data, size_t size, uint64_t, uint64_t) {
      if (status != 200) {
        refused.append(data, std::min(size, size_t{2000}));
        return true;
      }
      pending.append(data, size);
      for (size_t end; (end = pending.find('\n')) != pending.npos; pending.erase(0, end + 1)) {
        done |= OnLine(std::string_view(pending).substr(0, end), start, &f);
      }
      return true;
    };
    start = NowUs();
    const auto r = client_.send(request);
    f.end_s = Since(start);
    if (!r)
      return absl::UnavailableError(
          absl::StrCat("/v1/completions: ", httplib::to_string(r.error())));
    if (r->status != 200) {
      return absl::UnavailableError(absl::StrCat("/v1/completions: status ", r->status, ": ",
                                                 Printable(refused + r->body, 300)));
    }
    if (!done) return absl::UnavailableError("/v1/completions: the stream ended without [DONE]");
    if (f.output_tokens == 0) f.output_tokens = static_cast<int64_t>(f.arrivals_s.size());
    return f;
  }

 private:
  // One line of the event stream; true at the end mark.
  static bool OnLine(std::string_view line, int64_t start, RequestFigures* f) {
    if (!line.starts_with("data:")) return false;
    line.remove_prefix(5);
    while (!line.empty() && line[0] == ' ') line.remove_prefix(1);
    while (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    if (line == "[DONE]") return true;
    const json j = json::parse(line.begin(), line.end(), nullptr, false);
    if (!j.is_object()) return false;
    if (const auto usage = j.find("usage"); usage != j.end() && usage->is_object()) {
      f->prompt_tokens = usage->value("prompt_tokens", int64_t{0});
      f->output_tokens = usage->value("completion_tokens", int64_t{0});
    }
    const auto choices = j.find("choices");
    if (choices == j.end() || !choices->is_array() || choices->empty()) return false;
    const json& c = (*choices)[0];
    if (c.is_object() && c.contains("text") && c["text"].is_string() &&
        !c["text"].get_ref<const std::string&>().empty()) {
      f->arrivals_s.push_back(Since(start));
    }
    return false;
  }

  const BenchOptions& options_;
  httplib::Client client_;
};

bool IsHttp(const std::string& address) { return address.starts_with("http://"); }

// A thread for each client.
void RunHttpLoad(const BenchOptions& o, BenchTally* tally,
                 const std::function<void(int done)>& on_progress, const std::atomic<bool>& stop) {
  std::atomic<int> next{0};
  std::mutex mutex;  // guards tally
  const auto work = [&] {
    HttpClient client(o, o.address);
    for (int i; !stop.load() && (i = next.fetch_add(1)) < o.requests;) {
      const auto figures = client.Run(BenchPrompt(o, i), i);
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
  if (address.starts_with("https://"))
    return error("--address: https is not supported; put a plain http address");
  if (clients < 1 || clients > 4096) return error("--clients: ", clients, "; 1 to 4096");
  if (requests < 1) return error("--requests: ", requests, "; at least 1");
  if (prompt_words < 1 || prompt_words > 1'000'000)
    return error("--prompt-words: ", prompt_words, "; 1 to 1000000");
  if (max_tokens < 1) return error("--max-tokens: ", max_tokens, "; at least 1");
  if (!(temperature >= 0) || temperature > 100)
    return error("--temperature: ", temperature, "; 0 to 100");
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
  const auto& at = figures->arrivals_s;
  if (!at.empty()) first_.push_back(at[0]);
  for (size_t k = 1; k < at.size(); ++k) inter_.push_back(at[k] - at[k - 1]);
  total_.push_back(figures->end_s);
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
  if (IsHttp(o.address)) {
    if (o.model.empty()) {
      TUTTI_ASSIGN_OR_RETURN(o.model, HttpClient(o, o.address).FirstModel());
    }
  } else {
    TUTTI_ASSIGN_OR_RETURN(const int models, CountServableModels(o.address, 5000));
    if (models == 0) return absl::UnavailableError(o.address + ": no model is ready there");
  }

  BenchTally tally;
  const int64_t start = NowUs();
  if (IsHttp(o.address)) {
    RunHttpLoad(o, &tally, on_progress, stop);
  } else {
    TUTTI_RETURN_IF_ERROR(RunGrpcLoad(o, &tally, on_progress, stop));
  }
  return tally.Finish(Since(start));
}

}  // namespace tutti::cli
