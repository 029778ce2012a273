#include "shared/engine/engine.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>

#include "absl/strings/str_format.h"
#include "shared/engine/generation.h"

namespace tutti::engine {

namespace {

// What /proc/meminfo calls available; 1 GiB when it cannot be read.
uint64_t AvailableMemoryBytes() {
  std::ifstream file("/proc/meminfo");
  std::string word;
  while (file >> word) {
    uint64_t kib = 0;
    if (word == "MemAvailable:" && file >> kib) return kib * 1024;
  }
  return uint64_t{1} << 30;
}

int32_t DefaultPages(const model::ModelInfo& info) {
  const uint64_t page_bytes = std::max<uint64_t>(info.kv.PageBytes(), 1);
  const uint64_t two_contexts = 2 * static_cast<uint64_t>(PagesFor(info.context_tokens));
  const uint64_t half_of_memory = AvailableMemoryBytes() / 2 / page_bytes;
  return static_cast<int32_t>(
      std::clamp<uint64_t>(std::min(two_contexts, half_of_memory), 1, 1 << 30));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(model::DecoderModel* model,
                                                       const EngineOptions& options) {
  const auto at_least = [](const char* field, int64_t value, int64_t least) {
    return value >= least ? absl::OkStatus()
                          : absl::InvalidArgumentError(absl::StrFormat(
                                "%s is %d; it must be at least %d", field, value, least));
  };
  TUTTI_RETURN_IF_ERROR(at_least("num_pages", options.num_pages, 0));
  TUTTI_RETURN_IF_ERROR(at_least("max_batch_tokens", options.max_batch_tokens, 1));
  TUTTI_RETURN_IF_ERROR(at_least("prefill_chunk_tokens", options.prefill_chunk_tokens, 0));
  TUTTI_RETURN_IF_ERROR(at_least("max_running", options.max_running, 1));
  TUTTI_RETURN_IF_ERROR(at_least("max_waiting", options.max_waiting, 0));
  TUTTI_RETURN_IF_ERROR(at_least("start_within_us", options.start_within_us, 0));
  TUTTI_RETURN_IF_ERROR(at_least("max_queue_us", options.max_queue_us, 0));
  TUTTI_RETURN_IF_ERROR(at_least("max_draft_tokens", options.max_draft_tokens, 0));
  TUTTI_RETURN_IF_ERROR(at_least("recent_output_tokens", options.recent_output_tokens, 0));
  EngineOptions checked = options;
  if (checked.num_pages == 0) checked.num_pages = DefaultPages(model->info());
  auto engine = std::make_unique<Generation>(model, checked);
  if (engine->store().pool().num_pages() != checked.num_pages) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("num_pages is %d: that much address space cannot be reserved "
                        "(%d bytes a page)",
                        checked.num_pages, model->info().kv.PageBytes()));
  }
  return engine;
}

}  // namespace tutti::engine
