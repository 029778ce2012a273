#include "tests/golden/exactness_cases.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/str_format.h"
#include "shared/base/philox.h"
#include "shared/testing/model_writer.h"
#include "shared/weights/gguf.h"
#include "shared/weights/gguf_writer.h"
#include "shared/weights/model_files.h"
#include "tests/golden/model_fixture.h"
#include "tests/golden/to_gguf.h"

namespace tutti::golden {

namespace {

constexpr char kRecords[] = TUTTI_SOURCE_DIR "/tests/data/exactness/";

// Small numbers from nowhere but (request, index).
int Draw(uint32_t request, uint32_t index, int low, int high) {
  return low + static_cast<int>(Philox4x32(0xE8AC7, {request, index, 0, 0})[0] %
                                static_cast<uint32_t>(high - low + 1));
}

std::string ReadAll(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// The golden Mixtral as a GGUF file whose metadata asks for these options. It stays until the end
// of the process.
std::string WriteDroppingMixtral(const std::string& name, bool random_second, float capacity) {
  static const testing::TempDir dir;
  const std::string path = dir.path() + "/" + name + ".gguf";
  if (std::filesystem::exists(path)) return path;
  const std::string image = ToGguf(LoadGolden("mixtral_8x2").model_dir, "llama");
  const auto source = weights::ParseGguf(std::as_bytes(std::span(image)), name);
  EXPECT_TRUE(source.ok()) << source.status();
  weights::GgufMetadata metadata;
  for (const weights::GgufValue& v : source->values) metadata.Copy(v.key, v.bytes);
  if (random_second) metadata.SetString("tutti.moe.second_expert", "random");
  if (capacity > 0) metadata.SetF32("tutti.moe.capacity_factor", capacity);
  std::vector<weights::GgufTensor> tensors;
  for (const weights::TensorInfo& t : source->tensors)
    tensors.push_back({t.name, t.shape, t.dtype});
  auto stream = weights::GgufStream::Create(path, metadata, tensors, source->alignment);
  EXPECT_TRUE(stream.ok()) << stream.status();
  for (const weights::TensorInfo& t : source->tensors) EXPECT_TRUE((*stream)->Append(t.data).ok());
  EXPECT_TRUE((*stream)->Finish().ok());
  return path;
}

}  // namespace

ExactModel FindModel(const std::string& name) {
  if (name == "mixtral_second") return {.name = name, .path = WriteDroppingMixtral(name, true, 0)};
  if (name == "mixtral_capacity")
    return {.name = name, .path = WriteDroppingMixtral(name, false, 0.75f)};
  if (name == "mixtral_both") return {.name = name, .path = WriteDroppingMixtral(name, true, 0.5f)};
  if (name != "smollm2") return {.name = name, .path = LoadGolden(name).model_dir};
  const char* env = std::getenv("TUTTI_MODEL");
  std::string path =
      env != nullptr ? env : TUTTI_SOURCE_DIR "/models/SmolLM2-135M-Instruct.Q4_1.gguf";
  if (!std::filesystem::exists(path)) path.clear();
  return {.name = name, .path = path, .real = true};
}

std::vector<engine::SequenceRequest> ExactRequests(const model::ModelInfo& info, bool real) {
  std::vector<engine::SequenceRequest> requests;
  for (uint32_t i = 0; i < 16; ++i) {
    engine::SequenceRequest r{.id = i + 1};
    // Every third has the common beginning; the last tokens are its own.
    if (i % 3 == 0) {
      for (uint32_t t = 0, n = real ? 20 : 40; t < n; ++t)
        r.prompt.push_back(Draw(1000, t, 3, info.vocab_size - 1));
    }
    for (uint32_t t = 0, n = static_cast<uint32_t>(Draw(i, 0, 1, real ? 12 : 50)); t < n; ++t) {
      r.prompt.push_back(Draw(i, 1 + t, 3, info.vocab_size - 1));
    }
    sampling::SamplingParams& p = r.params;
    p.seed = 0x5EEDu + (uint64_t{i} << 40);
    p.sample_index = i % 5;
    p.max_tokens = real ? Draw(i, 90, 4, 8) : Draw(i, 90, 8, 40);
    p.ignore_eos = true;
    p.logprobs = 2;
    switch (i % 8) {
      case 0:
        p.temperature = 0;
        break;
      case 1:
        p.temperature = 1;
        break;
      case 2:
        p.temperature = 0.7f, p.top_k = 40;
        break;
      case 3:
        p.temperature = 1.2f, p.top_p = 0.9f;
        break;
      case 4:
        p.min_p = 0.05f, p.repetition_penalty = 1.3f;
        break;
      case 5:
        p.top_k = 300, p.top_p = 0.95f, p.presence_penalty = 0.5f, p.frequency_penalty = 0.3f;
        break;
      case 6:
        p.typical_p = 0.8f, p.logit_bias = {{7, 3.0f}, {11, -50.0f}};
        break;
      case 7:
        p.temperature = 0, p.no_repeat_ngram_size = 2, p.min_tokens = 3;
        break;
    }
    requests.push_back(std::move(r));
  }
  return requests;
}

Recorded RecordOf(const engine::Outcome& outcome) {
  Recorded r{.tokens = outcome.ids(), .digest = Hex64(outcome.digest)};
  for (const engine::TokenOutput& t : outcome.tokens) {
    r.logprob_bits += absl::StrFormat("%08x", std::bit_cast<uint32_t>(t.logprob));
  }
  return r;
}

std::vector<Recorded> LoadRecorded(const std::string& model) {
  std::ifstream file(kRecords + model + ".json");
  const nlohmann::json json = nlohmann::json::parse(file, nullptr, false);
  std::vector<Recorded> recorded;
  if (!json.is_object()) return recorded;
  for (const auto& r : json["continuations"]) {
    recorded.push_back({.tokens = r["tokens"].get<std::vector<int32_t>>(),
                        .logprob_bits = r["logprob_bits"].get<std::string>(),
                        .digest = r["digest"].get<std::string>()});
  }
  return recorded;
}

void SaveRecorded(const std::string& model, const std::vector<engine::SequenceRequest>& requests,
                  const std::vector<Recorded>& recorded) {
  std::filesystem::create_directories(kRecords);
  std::ofstream file(kRecords + model + ".json");
  file << "{\"note\": \"golden_exactness --rewrite; requests: exactness_cases.cc\", "
          "\"continuations\": [";
  for (size_t i = 0; i < recorded.size(); ++i) {
    const nlohmann::json line = {{"prompt_tokens", requests[i].prompt.size()},
                                 {"tokens", recorded[i].tokens},
                                 {"logprob_bits", recorded[i].logprob_bits},
                                 {"digest", recorded[i].digest}};
    file << (i == 0 ? "\n" : ",\n") << line.dump();
  }
  file << "\n]}\n";
}

std::string WriteFlippedBit(const ExactModel& model, const std::string& dir) {
  const std::string copy = dir + "/" + std::filesystem::path(model.path).filename().string();
  std::filesystem::copy(model.path, copy, std::filesystem::copy_options::recursive);
  const auto files = weights::ModelFiles::Open(copy);
  EXPECT_TRUE(files.ok()) << files.status();
  // The middle of the largest matrix that is not an embedding: an MLP or attention weight.
  const weights::TensorInfo* victim = nullptr;
  for (const weights::TensorInfo& t : (*files)->tensors()) {
    const bool embedding =
        t.name.find("embd") != std::string::npos || t.name.find("emb") != std::string::npos ||
        t.name.find("wte") != std::string::npos || t.name.find("wpe") != std::string::npos;
    if (embedding || t.shape.size() != 2) continue;
    if (victim == nullptr || t.data.size() > victim->data.size()) victim = &t;
  }
  const size_t at = victim->file_offset + victim->data.size() / 2 + 5;
  std::string path = copy;
  if (std::filesystem::is_directory(copy)) path = copy + "/model.safetensors";
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(static_cast<std::streamoff>(at));
  const char byte = static_cast<char>(file.get());
  file.seekp(static_cast<std::streamoff>(at));
  file.put(static_cast<char>(byte ^ 0x10));
  return copy;
}

std::string WriteDenormal(const ExactModel& model, const std::string& dir) {
  const auto files = weights::ModelFiles::Open(model.path);
  EXPECT_TRUE(files.ok()) << files.status();
  testing::SafetensorsWriter writer;
  for (const weights::TensorInfo& t : (*files)->tensors()) {
    std::vector<float> values(static_cast<size_t>(t.NumElements()));
    EXPECT_EQ(t.dtype, DType::kF32);
    std::memcpy(values.data(), t.data.data(), t.data.size());
    if (t.name == "model.embed_tokens.weight") {
      for (float& v : values) v *= 0x1p-133f;
    }
    writer.Tensor(t.name, t.shape, values);
  }
  std::ofstream(dir + "/model.safetensors", std::ios::binary) << writer.Image();
  std::ofstream(dir + "/config.json", std::ios::binary) << ReadAll(model.path + "/config.json");
  return dir;
}

}  // namespace tutti::golden
