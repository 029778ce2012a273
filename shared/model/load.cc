#include "shared/model/load.h"

#include "kernels/kernels.h"
#include "kernels/kv_page.h"
#include "shared/base/hash.h"
#include "shared/model/fingerprint.h"
#include "shared/model/registry.h"
#include "shared/model/skip_layers.h"
#include "shared/model/transformer.h"
#include "shared/moe/drops.h"
#include "shared/telemetry/log.h"
#include "shared/weights/model_files.h"

namespace tutti::model {

uint64_t Fingerprint(uint64_t content_hash, const ModelConfig& config, DType kv_dtype) {
  std::string text = "tutti model\n" + Hex64(content_hash) + "\n" + config.CanonicalText();
  text += "kv=" + std::string(Traits(kv_dtype).name) +
          "\nnumerics=" + std::string(kernels::kNumericsVersion) + "\n";
  return Hash64(text);
}

uint64_t ExpertFingerprint(uint64_t content_hash, const ModelConfig& config) {
  return Hash64("tutti experts\n" + Hex64(Fingerprint(content_hash, config, DType::kF32)));
}

absl::Status CheckPackedFingerprint(const weights::ModelFiles& files, DType kv_dtype,
                                    uint64_t fingerprint) {
  if (files.packed() == nullptr) return absl::OkStatus();
  const std::string kv(Traits(kv_dtype).name);
  const uint64_t stored = files.packed()->manifest().fingerprints.at(kv);
  if (stored == fingerprint) return absl::OkStatus();
  return absl::FailedPreconditionError(std::string(weights::kPackedManifest) + ": fingerprints." +
                                       kv + ": " + Hex64(stored) + ", and this program computes " +
                                       Hex64(fingerprint) +
                                       ": another version packed it; pack the model again");
}

absl::StatusOr<DType> KvTypeFromName(std::string_view name) {
  if (name == "f16") return DType::kF16;
  if (name == "f32") return DType::kF32;
  if (name == "q8") return DType::kQ8_0;
  return absl::InvalidArgumentError("must be f16, f32 or q8, is \"" + std::string(name) + "\"");
}

absl::StatusOr<std::unique_ptr<Transformer>> LoadTransformer(const std::string& path,
                                                             const LoadOptions& options) {
  if (options.kv_dtype != DType::kF16 && options.kv_dtype != DType::kF32 &&
      options.kv_dtype != DType::kQ8_0) {
    return absl::InvalidArgumentError("kv_dtype must be F16, F32 or Q8_0, is " +
                                      std::string(Traits(options.kv_dtype).name));
  }
  kernels::SetFloatingPointMode();
  TUTTI_ASSIGN_OR_RETURN(const auto files, weights::ModelFiles::Open(path));
  const auto in_file = [&](const absl::Status& status) { return Annotate(status, path); };
  auto model = ParseModel(*files);
  if (!model.ok()) return in_file(model.status());
  for (const std::string& note : model->config.notes)
    telemetry::Log(telemetry::Level::kWarning, "model/note", {{"path", path}, {"note", note}});
  // A packed directory knows the model as it is in its files.
  const uint64_t whole = Fingerprint(files->ContentHash(), model->config, options.kv_dtype);
  model->config.ffn_slices = options.ffn_slices;
  if (const auto s = model->config.Validate(); !s.ok()) return in_file(s);
  if (options.kv_dtype == DType::kQ8_0 && model->config.head_dim > kernels::kKvHeadDimMax) {
    return in_file(absl::InvalidArgumentError(
        "head_dim is " + std::to_string(model->config.head_dim) +
        "; a KV cache of q8 takes at most " + std::to_string(kernels::kKvHeadDimMax)));
  }
  if (options.kv_dtype == DType::kQ8_0 && model->config.latent.kv_rank % kernels::kKvBlock != 0) {
    return in_file(absl::InvalidArgumentError(
        "kv_lora_rank is " + std::to_string(model->config.latent.kv_rank) +
        "; a KV cache of q8 takes multiples of " + std::to_string(kernels::kKvBlock)));
  }

  ModelInfo info;
  info.fingerprint = Fingerprint(files->ContentHash(), model->config, options.kv_dtype);
  if (const auto s = CheckPackedFingerprint(*files, options.kv_dtype, whole); !s.ok())
    return in_file(s);
  if (!options.skip_layers.empty()) {
    if (options.experts != nullptr)
      return absl::InvalidArgumentError("skip_layers: not with experts that run elsewhere");
    if (const auto s = SkipLayers(options.skip_layers, &model->config); !s.ok()) return in_file(s);
    info.fingerprint = Fingerprint(files->ContentHash(), model->config, options.kv_dtype);
  }
  auto weights = LoadWeights(*files, *model, options);
  if (!weights.ok()) return in_file(weights.status());

  const ModelConfig& c = model->config;
  info.name = c.name;
  info.architecture = c.architecture;
  info.vocab_size = c.vocab_size;
  info.context_tokens = c.context_tokens;
  info.hidden_size = c.hidden_size;
  info.eos_ids = c.eos_ids;
  info.kv = {.num_layers = c.num_layers,
             .num_kv_heads = c.num_kv_heads,
             .head_dim = c.head_dim,
             .v_head_dim = c.page_value_dim(),
             .dtype = options.kv_dtype,
             .routing_bytes = static_cast<size_t>(c.num_moe_layers()) *
                              (c.gating.num_experts > 0 ? moe::RecordBytes(c.gating) : 0)};
  info.kv_depends_on_seed = c.gating.num_experts > 0 && c.gating.random_second;
  info.weight_bytes = weights->bytes();
  return std::make_unique<Transformer>(std::move(model->config), *std::move(weights),
                                       std::move(info), options.pool, options.experts);
}

absl::StatusOr<std::unique_ptr<DecoderModel>> LoadDecoder(const std::string& path,
                                                          const LoadOptions& options) {
  TUTTI_ASSIGN_OR_RETURN(std::unique_ptr<Transformer> model, LoadTransformer(path, options));
  return model;
}

}  // namespace tutti::model
