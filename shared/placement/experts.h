// What shards, routers and targets tell each other about experts. An expert's number is
// layer * experts_per_layer + expert id, layers counted over those with experts only.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace tutti::placement {

// What a shard says of one expert.
struct ExpertEntry {
  uint32_t number = 0;
  bool resident = false;
  bool pinned = false;       // by assignment
  bool pinned_here = false;  // by the shard's own --pin
  uint64_t rows = 0;         // since the process started
  uint64_t queue_us = 0, run_us = 0;
};

struct ExpertReport {
  uint32_t num_layers = 0, experts_per_layer = 0;
  int64_t memory_bytes = 0;          // of resident experts
  int64_t memory_budget_bytes = 0;   // 0: no bound
  int64_t expert_bytes = 0;          // of the largest one; 0: not known
  uint64_t assignment_epoch = 0;     // of the newest one that came; 0: none
  uint64_t process = 0;              // drawn when the shard's process started; 0: it does not say
  std::vector<ExpertEntry> entries;  // that it ever held; ascending numbers
};

// What a shard is to hold, as a whole.
struct ExpertAssignment {
  uint64_t epoch = 0;
  std::vector<uint32_t> hold;    // numbers, ascending
  std::vector<uint32_t> pinned;  // those of them that are never let go

  friend bool operator==(const ExpertAssignment&, const ExpertAssignment&) = default;
};

struct ExpertPin {
  uint32_t number = 0;
  std::string worker_id;  // of the shard; "": wherever it is

  friend auto operator<=>(const ExpertPin&, const ExpertPin&) = default;
};

// Which shards are to be asked for which experts.
struct ExpertPlacement {
  uint64_t fingerprint = 0, epoch = 0;
  uint32_t num_layers = 0, experts_per_layer = 0;
  std::vector<std::string> shards;            // addresses
  std::vector<std::vector<uint32_t>> copies;  // [experts] indices of `shards`; may be empty
  std::vector<ExpertPin> pins;
  int32_t moving = 0;  // experts with a copy that is being loaded
};

}  // namespace tutti::placement
