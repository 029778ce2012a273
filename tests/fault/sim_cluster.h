// A whole cluster in one thread: real routers (shared/router), real engines over a toy model, a
// real journal, on a virtual network that delays, loses, doubles and reorders, with processes that
// are killed, frozen and started again.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "shared/engine/engine.h"
#include "shared/router/router.h"
#include "shared/store/journal.h"
#include "shared/testing/toy_model.h"
#include "tests/fault/sim_world.h"

namespace tutti::fault {

// Mistakes put in on purpose, to see that the checks find them.
enum class Bug {
  kNone,
  kDropGenerated,      // a failover forgets what was said
  kDropDigest,         // a failover starts a new digest chain
  kSkipPositionCheck,  // whatever arrives is taken for the next token
  kFlipWeight,         // one target has one wrong bit in its weights
  kLoseWake,           // now and then a client is not told that there is more
};
const char* BugName(Bug bug);
std::optional<Bug> BugFromName(const std::string& name);

struct SimOptions {
  uint64_t seed = 1;
  bool trace = false;
  Bug bug = Bug::kNone;
};

struct SimResult {
  std::string failure;  // "" when every promise was kept
  int64_t events = 0, virtual_us = 0;
  int requests = 0, finished = 0, cancelled = 0, gone = 0;
  int kills = 0, freezes = 0, hangs = 0, failovers = 0, resumes = 0, restarts_from_scratch = 0,
      gaps = 0;
  int64_t tokens = 0;
  // Of drafts: messages, and guesses that targets verified and found right.
  int64_t hints = 0, confirms = 0, proposed = 0, accepted = 0;
};

SimResult RunSimulation(const SimOptions& options);

}  // namespace tutti::fault
