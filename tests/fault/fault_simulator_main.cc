// fault_simulator --seeds N --first-seed S [--bug NAME] [--trace]
#include <CLI/CLI.hpp>
#include <cstdio>

#include "tests/fault/sim_cluster.h"

int main(int argc, char** argv) {
  uint64_t seeds = 500, first = 1;
  std::string bug = "none";
  bool trace = false, keep_going = false;
  CLI::App app("Runs whole clusters in one thread on a virtual clock, one per seed, with faults.");
  app.add_option("--seeds", seeds, "how many")->capture_default_str();
  app.add_option("--first-seed", first, "the first one")->capture_default_str();
  app.add_option("--bug", bug,
                 "a mistake put in on purpose: none drop_generated drop_digest skip_position_check "
                 "flip_weight lose_wake")
      ->capture_default_str();
  app.add_flag("--trace", trace, "print what happens");
  app.add_flag("--keep-going", keep_going, "do not end at the first failing seed");
  CLI11_PARSE(app, argc, argv);
  const auto b = tutti::fault::BugFromName(bug);
  if (!b.has_value()) {
    std::fprintf(stderr, "fault_simulator: --bug: no \"%s\"\n", bug.c_str());
    return 2;
  }
  tutti::fault::SimResult sum;
  uint64_t failing = 0;
  for (uint64_t seed = first; seed < first + seeds; ++seed) {
    const auto r = tutti::fault::RunSimulation({seed, trace, *b});
    if (!r.failure.empty()) {
      ++failing;
      std::printf(
          "seed %llu FAILED %s\nreplay: build/bin/fault_simulator --first-seed %llu --seeds 1 "
          "--trace%s%s\n",
          static_cast<unsigned long long>(seed), r.failure.c_str(),
          static_cast<unsigned long long>(seed), bug == "none" ? "" : " --bug ",
          bug == "none" ? "" : bug.c_str());
      if (!keep_going) return 1;
    }
    sum.events += r.events;
    sum.requests += r.requests;
    sum.finished += r.finished;
    sum.cancelled += r.cancelled;
    sum.gone += r.gone;
    sum.kills += r.kills;
    sum.freezes += r.freezes;
    sum.failovers += r.failovers;
    sum.gaps += r.gaps;
    sum.resumes += r.resumes;
    sum.restarts_from_scratch += r.restarts_from_scratch;
    sum.tokens += r.tokens;
    sum.hints += r.hints;
    sum.confirms += r.confirms;
    sum.proposed += r.proposed;
    sum.accepted += r.accepted;
    sum.virtual_us += r.virtual_us;
  }
  std::printf(
      "%llu seeds, %llu failing: %d requests (%d finished, %d cancelled, %d left), %lld tokens, %d "
      "kills, %d freezes, "
      "%d failovers (%d by gaps), %d resumes, %d asked again from scratch, %lld hints, %lld "
      "confirms, "
      "%lld of %lld guesses right, %lld events, %.0f virtual s\n",
      static_cast<unsigned long long>(seeds), static_cast<unsigned long long>(failing),
      sum.requests, sum.finished, sum.cancelled, sum.gone, static_cast<long long>(sum.tokens),
      sum.kills, sum.freezes, sum.failovers, sum.gaps, sum.resumes, sum.restarts_from_scratch,
      static_cast<long long>(sum.hints), static_cast<long long>(sum.confirms),
      static_cast<long long>(sum.accepted), static_cast<long long>(sum.proposed),
      static_cast<long long>(sum.events), static_cast<double>(sum.virtual_us) * 1e-6);
  return failing == 0 ? 0 : 1;
}
