// tokenizer_bench [--model FILE|DIR|tokenizer.json] [--seconds S] [kind=FILE ...]
// Speed of one thread in its CPU time, in requests of about 2 KB as clients send them: MB/s and the
// median time of one. Texts: this project's own documents (English) and sources (code), and the
// files given.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "shared/tokenizer/tokenizer.h"

namespace {

using tutti::tokenizer::Tokenizer;

// Time that this thread has run, so that a busy machine does not count.
double Now() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}
double Seconds(double since) { return Now() - since; }

std::string ReadFile(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream s;
  s << in.rdbuf();
  return s.str();
}

std::string ReadAll(const std::filesystem::path& folder,
                    const std::vector<std::string>& extensions) {
  std::vector<std::filesystem::path> paths;
  if (!std::filesystem::is_directory(folder)) return {};
  for (const auto& e : std::filesystem::recursive_directory_iterator(folder)) {
    if (e.is_regular_file() &&
        std::find(extensions.begin(), extensions.end(), e.path().extension()) != extensions.end()) {
      paths.push_back(e.path());
    }
  }
  std::sort(paths.begin(), paths.end());
  std::string out;
  for (const auto& p : paths) out += ReadFile(p);
  return out;
}

// About 2 KB each, never through a character.
std::vector<std::string> Requests(const std::string& text) {
  std::vector<std::string> out;
  for (size_t at = 0; at < text.size();) {
    size_t end = std::min(at + 2048, text.size());
    while (end < text.size() && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) ++end;
    out.push_back(text.substr(at, end - at));
    at = end;
  }
  return out;
}

// The median over passes, in bytes per second.
double Throughput(const Tokenizer& t, const std::vector<std::string>& requests, double seconds) {
  size_t bytes = 0;
  for (const auto& r : requests) bytes += r.size();
  std::vector<double> passes;
  const double start = Now();
  do {
    const double pass = Now();
    for (const auto& r : requests) {
      if (t.Encode(r, {}).empty() && !r.empty()) std::abort();
    }
    passes.push_back(Seconds(pass));
  } while (Seconds(start) < seconds);
  std::nth_element(passes.begin(), passes.begin() + passes.size() / 2, passes.end());
  return static_cast<double>(bytes) / passes[passes.size() / 2];
}

int RunRequests(const Tokenizer& t, double load_seconds,
                const std::vector<std::pair<std::string, std::string>>& files, double seconds) {
  nlohmann::json out = {{"load_ms", load_seconds * 1e3}};
  for (const auto& [kind, text] : files) {
    const auto list = nlohmann::json::parse(text, nullptr, false);
    if (!list.is_array()) {
      std::fprintf(stderr, "%s: a JSON list of texts expected\n", kind.c_str());
      return 2;
    }
    std::vector<std::string> requests;
    for (const auto& r : list) requests.push_back(r.is_string() ? r.get<std::string>() : "");
    out[kind] = Throughput(t, requests, seconds) / 1e6;
  }
  std::printf("%s\n", out.dump().c_str());
  return 0;
}

void Measure(const Tokenizer& t, const std::string& kind, const std::vector<std::string>& requests,
             double seconds) {
  size_t bytes = 0, tokens = 0;
  for (const auto& r : requests) bytes += r.size();
  for (const auto& r : requests) tokens += t.Encode(r, {}).size();
  std::vector<double> passes, times;
  const auto start = Now();
  do {
    const auto pass = Now();
    for (const auto& r : requests) {
      const auto one = Now();
      if (t.Encode(r, {}).empty() && !r.empty()) std::abort();
      if (times.size() < 1000000) times.push_back(Seconds(one));
    }
    passes.push_back(Seconds(pass));
  } while (Seconds(start) < seconds);
  std::nth_element(passes.begin(), passes.begin() + passes.size() / 2, passes.end());
  std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
  std::printf("%-22s %9.3f MB  %6.2f bytes/token  %7.1f MB/s  p50 of a request %9.1f us\n",
              kind.c_str(), bytes / 1e6, static_cast<double>(bytes) / tokens,
              bytes / 1e6 / passes[passes.size() / 2], times[times.size() / 2] * 1e6);
}

}  // namespace

int main(int argc, char** argv) {
  const std::filesystem::path source = TUTTI_SOURCE_DIR;
  std::string model = (source / "models/SmolLM2-135M-Instruct.Q4_1.gguf").string();
  double seconds = 1;
  bool requests_only = false;
  std::vector<std::pair<std::string, std::string>> texts = {
      {"english", ReadAll(source / "docs", {".md"}) + ReadFile(source / "README.md")},
      {"code", ReadAll(source / "shared", {".cc", ".h"})},
      {"chinese", ReadFile(source / "tests/data/tokenizers/chinese.txt")},
  };
  for (int i = 1; i < argc; ++i) {
    const char* equals = std::strchr(argv[i], '=');
    if (std::strcmp(argv[i], "--model") == 0 && i + 1 < argc) {
      model = argv[++i];
    } else if (std::strcmp(argv[i], "--seconds") == 0 && i + 1 < argc) {
      seconds = std::atof(argv[++i]);
    } else if (std::strcmp(argv[i], "--requests") == 0) {
      requests_only = true;
      texts.clear();
    } else if (equals != nullptr && argv[i][0] != '-') {
      const std::string kind(static_cast<const char*>(argv[i]), equals);
      texts.erase(std::remove_if(texts.begin(), texts.end(),
                                 [&](const auto& t) { return t.first == kind; }),
                  texts.end());
      texts.emplace_back(kind, ReadFile(equals + 1));
    } else {
      std::fprintf(stderr,
                   "usage: %s [--model FILE|DIR|tokenizer.json] [--seconds S] [kind=FILE ...]\n",
                   argv[0]);
      return 2;
    }
  }
  const auto start = Now();
  const auto t = tutti::tokenizer::LoadTokenizer(model);
  if (!t.ok()) {
    std::fprintf(stderr, "%s\n", t.status().ToString().c_str());
    return 1;
  }
  if (requests_only) return RunRequests(**t, Seconds(start), texts, seconds);
  std::printf("%s: loaded in %.1f ms, %d tokens\n", model.c_str(), Seconds(start) * 1e3,
              (*t)->vocab_size());
  std::string mixed;
  for (const auto& [kind, text] : texts) {
    if (text.empty()) continue;
    Measure(**t, kind, Requests(text), seconds);
    mixed += text.substr(0, 200000);
  }
  std::vector<std::string> shuffled = Requests(mixed);
  for (size_t i = 0; i < shuffled.size(); ++i)
    std::swap(shuffled[i], shuffled[(i * 7919 + 13) % shuffled.size()]);
  Measure(**t, "mixed", shuffled, seconds);
  // One word without end each: time has to stay in proportion.
  std::string han;
  for (int i = 0; i < 333333; ++i) han += "中";
  Measure(**t, "1 MB of a", {std::string(1000000, 'a')}, seconds);
  Measure(**t, "1 MB of spaces", {std::string(1000000, ' ')}, seconds);
  Measure(**t, "1 MB of one Han", {han}, seconds);
  return 0;
}
