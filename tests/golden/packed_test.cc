// Packed directories of every family and element type: the source's bits, fingerprint and text
// model; and one copy of the weights for all processes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "shared/model/pack.h"
#include "shared/testing/model_writer.h"
#include "shared/tokenizer/text_model.h"
#include "shared/weights/inspect.h"
#include "tests/golden/model_fixture.h"
#include "tests/golden/random_llama.h"

namespace tutti::golden {
namespace {

namespace fs = std::filesystem;

// Packs `source` and compares the two models' logits for `ids`, cut in two ways.
void ExpectSameModel(const std::string& source, const std::string& out,
                     const std::vector<int32_t>& ids) {
  ThreadPool pool({.num_threads = 2});
  const auto packed = model::PackModel({.source = source, .out = out, .pool = &pool});
  ASSERT_TRUE(packed.ok()) << packed.status();
  for (const DType kv : {DType::kF16, DType::kF32}) {
    const auto a = LoadOrDie(source, kv), b = LoadOrDie(out, kv, &pool);
    EXPECT_EQ(a->info().fingerprint, b->info().fingerprint);
    EXPECT_EQ(a->info().name, b->info().name);
    EXPECT_EQ(a->info().eos_ids, b->info().eos_ids);
    for (const int32_t chunk : {1, 64})
      EXPECT_TRUE(SameBits(ChunkedLogits(*a, ids, chunk), ChunkedLogits(*b, ids, chunk)));
  }
  EXPECT_TRUE(model::VerifyPackedModel(out, {}).ok());
}

class PackedFamilyTest : public ::testing::TestWithParam<std::string> {};

TEST_P(PackedFamilyTest, HasTheBitsAndTheFingerprintOfItsSource) {
  const GoldenModel golden = LoadGolden(GetParam());
  const testing::TempDir dir;
  ExpectSameModel(golden.model_dir, dir.path() + "/packed", golden.prompts.back().ids);
}

INSTANTIATE_TEST_SUITE_P(Families, PackedFamilyTest, ::testing::ValuesIn(GoldenNames()),
                         [](const auto& info) { return info.param; });

class PackedTypeTest : public ::testing::TestWithParam<DType> {};

TEST_P(PackedTypeTest, HasTheBitsAndTheFingerprintOfItsSource) {
  const testing::TempDir dir;
  ExpectSameModel(dir.Write("stored.gguf", RandomLlama(GetParam(), false)), dir.path() + "/packed",
                  {5, 6, 7, 300, 301, 302, 303, 304, 305});
}

// A packed directory has the FFN's matrices whole; slices are cut out of them.
TEST_P(PackedTypeTest, HasTheSlicesOfItsSource) {
  const testing::TempDir dir;
  const std::string source = dir.Write("stored.gguf", RandomLlama(GetParam(), false)),
                    out = dir.path() + "/packed";
  ASSERT_TRUE(model::PackModel({.source = source, .out = out}).ok());
  for (const int slices : {1, 2}) {
    SCOPED_TRACE(slices);
    const auto a = model::LoadDecoder(source, {.ffn_slices = slices}),
               b = model::LoadDecoder(out, {.ffn_slices = slices});
    ASSERT_TRUE(a.ok() && b.ok()) << a.status() << b.status();
    EXPECT_EQ((*a)->info().fingerprint, (*b)->info().fingerprint);
    const std::vector<int32_t> ids = {5, 6, 7, 300, 301};
    EXPECT_TRUE(SameBits(ChunkedLogits(**a, ids, 64), ChunkedLogits(**b, ids, 64)));
    // What a shard loads.
    const auto x = model::OpenExperts(source, slices), y = model::OpenExperts(out, slices);
    ASSERT_TRUE(x.ok() && y.ok()) << x.status() << y.status();
    EXPECT_EQ(x->experts.fingerprint, y->experts.fingerprint);
    EXPECT_EQ(x->experts.expert_bytes, y->experts.expert_bytes);
    for (int s = 0; s < slices; ++s) {
      const auto p = model::LoadExpert(*x->files, x->model, 1, s),
                 q = model::LoadExpert(*y->files, y->model, 1, s);
      ASSERT_TRUE(p.ok() && q.ok()) << p.status() << q.status();
      size_t bytes = 0;
      for (const auto& [m, n] : {std::pair(&p->gate, &q->gate), std::pair(&p->up, &q->up),
                                 std::pair(&p->down, &q->down)}) {
        ASSERT_EQ(m->weight.bytes(), n->weight.bytes());
        EXPECT_EQ(std::memcmp(m->weight.data().data(), n->weight.data().data(), m->weight.bytes()),
                  0);
        bytes += m->weight.bytes();
      }
      EXPECT_LE(bytes, static_cast<size_t>(x->experts.expert_bytes));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, PackedTypeTest, ::testing::ValuesIn(AllTypes()),
                         [](const auto& info) { return std::string(Traits(info.param).name); });

// Who reads a damaged place says so; a target whose slices are elsewhere does not read them.
TEST(PackedSlicesTest, DamageIsFoundByWhoeverReadsIt) {
  const testing::TempDir dir;
  const std::string out = dir.path() + "/packed";
  const std::string source = dir.Write("m.gguf", RandomLlama(DType::kQ4_1, false));
  ASSERT_TRUE(model::PackModel({.source = source, .out = out}).ok());
  const auto flip = [&](const std::string& tensor) {
    const auto files = weights::PackedFiles::Open(out);
    ASSERT_TRUE(files.ok()) << files.status();
    const size_t at = (*files)->Find(tensor, 0).file_offset;
    ASSERT_GT(at, 0u);
    std::fstream file(out + "/weights.bin", std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(static_cast<std::streamoff>(at));
    const char byte = static_cast<char>(file.get());
    file.seekp(static_cast<std::streamoff>(at));
    file.put(static_cast<char>(byte ^ 1));
  };
  const auto load_expert = [&](int layer) {
    const auto files = model::OpenExperts(out, 2);
    return model::LoadExpert(*files->files, files->model, layer, 0).status();
  };
  struct Nobody final : moe::ExpertBackend {
    void Start(const moe::ExpertBatch&, int, float*) override {}
    absl::Status Wait(int) override { return absl::UnavailableError("nobody"); }
  } elsewhere;
  const auto load_trunk = [&](const std::string& local) {
    return model::LoadDecoder(out, {.ffn_slices = 2, .experts = &elsewhere, .local_experts = local})
        .status();
  };
  flip("blk.1.ffn_up.weight");
  EXPECT_TRUE(load_expert(0).ok());
  EXPECT_TRUE(absl::IsDataLoss(load_expert(1))) << load_expert(1);
  EXPECT_TRUE(load_trunk("").ok()) << load_trunk("");
  EXPECT_TRUE(load_trunk("0/0").ok()) << load_trunk("0/0");
  EXPECT_TRUE(absl::IsDataLoss(load_trunk("1/0"))) << load_trunk("1/0");
  flip("blk.0.ffn_norm.weight");
  EXPECT_TRUE(absl::IsDataLoss(load_trunk(""))) << load_trunk("");
}

TEST(PackedTextTest, TokenizerAndTemplateAreTheSources) {
  const testing::TempDir dir;
  const std::string source = dir.path() + "/hub-model", out = dir.path() + "/packed";
  fs::copy(TUTTI_SOURCE_DIR "/tests/data/models/llama_gqa", source);
  fs::copy_file(TUTTI_SOURCE_DIR "/tests/data/tokenizers/bytelevel_smollm/tokenizer.json",
                source + "/tokenizer.json");
  std::ofstream(source + "/tokenizer_config.json") << R"({"bos_token": "<s>"})";
  std::ofstream(source + "/chat_template.jinja") << "{{ bos_token }}{{ messages[0].content }}";
  ASSERT_TRUE(model::PackModel({.source = source, .out = out}).ok());
  const auto a = tokenizer::LoadTextModel(source), b = tokenizer::LoadTextModel(out);
  ASSERT_TRUE(a.ok() && b.ok()) << b.status();
  EXPECT_EQ(b->name, "hub-model");
  EXPECT_EQ(a->tokenizer->fingerprint(), b->tokenizer->fingerprint());
  EXPECT_EQ((*tokenizer::LoadTokenizer(out))->fingerprint(), a->tokenizer->fingerprint());
  EXPECT_EQ(a->variables, b->variables);
  tokenizer::TemplateInput input;
  input.messages = {{{"role", "user"}, {"content", "hi"}}};
  EXPECT_EQ(*b->Render(input), "<s>hi");
  // What inspect shows of the source, too.
  auto shown = weights::ToJson(weights::Inspect(**weights::ModelFiles::Open(source)));
  auto packed = weights::ToJson(weights::Inspect(**weights::ModelFiles::Open(out)));
  EXPECT_EQ(packed["format"], "packed from safetensors");
  for (const char* key : {"path", "format", "files", "file_bytes"})
    shown.erase(key), packed.erase(key);
  EXPECT_EQ(shown, packed);
  // And a bit that flips in the tokenizer is not served.
  std::fstream file(out + "/source/tokenizer.json");
  file.seekp(100);
  file.put('~');
  file.close();
  EXPECT_TRUE(absl::IsDataLoss(tokenizer::LoadTextModel(out).status()));
  EXPECT_TRUE(absl::IsDataLoss(tokenizer::LoadTokenizer(out).status()));
}

TEST(PackedTextTest, AGgufsTextModelIsTheSources) {
  const char* env = std::getenv("TUTTI_MODEL");
  const std::string source =
      env != nullptr ? env : TUTTI_SOURCE_DIR "/models/SmolLM2-135M-Instruct.Q4_1.gguf";
  if (!fs::exists(source)) GTEST_SKIP() << "no model at " << source;
  const testing::TempDir dir;
  const std::string out = dir.path() + "/packed";
  ASSERT_TRUE(model::PackModel({.source = source, .out = out}).ok());
  const auto a = tokenizer::LoadTextModel(source), b = tokenizer::LoadTextModel(out);
  ASSERT_TRUE(a.ok() && b.ok()) << b.status();
  EXPECT_EQ(a->name, b->name);
  EXPECT_EQ(a->tokenizer->fingerprint(), b->tokenizer->fingerprint());
  EXPECT_EQ(a->variables, b->variables);
  tokenizer::TemplateInput input;
  input.messages = {{{"role", "user"}, {"content", "hi"}}};
  EXPECT_EQ(*a->Render(input), *b->Render(input));
}

// --- memory ---

// Of this process's mappings of files whose name ends so: kilobytes by the kernel's words for them.
std::map<std::string, int64_t> MappedKb(const std::string& ending) {
  std::ifstream smaps("/proc/self/smaps");
  std::map<std::string, int64_t> out;
  bool ours = false;
  for (std::string line; std::getline(smaps, line);) {
    std::istringstream words(line);
    std::string key;
    int64_t kb = 0;
    words >> key;
    if (key.empty() || key.back() != ':') {
      ours = line.ends_with(ending);
    } else if (ours && words >> kb) {
      out[key.substr(0, key.size() - 1)] += kb;
    }
  }
  return out;
}

TEST(PackedMemoryTest, TwoProcessesShareOneCopyOfTheWeights) {
  const testing::TempDir dir;
  const std::string out = dir.path() + "/packed";
  const std::string source = dir.Write("m.gguf", RandomLlama(DType::kF32, false));
  ASSERT_TRUE(model::PackModel({.source = source, .out = out}).ok());
  const std::vector<int32_t> ids = {1, 2, 3};
  // The other process loads for itself, after the fork, and stays until this one has looked.
  int ready[2], quit[2];
  ASSERT_EQ(::pipe(ready) + ::pipe(quit), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::close(quit[1]);
    auto model = model::LoadDecoder(out, {});
    char c = model.ok() && model::PromptLogits(model->get(), ids).ok() ? 'y' : 'n';
    if (::write(ready[1], &c, 1) != 1) ::_exit(1);
    ::_exit(::read(quit[0], &c, 1) == 0 ? 0 : 1);
  }
  ::close(ready[1]);
  ::close(quit[0]);
  char c = 0;
  EXPECT_EQ(::read(ready[0], &c, 1), 1);
  EXPECT_EQ(c, 'y');
  const auto model = LoadOrDie(out, DType::kF16);
  ChunkedLogits(*model, ids, 3);
  auto kb = MappedKb("/packed/weights.bin");
  const auto weights_kb = static_cast<int64_t>(model->info().weight_bytes / 1024);
  // All of it is resident, none of it is ours alone, and half of it is counted to each.
  EXPECT_GE(kb["Rss"], weights_kb);
  EXPECT_EQ(kb["Private_Clean"] + kb["Private_Dirty"], 0);
  EXPECT_NEAR(static_cast<double>(kb["Pss"]), static_cast<double>(kb["Rss"]) / 2,
              0.01 * static_cast<double>(kb["Rss"]));
  ::close(quit[1]);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  // Once it went, the pages are this process's alone: the look can tell the two apart.
  kb = MappedKb("/packed/weights.bin");
  EXPECT_GE(kb["Private_Clean"], weights_kb);
}

}  // namespace
}  // namespace tutti::golden
