#include "tools/cli/local_model.h"

#include <sys/random.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <future>

#include "absl/strings/str_cat.h"
#include "kernels/kernels.h"
#include "shared/base/cores.h"
#include "shared/base/json_text.h"
#include "shared/engine/engine.h"
#include "shared/model/load.h"
#include "shared/router/output_text.h"
#include "shared/router/validate.h"
#include "shared/sampling/ranges.h"
#include "shared/weights/inspect.h"
#include "tools/cli/terminal.h"

namespace tutti::cli {
namespace {

using nlohmann::ordered_json;

absl::StatusOr<ordered_json> ParseField(const char* field, const std::string& text, bool array) {
  if (text.empty()) return array ? ordered_json(nullptr) : ordered_json::object();
  auto parsed = ParseJsonText(text);
  if (!parsed.ok()) return Annotate(parsed.status(), field);
  ordered_json j = *std::move(parsed);
  if (array ? !j.is_array() : !j.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat(field, ": must be a JSON ", array ? "array" : "object"));
  }
  return j;
}

absl::StatusOr<tokenizer::TextModel::Rendered> RenderChat(const tokenizer::TextModel& text,
                                                          const router::ChatPrompt& chat,
                                                          bool parse_special) {
  if (!text.chat_template.has_value() && text.template_status.ok()) {
    return absl::FailedPreconditionError("the model has no chat template; give a plain prompt");
  }
  tokenizer::TemplateInput input;
  TUTTI_ASSIGN_OR_RETURN(input.messages, ParseField("messages", chat.messages_json, true));
  TUTTI_ASSIGN_OR_RETURN(input.tools, ParseField("tools", chat.tools_json, true));
  TUTTI_ASSIGN_OR_RETURN(input.variables, ParseField("variables", chat.variables_json, false));
  input.add_generation_prompt = chat.add_generation_prompt;
  input.continue_final_message = chat.continue_final_message;
  input.now_unix_s = UnixSeconds();
  return text.RenderChat(std::move(input), parse_special);
}

store::FinishReason ToStore(engine::FinishReason r) {
  switch (r) {
    case engine::FinishReason::kEos:
      return store::FinishReason::kEos;
    case engine::FinishReason::kStopId:
      return store::FinishReason::kStop;
    case engine::FinishReason::kLength:
      return store::FinishReason::kLength;
    case engine::FinishReason::kCancelled:
      return store::FinishReason::kCancelled;
    case engine::FinishReason::kDeadline:
      return store::FinishReason::kDeadline;
    case engine::FinishReason::kError:
      return store::FinishReason::kError;
    case engine::FinishReason::kNone:
      break;
  }
  return store::FinishReason::kNone;
}

store::Token ToStore(const engine::TokenOutput& t, bool with_logprob) {
  store::Token out;
  out.id = t.token_id;
  out.digest = t.digest;
  if (with_logprob) {
    out.logprob = t.logprob;
    for (const auto& top : t.top) out.top.push_back({top.token_id, top.logprob});
  }
  return out;
}

class LocalGenerator : public Generator {
 public:
  LocalGenerator(std::unique_ptr<LocalModel> model, std::unique_ptr<engine::Engine> engine)
      : model_(std::move(model)), engine_(std::move(engine)) {}

  absl::StatusOr<GenerateResult> Generate(const router::RequestSpec& given,
                                          const std::function<void(std::string_view)>& on_text,
                                          const std::atomic<bool>* stop) override {
    const int64_t start = NowUs();
    router::RequestSpec spec = given;
    TUTTI_RETURN_IF_ERROR(router::ValidateRequest(&spec, {}));
    if (spec.n != 1) return absl::InvalidArgumentError("n: one choice at a time here");
    GenerateResult result;
    TUTTI_ASSIGN_OR_RETURN(result.prompt_ids, EncodePrompt(*model_, spec));
    const model::ModelInfo& info = model_->decoder->info();
    router::ModelInfo limits;
    limits.vocab_size = info.vocab_size;
    limits.context_tokens = info.context_tokens;
    TUTTI_RETURN_IF_ERROR(router::ValidateForModel(&spec, result.prompt_ids, limits));
    if (!spec.has_seed && ::getrandom(&spec.sampling.seed, sizeof(spec.sampling.seed), 0) !=
                              sizeof(spec.sampling.seed)) {
      return absl::UnavailableError("no random seed from the system; give --seed");
    }
    if (!spec.has_seed) spec.sampling.seed &= sampling::kDrawnSeedMask;
    result.seed = spec.sampling.seed;
    result.fingerprint = info.fingerprint;
    result.model = info.name;

    engine::SequenceRequest request;
    request.id = ++last_id_;
    request.prompt = result.prompt_ids;
    request.params = spec.sampling;
    request.params.sample_index = static_cast<uint32_t>(spec.first_choice);
    TUTTI_RETURN_IF_ERROR(engine_->Submit(std::move(request), NowUs()));
    TUTTI_RETURN_IF_ERROR(Drive(spec, on_text, stop, start, &result));
    result.total_us = NowUs() - start;
    return result;
  }

 private:
  absl::Status Drive(const router::RequestSpec& spec,
                     const std::function<void(std::string_view)>& on_text,
                     const std::atomic<bool>* stop, int64_t start, GenerateResult* result) {
    std::optional<router::OutputText> text;
    if (model_->text.ok()) {
      text.emplace(model_->text->tokenizer->decoder(),
                   router::TextOptions{spec.skip_special, spec.stop, spec.include_stop,
                                       spec.sampling.min_tokens});
    }
    const auto emit = [&](const std::string& piece) {
      result->text += piece;
      if (on_text && !piece.empty()) on_text(piece);
    };
    const auto& stop_ids = spec.sampling.stop_ids;
    while (result->finish == store::FinishReason::kNone) {
      if (stop != nullptr && stop->load()) {
        engine_->Cancel(last_id_);
        engine_->Step(NowUs());  // frees its pages
        result->finish = store::FinishReason::kCancelled;
        result->usage = ToUsage({}, *result);
        break;
      }
      for (engine::SequenceOutput& out : engine_->Step(NowUs())) {
        if (out.id != last_id_) continue;
        for (const auto& t : out.prompt_tokens) result->prompt_tokens.push_back(ToStore(t, true));
        for (const auto& t : out.tokens) {
          if (result->tokens.empty()) result->first_token_us = NowUs() - start;
          result->tokens.push_back(ToStore(t, spec.sampling.logprobs >= 0));
          result->digest = t.digest;
          if (!text.has_value()) continue;
          const bool hidden =
              std::find(stop_ids.begin(), stop_ids.end(), t.token_id) != stop_ids.end();
          auto piece = text->Push(t.token_id, hidden);
          emit(piece.text);
          if (piece.matched < 0) continue;
          // What the engine made beyond the stop does not count.
          result->finish = store::FinishReason::kStop;
          result->matched_stop = text->stop(piece.matched);
          result->usage = ToUsage(out.usage, *result);
          engine_->Cancel(last_id_);
          engine_->Step(NowUs());
          return absl::OkStatus();
        }
        if (out.finish == engine::FinishReason::kNone) continue;
        if (out.finish == engine::FinishReason::kError) return out.status;
        result->finish = ToStore(out.finish);
        result->usage = ToUsage(out.usage, *result);
        if (!out.beams.empty()) result->digest = out.digest;
        for (auto& b : out.beams) {
          store::Beam beam{std::move(b.token_ids), b.score, ""};
          if (model_->text.ok())
            beam.text =
                model_->text->tokenizer->decoder()->Decode(beam.token_ids, spec.skip_special);
          result->beams.push_back(std::move(beam));
        }
      }
      if (!engine_->HasWork() && result->finish == store::FinishReason::kNone) {
        return absl::InternalError("the engine ended without a reason");
      }
    }
    if (text.has_value()) {
      auto piece = text->Flush();
      emit(piece.text);
      if (piece.matched >= 0 && result->finish != store::FinishReason::kCancelled) {
        result->finish = store::FinishReason::kStop;
        result->matched_stop = text->stop(piece.matched);
      }
    }
    if (!result->beams.empty()) emit(result->beams[0].text);
    return absl::OkStatus();
  }

  static store::Usage ToUsage(const engine::Usage& u, const GenerateResult& r) {
    store::Usage out;
    out.prompt_tokens = static_cast<int32_t>(r.prompt_ids.size());
    out.output_tokens = r.tokens.empty() ? u.output_tokens : static_cast<int32_t>(r.tokens.size());
    out.cached_tokens = u.cached_tokens;
    out.preemptions = u.preemptions;
    out.queue_us = u.queue_us;
    out.prefill_us = u.prefill_us;
    out.decode_us = u.decode_us;
    out.proposed_tokens = u.proposed_tokens;
    out.accepted_tokens = u.accepted_tokens;
    return out;
  }

  std::unique_ptr<LocalModel> model_;  // outlives the engine
  std::unique_ptr<engine::Engine> engine_;
  engine::SequenceId last_id_ = 0;
};

}  // namespace

void AddLocalModelFlags(CLI::App* app, LocalModelOptions* o) {
  app->add_option("--kv", o->kv, "With --model: type of the KV cache; changes the answer")
      ->check(CLI::IsMember(model::KvTypeNames()))
      ->capture_default_str();
  app->add_option("--ffn-slices", o->ffn_slices,
                  "With --model: cut a dense model's FFN into so many experts, as in a cluster "
                  "started so; changes the answer")
      ->check(CLI::Range(0, 1 << 16))
      ->capture_default_str();
  app->add_option("--threads", o->threads, "With --model: threads; 0: all cores")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  app->add_option(
         "--cpu", o->isa,
         "With --model: instruction set (auto, reference, avx2, avx_vnni, avx512, amx, neon)")
      ->capture_default_str();
  app->add_option("--prefill-chunk", o->prefill_chunk_tokens,
                  "With --model: prompt tokens of one step; 0: all; changes only speed")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
}

void AddDraftFlag(CLI::App* app, LocalModelOptions* o) {
  app->add_option(
         "--draft", o->draft,
         "With --model: ngram guesses tokens that followed the same ones before and checks\n"
         "several in one step; changes only speed")
      ->check(CLI::IsMember({"none", "ngram"}))
      ->capture_default_str();
}

absl::StatusOr<std::unique_ptr<LocalModel>> LoadLocalModel(const LocalModelOptions& o) {
  if (const auto s = kernels::SelectIsa(o.isa); !s.ok()) return Annotate(s, "--cpu");
  auto m = std::make_unique<LocalModel>();
  const int threads = ThreadsOrCores(o.threads);
  m->pool = std::make_unique<ThreadPool>(ThreadPool::Options{.num_threads = threads});
  kernels::SetFloatingPointMode();
  model::LoadOptions load;
  TUTTI_ASSIGN_OR_RETURN(load.kv_dtype, model::KvTypeFromName(o.kv));
  load.ffn_slices = o.ffn_slices;
  load.pool = m->pool.get();
  Progress progress("loading", 1000);
  load.on_progress = [&](size_t done, size_t total) {
    progress.Update(total > 0 ? done * 1000 / total : 0, weights::HumanBytes(total));
  };
  auto text = std::async(std::launch::async, tokenizer::LoadTextModel, o.model);
  auto decoder = model::LoadDecoder(o.model, load);
  m->text = text.get();
  if (!decoder.ok()) return Annotate(decoder.status(), "--model");
  m->decoder = std::move(*decoder);
  return m;
}

absl::StatusOr<std::vector<int32_t>> EncodePrompt(const LocalModel& m,
                                                  const router::RequestSpec& spec) {
  if (const auto* ids = std::get_if<std::vector<int32_t>>(&spec.prompt)) return *ids;
  if (!m.text.ok()) {
    return Annotate(m.text.status(), "the model has no usable tokenizer; give token ids (--ids)");
  }
  const tokenizer::Tokenizer& tokenizer = *m.text->tokenizer;
  if (const auto* chat = std::get_if<router::ChatPrompt>(&spec.prompt)) {
    TUTTI_ASSIGN_OR_RETURN(const auto rendered, RenderChat(*m.text, *chat, spec.parse_special));
    return tokenizer.Encode(
        rendered.text, {.parse_special = true, .add_special = false, .breaks = rendered.breaks});
  }
  return tokenizer.Encode(std::get<std::string>(spec.prompt),
                          {.parse_special = spec.parse_special, .add_special = true});
}

absl::StatusOr<std::unique_ptr<Generator>> MakeLocalGenerator(std::unique_ptr<LocalModel> model,
                                                              const LocalModelOptions& o) {
  engine::EngineOptions options;
  options.prefill_chunk_tokens = o.prefill_chunk_tokens;
  options.max_batch_tokens = std::max(512, o.prefill_chunk_tokens);
  options.clock_us = NowUs;
  options.pool = model->pool.get();
  options.ngram_drafts = o.draft == "ngram";
  TUTTI_ASSIGN_OR_RETURN(auto engine, engine::Engine::Create(model->decoder.get(), options));
  return std::unique_ptr<Generator>(new LocalGenerator(std::move(model), std::move(engine)));
}

absl::Status ForEachLogits(
    LocalModel& m, const std::vector<int32_t>& ids, int first_wanted,
    const std::function<absl::Status(int first, int n, const float* rows)>& on_rows) {
  const model::ModelInfo& info = m.decoder->info();
  const int total = static_cast<int>(ids.size());
  if (total > info.context_tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat(total, " tokens; the model's context has ", info.context_tokens));
  }
  constexpr int kChunk = 128;  // rows of logits in memory
  const int num_pages = (total + kv_cache::kPageTokens - 1) / kv_cache::kPageTokens;
  kv_cache::PagePool pool(info.kv, num_pages);
  std::vector<kv_cache::PageId> pages;
  for (int i = 0; i < num_pages; ++i) {
    TUTTI_ASSIGN_OR_RETURN(const auto page, pool.Allocate());
    pages.push_back(page);
  }
  model::StepOutput out;
  for (int at = 0; at < total; at += kChunk) {
    const int n = std::min(kChunk, total - at);
    model::SequenceSlice slice;
    slice.tokens = std::span(ids).subspan(at, n);
    slice.first_pos = at;
    slice.pages =
        std::span(pages).first((at + n + kv_cache::kPageTokens - 1) / kv_cache::kPageTokens);
    slice.num_logits = std::clamp(at + n - first_wanted, 0, n);
    TUTTI_RETURN_IF_ERROR(m.decoder->Forward({&slice, 1}, pool, &out));
    TUTTI_RETURN_IF_ERROR(out.slice_status[0]);
    if (slice.num_logits > 0)
      TUTTI_RETURN_IF_ERROR(
          on_rows(at + n - slice.num_logits, slice.num_logits, out.logits.data()));
  }
  return absl::OkStatus();
}

}  // namespace tutti::cli
