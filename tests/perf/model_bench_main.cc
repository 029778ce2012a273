// Prefill and decode speed of a model in one process, without engine or services.
//
//   model_bench --model FILE|DIR [--threads 2] [--prompt 512] [--generate 128] [--streams 1]
//   [--json]
//   model_bench --model FILE --rows 1,4,8 | --streams 4,8,16 [--depth 0] [--steps 300]
//
// pp: tokens per second of one prompt in chunks; tg: of decoding one token at a time (in `streams`
// sequences side by side). Medians over --repeat runs. Several numbers of --rows or --streams: what
// such a step takes next to one of the first number. The steps are run in turn, so that all meet
// the machine in the same moods, and each is compared with its neighbour in time.
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "kernels/kernels.h"
#include "shared/base/thread_pool.h"
#include "shared/model/load.h"

namespace {

using tutti::kv_cache::kPageTokens;
using tutti::kv_cache::PageId;
using tutti::model::SequenceSlice;

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double Median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v.empty() ? 0 : v[v.size() / 2];
}

// Processor time of this process so far, all threads, in seconds.
double CpuSeconds() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// Peak resident memory of this process in bytes.
double PeakRss() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) * 1024;
}

struct Options {
  std::string model, isa = "auto", kv = "f16";
  int threads = 2, prompt = 512, generate = 128, chunk = 512, repeat = 3, depth = 0, steps = 300;
  std::vector<int> rows = {1}, streams = {1};
  std::vector<std::string> turns;
  int spin_us = 50;
  bool json = false, pin = false;
};

// Two processes take turns, round by round, through two named pipes: what is compared meets the
// machine in the same moods, also when it is two builds.
class Turns {
 public:
  explicit Turns(const std::vector<std::string>& pipes) {
    if (pipes.size() != 2) return;
    // For reading and writing, so that nobody waits for the other to open.
    in_ = std::fopen(pipes[0].c_str(), "r+");
    out_ = std::fopen(pipes[1].c_str(), "r+");
    if (in_ == nullptr || out_ == nullptr) {
      std::fprintf(stderr, "--turns: %s and %s must be named pipes (mkfifo)\n", pipes[0].c_str(),
                   pipes[1].c_str());
      std::exit(1);
    }
  }
  ~Turns() { Pass(); }  // the other need not wait any more
  void Wait() {
    if (in_ != nullptr) std::fgetc(in_);
  }
  void Pass() {
    if (out_ == nullptr) return;
    std::fputc('.', out_);
    std::fflush(out_);
  }

 private:
  std::FILE* in_ = nullptr;
  std::FILE* out_ = nullptr;
};

// step(streams, rows) runs one, always at the same depth. Ratios: the median of those to the step
// of the first numbers just before, and its quartiles.
void CompareSteps(const Options& o, const std::function<void(int, int)>& step) {
  struct Shape {
    int streams, rows;
    std::vector<double> ms, ratios;
  };
  std::vector<Shape> shapes;
  for (const int streams : o.streams) {
    for (const int rows : o.rows) shapes.push_back({streams, rows, {}, {}});
  }
  Turns turns(o.turns);
  for (int i = -10; i < o.steps; ++i) {  // the first ones warm up
    double first = 0;
    turns.Wait();
    for (Shape& shape : shapes) {
      const double start = Now();
      step(shape.streams, shape.rows);
      const double took = 1e3 * (Now() - start);
      if (&shape == &shapes[0]) first = took;
      if (i < 0) continue;
      shape.ms.push_back(took);
      shape.ratios.push_back(took / first);
    }
    turns.Pass();
  }
  for (Shape& shape : shapes) {
    std::sort(shape.ratios.begin(), shape.ratios.end());
    const auto quantile = [&](double q) {
      return shape.ratios[static_cast<size_t>(q * static_cast<double>(shape.ratios.size() - 1))];
    };
    const double ms = Median(shape.ms);
    const double tokens = shape.streams * shape.rows;
    std::printf(o.json ? "{\"streams\": %d, \"rows\": %d, \"ms\": %.3f, \"tok_s\": %.1f, "
                         "\"ratio\": %.3f, \"quartiles\": [%.3f, %.3f]}\n"
                       : "  %3d streams of %3d rows: %7.3f ms, %7.1f tok/s, ratio %.3f (%.3f to "
                         "%.3f)\n",
                shape.streams, shape.rows, ms, 1e3 * tokens / ms, quantile(0.5), quantile(0.25),
                quantile(0.75));
  }
}

}  // namespace

int main(int argc, char** argv) {
  Options o;
  CLI::App app("Prefill and decode speed of a model in one process");
  app.add_option("--model", o.model, "GGUF file, Hugging Face folder or packed directory")
      ->required();
  app.add_option("--threads", o.threads)->check(CLI::Range(1, 256));
  app.add_option("--prompt", o.prompt, "tokens of the prefill; 0: none")
      ->check(CLI::Range(0, 1 << 20));
  app.add_option("--generate", o.generate, "tokens to decode; 0: none")
      ->check(CLI::Range(0, 1 << 20));
  app.add_option("--streams", o.streams, "sequences decoded side by side; several: as --rows")
      ->delimiter(',')
      ->check(CLI::Range(1, 1024));
  app.add_option("--rows", o.rows,
                 "rows of a stream in each step, as when a draft is verified; several: steps of "
                 "each in turn, compared")
      ->delimiter(',')
      ->check(CLI::Range(1, 1024));
  app.add_option("--steps", o.steps, "of each number of --rows or --streams")
      ->check(CLI::Range(1, 1 << 20));
  app.add_option("--chunk", o.chunk, "rows of one prefill step")->check(CLI::Range(1, 1 << 16));
  app.add_option("--turns", o.turns,
                 "IN OUT: named pipes through which two runs with several --rows or --streams take "
                 "turns; the second has them the other way round, and one byte begins")
      ->expected(2);
  app.add_option("--depth", o.depth, "tokens already there when decoding starts")
      ->check(CLI::Range(0, 1 << 20));
  app.add_option("--repeat", o.repeat)->check(CLI::Range(1, 1000));
  app.add_option("--kv", o.kv, "type of the KV cache")
      ->check(CLI::IsMember(tutti::model::KvTypeNames()));
  app.add_option("--isa", o.isa, "auto, reference, avx2, ...");
  app.add_option("--spin_us", o.spin_us, "busy wait of idle threads");
  app.add_flag("--pin", o.pin, "bind threads to cores");
  app.add_flag("--json", o.json);
  CLI11_PARSE(app, argc, argv);
  if (const absl::Status s = tutti::kernels::SelectIsa(o.isa); !s.ok()) {
    std::fprintf(stderr, "%s\n", s.ToString().c_str());
    return 1;
  }

  tutti::ThreadPool threads({.num_threads = o.threads, .spin_us = o.spin_us, .pin = o.pin});
  const double load_start = Now();
  auto loaded = tutti::model::LoadDecoder(
      o.model, {.kv_dtype = *tutti::model::KvTypeFromName(o.kv), .pool = &threads});
  if (!loaded.ok()) {
    std::fprintf(stderr, "%s\n", loaded.status().ToString().c_str());
    return 1;
  }
  const double load_s = Now() - load_start;
  tutti::model::DecoderModel& model = **loaded;
  const int vocab = model.info().vocab_size;

  const int rows = o.rows[0], most_rows = *std::max_element(o.rows.begin(), o.rows.end());
  const int streams = o.streams[0];
  const int most_streams = *std::max_element(o.streams.begin(), o.streams.end());
  const int begin = std::max(1, o.depth);  // position of the first decoded token
  const int num_steps = o.generate / rows;
  const int longest =
      std::max({o.prompt, begin + o.generate, most_streams + most_rows, begin + most_rows}) + 1;
  const int pages_each = (longest + kPageTokens - 1) / kPageTokens;
  tutti::kv_cache::PagePool pool(model.info().kv, pages_each * most_streams);
  std::vector<std::vector<PageId>> pages(most_streams);
  for (auto& own : pages) {
    for (int i = 0; i < pages_each; ++i) own.push_back(*pool.Allocate());
  }
  // Token ids that vary; what they are does not matter for speed.
  std::vector<int32_t> tokens(longest);
  for (int i = 0; i < longest; ++i) tokens[i] = static_cast<int32_t>((i * 7919LL + 13) % vocab);

  tutti::model::StepOutput out;
  const auto forward = [&](std::vector<SequenceSlice>& slices) {
    const absl::Status s = model.Forward(slices, pool, &out);
    if (!s.ok()) {
      std::fprintf(stderr, "%s\n", s.ToString().c_str());
      std::exit(1);
    }
  };
  const auto prefill = [&](int stream, int n) {
    for (int first = 0; first < n; first += o.chunk) {
      const int rows = std::min(o.chunk, n - first);
      std::vector<SequenceSlice> slices = {{std::span(tokens).subspan(first, rows), first,
                                            pages[stream], first + rows == n ? 1 : 0}};
      forward(slices);
    }
  };

  if (o.rows.size() > 1 || o.streams.size() > 1) {
    for (int s = 0; s < most_streams; ++s) prefill(s, begin);
    CompareSteps(o, [&](int num_streams, int num_rows) {
      std::vector<SequenceSlice> slices;
      for (int s = 0; s < num_streams; ++s)
        slices.push_back({std::span(tokens).subspan(s, num_rows), begin, pages[s], num_rows});
      forward(slices);
    });
    return 0;
  }

  std::vector<double> pp, tg, pp_cpu, tg_cpu;  // per second, and per second of one processor
  for (int run = 0; run < o.repeat; ++run) {
    if (o.prompt > 0) {
      const double start = Now(), cpu = CpuSeconds();
      prefill(0, o.prompt);
      pp.push_back(o.prompt / (Now() - start));
      pp_cpu.push_back(o.prompt / (CpuSeconds() - cpu));
    }
    if (o.generate > 0) {
      for (int s = 0; s < streams; ++s) prefill(s, begin);
      std::vector<SequenceSlice> slices(streams);
      const double start = Now(), cpu = CpuSeconds();
      for (int i = 0; i < num_steps; ++i) {
        for (int s = 0; s < streams; ++s) {
          const int from = (i * rows + s) % (longest - rows + 1);
          slices[s] = {std::span(tokens).subspan(from, rows), begin + i * rows, pages[s], rows};
        }
        forward(slices);
      }
      const int num_tokens = num_steps * rows * streams;
      tg.push_back(num_tokens / (Now() - start));
      tg_cpu.push_back(num_tokens / (CpuSeconds() - cpu));
    }
  }
  const std::string isa(tutti::kernels::IsaName(tutti::kernels::Kernels().isa));
  if (o.json) {
    std::printf(
        "{\"pp\": %.2f, \"tg\": %.2f, \"pp_per_cpu_s\": %.2f, \"tg_per_cpu_s\": %.2f, \"load_s\": "
        "%.3f, "
        "\"peak_rss_mb\": %.1f, \"isa\": \"%s\"}\n",
        Median(pp), Median(tg), Median(pp_cpu), Median(tg_cpu), load_s, PeakRss() / 1e6,
        isa.c_str());
    return 0;
  }
  std::printf("%s, %s, %d threads; load %.2f s, peak memory %.0f MB\n", model.info().name.c_str(),
              isa.c_str(), o.threads, load_s, PeakRss() / 1e6);
  // On a machine that is busy with other work, the second figure moves less.
  std::printf("  prefill of %d: %.1f tok/s, %.1f per processor second\n", o.prompt, Median(pp),
              Median(pp_cpu));
  std::printf("  decode of %d x %d: %.1f tok/s, %.1f per processor second\n", o.generate, streams,
              Median(tg), Median(tg_cpu));
  return 0;
}
