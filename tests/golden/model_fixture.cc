#include "tests/golden/model_fixture.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>

#include <nlohmann/json.hpp>

#include "shared/testing/model_writer.h"
#include "shared/weights/model_files.h"

namespace tutti::golden {
namespace {

// TUTTI_GOLDEN_MODELS may name a folder with the same sets and more arrays than the repository
// keeps.
std::string Root() {
  const char* dir = std::getenv("TUTTI_GOLDEN_MODELS");
  return dir != nullptr ? dir : TUTTI_SOURCE_DIR "/tests/data/models";
}

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// The set's own config beside the weights of `source` rounded to bf16.
std::string WriteBf16(const std::string& golden_dir, const std::string& source) {
  static auto* dirs = new std::map<std::string, std::unique_ptr<testing::TempDir>>;
  std::unique_ptr<testing::TempDir>& dir = (*dirs)[golden_dir];
  if (dir != nullptr) return dir->path();
  dir = std::make_unique<testing::TempDir>();
  const auto files = weights::ModelFiles::Open(source);
  EXPECT_TRUE(files.ok()) << files.status();
  testing::SafetensorsWriter writer;
  for (const weights::TensorInfo& t : (*files)->tensors()) {
    std::vector<float> values(static_cast<size_t>(t.NumElements()));
    std::memcpy(values.data(), t.data.data(), t.data.size());
    writer.Tensor(t.name, t.shape, values, DType::kBF16);
  }
  dir->Write("model.safetensors", writer.Image());
  dir->Write("config.json", ReadFile(golden_dir + "/config.json"));
  return dir->path();
}

}  // namespace

std::vector<std::string> GoldenNames() {
  return {"llama_gqa",    "llama_gqa_bf16",   "llama_tied_sharded",
          "llama3_rope",  "mistral_sliding",  "qwen2_bias",
          "qwen3_qknorm", "gemma2",           "gemma3_text",
          "phi3",         "gpt2_prenorm",     "openai_gpt_postnorm",
          "mixtral_8x2",  "qwen2_moe_shared", "qwen3_moe",
          "olmoe",        "deepseek_v2_lite", "deepseek_v3"};
}

GoldenModel LoadGolden(const std::string& name) {
  GoldenModel golden;
  golden.name = name;
  golden.golden_dir = golden.model_dir = Root() + "/" + name;
  if (name == "llama_gqa_bf16")
    golden.model_dir = WriteBf16(golden.golden_dir, Root() + "/llama_gqa");
  const auto json =
      nlohmann::json::parse(ReadFile(golden.golden_dir + "/golden.json"), nullptr, false);
  EXPECT_TRUE(json.is_object()) << golden.golden_dir;
  for (const auto& p : json["prompts"]) {
    GoldenPrompt prompt;
    prompt.ids = p["ids"].get<std::vector<int32_t>>();
    prompt.greedy = p["greedy"].get<std::vector<int32_t>>();
    prompt.has_loss = p["loss"].is_number();
    if (prompt.has_loss) prompt.loss = p["loss"].get<double>();
    prompt.has_aux_loss = p.contains("aux_loss") && p["aux_loss"].is_number();
    if (prompt.has_aux_loss) prompt.aux_loss = p["aux_loss"].get<double>();
    golden.prompts.push_back(std::move(prompt));
  }
  return golden;
}

std::unique_ptr<model::Transformer> LoadOrDie(const std::string& path, DType kv_dtype,
                                              ThreadPool* pool) {
  auto model = model::LoadTransformer(path, {.kv_dtype = kv_dtype, .pool = pool});
  if (!model.ok()) {
    ADD_FAILURE() << model.status();
    std::abort();
  }
  return *std::move(model);
}

std::vector<float> ChunkedLogits(model::DecoderModel& model, const std::vector<int32_t>& ids,
                                 int32_t chunk) {
  auto logits = model::PromptLogits(&model, ids, chunk);
  EXPECT_TRUE(logits.ok()) << logits.status();
  return logits.ok() ? *std::move(logits) : std::vector<float>();
}

std::vector<int32_t> Greedy(model::DecoderModel& model, const std::vector<int32_t>& prompt,
                            int num_tokens) {
  const auto sequence =
      model::SingleSequence::Create(&model, static_cast<int64_t>(prompt.size()) + num_tokens);
  EXPECT_TRUE(sequence.ok()) << sequence.status();
  std::vector<int32_t> out, next = prompt;
  while (static_cast<int>(out.size()) < num_tokens) {
    const auto logits = (*sequence)->Append(next, 1);
    EXPECT_TRUE(logits.ok()) << logits.status();
    if (!logits.ok()) break;
    out.push_back(static_cast<int32_t>(
        kernels::Kernels().argmax(logits->data(), static_cast<int64_t>(logits->size()))));
    next = {out.back()};
  }
  return out;
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

double MaxAbsDiff(std::span<const float> a, std::span<const float> b) {
  if (a.size() != b.size()) return INFINITY;
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double diff = std::fabs(static_cast<double>(a[i]) - b[i]);
    if (!(diff <= worst)) worst = diff;  // a NaN stays
  }
  return worst;
}

}  // namespace tutti::golden
