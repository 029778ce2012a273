// A model in this process: no services, the same tokens.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "shared/base/status.h"
#include "shared/base/thread_pool.h"
#include "shared/model/decoder_model.h"
#include "shared/tokenizer/text_model.h"
#include "tools/cli/generation.h"

namespace CLI {
class App;
}

namespace tutti::cli {

struct LocalModelOptions {
  std::string model;
  std::string kv = "f16";    // "f16", "f32" or "q8"; changes the answer (and the fingerprint)
  int ffn_slices = 0;        // cuts a dense model's FFN; changes the answer, too
  int threads = 0;           // 0: the machine's cores
  std::string isa = "auto";  // instruction set
  int prefill_chunk_tokens = 256;
  std::string draft = "none";  // or "ngram"
};

// --kv, --ffn-slices, --threads, --cpu and --prefill-chunk.
void AddLocalModelFlags(CLI::App* app, LocalModelOptions* options);

// --draft, for commands that generate.
void AddDraftFlag(CLI::App* app, LocalModelOptions* options);

struct LocalModel {
  std::unique_ptr<ThreadPool> pool;
  std::unique_ptr<model::DecoderModel> decoder;
  absl::StatusOr<tokenizer::TextModel> text;  // not OK: the files have no usable tokenizer
};

// Loads with a progress bar. Errors: INVALID_ARGUMENT names the flag or the file's field.
absl::StatusOr<std::unique_ptr<LocalModel>> LoadLocalModel(const LocalModelOptions& options);

// Prompt token ids of a text, ids or chat prompt. Errors: INVALID_ARGUMENT; FAILED_PRECONDITION the
// model has no tokenizer or no chat template
absl::StatusOr<std::vector<int32_t>> EncodePrompt(const LocalModel& model,
                                                  const router::RequestSpec& spec);

// Takes over the model.
absl::StatusOr<std::unique_ptr<Generator>> MakeLocalGenerator(std::unique_ptr<LocalModel> model,
                                                              const LocalModelOptions& options);

// Log-probabilities and logits of a whole sequence, position by position, in bounded memory: `rows`
// is called with consecutive rows [n, vocab] of logits that start at position `first`.
absl::Status ForEachLogits(
    LocalModel& model, const std::vector<int32_t>& ids, int first_wanted,
    const std::function<absl::Status(int first, int n, const float* rows)>& on_rows);

}  // namespace tutti::cli
