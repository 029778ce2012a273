// Latent attention beyond what the golden sets hold: as the paper writes it, with keys and values
// of every head and YaRN's factors; in every element type; with experts elsewhere; and what its
// pages take.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>

#include <nlohmann/json.hpp>

#include "shared/model/expert_runner.h"
#include "shared/model/pack.h"
#include "shared/testing/model_writer.h"
#include "shared/weights/model_files.h"
#include "tests/golden/model_fixture.h"
#include "tests/golden/random_deepseek.h"
#include "tests/golden/random_llama.h"
#include "tests/golden/to_gguf.h"

namespace tutti::golden {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using Vec = std::vector<double>;

// --- the paper, in f64, without absorption ---

// The first layer of a DeepSeek folder, which is dense, as arXiv:2405.04434, section 2.1 and
// appendix C write it, and YaRN as the models' own code applies it.
class PaperLayer {
 public:
  explicit PaperLayer(const std::string& folder) : files_(*weights::ModelFiles::Open(folder)) {
    const json& c = files_->config();
    hidden_ = c["hidden_size"], heads_ = c["num_attention_heads"], rank_ = c["kv_lora_rank"];
    nope_ = c["qk_nope_head_dim"], rope_ = c["qk_rope_head_dim"], value_ = c["v_head_dim"];
    scale_ = 1 / std::sqrt(static_cast<double>(nope_ + rope_));
    if (c["rope_scaling"].is_object()) {
      const json& s = c["rope_scaling"];
      const double all = MScale(s["factor"], s["mscale_all_dim"]);
      scale_ *= all * all;
      turn_scale_ = MScale(s["factor"], s["mscale"]) / all;
    }
  }

  // [tokens, hidden] after the layer.
  std::vector<Vec> Run(const std::vector<int32_t>& ids) {
    std::vector<Vec> x, q, k, v, out;
    const Vec table = Tensor("model.embed_tokens.weight");
    for (size_t t = 0; t < ids.size(); ++t) {
      x.emplace_back(table.begin() + ids[t] * hidden_, table.begin() + (ids[t] + 1) * hidden_);
      const Vec in = Norm(x[t], L("input_layernorm"));
      q.push_back(Queries(in, t));
      Keys(in, t, &k.emplace_back(), &v.emplace_back());
    }
    for (size_t t = 0; t < ids.size(); ++t) {
      Vec mixed(static_cast<size_t>(heads_ * value_));
      for (int h = 0; h < heads_; ++h) Attend(h, t, q, k, v, &mixed);
      Vec y = Times(L("self_attn.o_proj"), mixed);
      for (int i = 0; i < hidden_; ++i) y[i] += x[t][i];
      const Vec in = Norm(y, L("post_attention_layernorm"));
      const Vec gate = Times(L("mlp.gate_proj"), in);
      Vec up = Times(L("mlp.up_proj"), in);
      for (size_t i = 0; i < up.size(); ++i) up[i] *= gate[i] / (1 + std::exp(-gate[i]));
      const Vec down = Times(L("mlp.down_proj"), up);
      for (int i = 0; i < hidden_; ++i) y[i] += down[i];
      out.push_back(std::move(y));
    }
    return out;
  }

 private:
  static double MScale(double factor, double m) { return 0.1 * m * std::log(factor) + 1; }
  static std::string L(const std::string& name) { return "model.layers.0." + name + ".weight"; }
  Vec Tensor(const std::string& name) const {
    const weights::TensorInfo* t = files_->Find(name);
    if (t == nullptr) return {};
    std::vector<float> f(static_cast<size_t>(t->NumElements()));
    std::memcpy(f.data(), t->data.data(), t->data.size());
    return {f.begin(), f.end()};
  }
  Vec Times(const std::string& name, const Vec& x) const {
    const Vec w = Tensor(name);
    Vec y(w.size() / x.size());
    for (size_t r = 0; r < y.size(); ++r) {
      for (size_t i = 0; i < x.size(); ++i) y[r] += w[r * x.size() + i] * x[i];
    }
    return y;
  }
  Vec Norm(Vec x, const std::string& name) const {
    double ss = 0;
    for (double v : x) ss += v * v;
    const Vec gain = Tensor(name);
    for (size_t i = 0; i < x.size(); ++i)
      x[i] *= gain[i] / std::sqrt(ss / static_cast<double>(x.size()) + 1e-6);
    return x;
  }
  // The angle of pair i at position t.
  double Angle(int i, size_t t) const {
    const json& c = files_->config();
    const double base = c["rope_theta"], freq = std::pow(base, -2.0 * i / rope_);
    if (!c["rope_scaling"].is_object()) return freq * static_cast<double>(t);
    const json& s = c["rope_scaling"];
    const double original = s["original_max_position_embeddings"], factor = s["factor"];
    const auto dim = [&](double turns) {
      return rope_ * std::log(original / (turns * 2 * M_PI)) / (2 * std::log(base));
    };
    const double low = std::max(std::floor(dim(s["beta_fast"])), 0.0),
                 high = std::min(std::ceil(dim(s["beta_slow"])), rope_ - 1.0);
    const double ramp = std::clamp((i - low) / (high - low), 0.0, 1.0);
    return (freq / factor * ramp + freq * (1 - ramp)) * static_cast<double>(t);
  }
  void Turn(double* x, size_t t) const {
    for (int i = 0; i < rope_ / 2; ++i) {
      const double a = x[2 * i], b = x[2 * i + 1], cos = std::cos(Angle(i, t)) * turn_scale_,
                   sin = std::sin(Angle(i, t)) * turn_scale_;
      x[2 * i] = a * cos - b * sin;
      x[2 * i + 1] = a * sin + b * cos;
    }
  }
  Vec Queries(const Vec& in, size_t t) const {
    Vec q = files_->Find(L("self_attn.q_a_proj")) == nullptr
                ? Times(L("self_attn.q_proj"), in)
                : Times(L("self_attn.q_b_proj"),
                        Norm(Times(L("self_attn.q_a_proj"), in), L("self_attn.q_a_layernorm")));
    for (int h = 0; h < heads_; ++h) Turn(q.data() + h * (nope_ + rope_) + nope_, t);
    return q;
  }
  void Keys(const Vec& in, size_t t, Vec* k, Vec* v) const {
    Vec c = Times(L("self_attn.kv_a_proj_with_mqa"), in);
    Vec turned(c.begin() + rank_, c.end());
    Turn(turned.data(), t);
    c.resize(static_cast<size_t>(rank_));
    const Vec up = Times(L("self_attn.kv_b_proj"), Norm(c, L("self_attn.kv_a_layernorm")));
    for (int h = 0; h < heads_; ++h) {
      const auto head = up.begin() + h * (nope_ + value_);
      k->insert(k->end(), head, head + nope_);
      k->insert(k->end(), turned.begin(), turned.end());
      v->insert(v->end(), head + nope_, head + nope_ + value_);
    }
  }
  void Attend(int h, size_t t, const std::vector<Vec>& q, const std::vector<Vec>& k,
              const std::vector<Vec>& v, Vec* out) const {
    Vec p;
    double sum = 0;
    const int dim = nope_ + rope_;
    for (size_t s = 0; s <= t; ++s) {
      double dot = 0;
      for (int i = 0; i < dim; ++i) dot += q[t][h * dim + i] * k[s][h * dim + i];
      p.push_back(std::exp(dot * scale_));
      sum += p.back();
    }
    for (size_t s = 0; s <= t; ++s) {
      for (int i = 0; i < value_; ++i) (*out)[h * value_ + i] += p[s] / sum * v[s][h * value_ + i];
    }
  }

  std::shared_ptr<const weights::ModelFiles> files_;
  int hidden_, heads_, rank_, nope_, rope_, value_;
  double scale_, turn_scale_ = 1;
};

// The golden set with another config.json.
std::string WithConfig(const std::string& set, const testing::TempDir& dir,
                       const std::function<void(json&)>& change) {
  const GoldenModel golden = LoadGolden(set);
  json config = json::parse(std::ifstream(golden.model_dir + "/config.json"));
  change(config);
  dir.Write("config.json", config.dump());
  fs::copy_file(golden.model_dir + "/model.safetensors", dir.path() + "/model.safetensors",
                fs::copy_options::overwrite_existing);
  return dir.path();
}

json Yarn() {
  return {{"type", "yarn"},       {"factor", 8.0},    {"original_max_position_embeddings", 64},
          {"beta_fast", 4.0},     {"beta_slow", 0.5}, {"mscale", 0.7},
          {"mscale_all_dim", 1.3}};
}

class LatentPaperTest : public ::testing::TestWithParam<std::tuple<std::string, bool>> {};

TEST_P(LatentPaperTest, TheFirstLayerIsThatOfThePaperWithKeysAndValuesOfEveryHead) {
  const auto& [set, yarn] = GetParam();
  const testing::TempDir dir;
  const std::string path = WithConfig(set, dir, [yarn = yarn](json& c) {
    c["num_hidden_layers"] = 1;
    if (yarn) c["rope_scaling"] = Yarn();
  });
  const auto model = LoadOrDie(path, DType::kF32);
  const GoldenPrompt prompt = LoadGolden(set).prompts.back();  // past the original context
  ASSERT_GT(prompt.ids.size(), 64u);
  const std::vector<Vec> want = PaperLayer(path).Run(prompt.ids);
  std::vector<float> got;
  model->set_observer([&](int layer, std::span<const float> x) {
    if (layer == 1) got.insert(got.end(), x.begin(), x.end());
  });
  ChunkedLogits(*model, prompt.ids, 200);
  const auto hidden = static_cast<size_t>(model->info().hidden_size);
  ASSERT_EQ(got.size(), want.size() * hidden);
  for (size_t i = 0; i < got.size(); ++i) {
    // f32 against f64: as the golden data has it for hidden states.
    const double expected = want[i / hidden][i % hidden];
    ASSERT_NEAR(got[i], expected, 2e-5 + 1e-5 * std::fabs(expected)) << "element " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Sets, LatentPaperTest,
                         ::testing::Combine(::testing::Values("deepseek_v2_lite", "deepseek_v3"),
                                            ::testing::Bool()),
                         [](const auto& info) {
                           return std::get<0>(info.param) +
                                  (std::get<1>(info.param) ? "_yarn" : "");
                         });

// A GGUF file says YaRN's factors in its own way, and only for mscale = mscale_all_dim.
TEST(LatentTest, YarnOfAGgufFileIsThatOfTheFolder) {
  const testing::TempDir dir;
  const std::string path = WithConfig("deepseek_v3", dir, [](json& c) {
    c["rope_scaling"] = Yarn();
    c["rope_scaling"].erase("beta_fast");  // the converter writes neither
    c["rope_scaling"].erase("beta_slow");
    c["rope_scaling"]["mscale"] = 1.3;
  });
  const auto folder = LoadOrDie(path, DType::kF32);
  const auto ids = LoadGolden("deepseek_v3").prompts.back().ids;
  const std::vector<float> want = ChunkedLogits(*folder, ids, 200);
  const auto plain = LoadOrDie(LoadGolden("deepseek_v3").model_dir, DType::kF32);
  EXPECT_GT(MaxAbsDiff(want, ChunkedLogits(*plain, ids, 200)), 0.1);
  for (const bool split : {false, true}) {
    const auto gguf = LoadOrDie(
        dir.Write("model.gguf", ToGguf(path, "deepseek2", DType::kF32, split)), DType::kF32);
    EXPECT_NEAR(gguf->config().attention_scale, folder->config().attention_scale, 1e-7);
    EXPECT_LE(MaxAbsDiff(ChunkedLogits(*gguf, ids, 200), want), 2e-4);
  }
}

// --- element types ---

class LatentTypeTest : public ::testing::TestWithParam<std::tuple<DType, bool>> {};

TEST_P(LatentTypeTest, OnlyTheRoundingOfActivationsTellsItFromTheSameValuesInF32) {
  const auto& [type, split] = GetParam();
  const testing::TempDir dir;
  const std::string path = dir.Write("stored.gguf", RandomDeepseek(type, false, split));
  const auto stored = LoadOrDie(path, DType::kF32);
  const auto widened =
      LoadOrDie(dir.Write("widened.gguf", RandomDeepseek(type, true, split)), DType::kF32);
  std::vector<int32_t> ids;
  for (int i = 0; i < 40; ++i) ids.push_back((i * 37 + 5) % 320);
  // Up to the layer with experts: past it, a choice between two that are nearly equal may differ.
  std::vector<float> first[2];
  std::vector<float> logits[2];
  for (int i = 0; i < 2; ++i) {
    model::Transformer& model = i == 0 ? *stored : *widened;
    model.set_observer([&](int layer, std::span<const float> x) {
      if (layer == 1) first[i].insert(first[i].end(), x.begin(), x.end());
    });
    logits[i] = ChunkedLogits(model, ids, 64);
    model.set_observer({});
  }
  double difference = 0, power = 0;
  for (size_t i = 0; i < first[0].size(); ++i) {
    difference += std::pow(static_cast<double>(first[0][i]) - first[1][i], 2);
    power += std::pow(static_cast<double>(first[1][i]), 2);
  }
  const double relative = std::sqrt(difference / power);
  std::printf("%-5s relative rms difference %.2e\n", std::string(Traits(type).name).c_str(),
              relative);
  if (Traits(type).quantized) {
    EXPECT_LT(relative, 0.03);  // as gguf_models_test.cc derives it
    EXPECT_GT(relative, 1e-4) << "activations were not quantised at all?";
  } else {
    EXPECT_LT(relative, 1e-5);
  }
  // How rows are cut, threads, instruction sets and packing change no bit.
  EXPECT_TRUE(SameBits(logits[0], ChunkedLogits(*stored, ids, 1)));
  EXPECT_TRUE(SameBits(logits[0], ChunkedLogits(*stored, ids, 7)));
  ThreadPool pool({.num_threads = 3});
  const auto threaded = LoadOrDie(path, DType::kF32, &pool);
  for (int i = 0; i < 8; ++i) {  // threads that meet in the same scratch do not do so every time
    EXPECT_TRUE(SameBits(logits[0], ChunkedLogits(*threaded, ids, i == 0 ? 11 : 64)));
  }
  const std::string out = dir.path() + "/packed";
  ASSERT_TRUE(model::PackModel({.source = path, .out = out}).ok());
  const auto packed = LoadOrDie(out, DType::kF32);
  EXPECT_EQ(packed->info().fingerprint, stored->info().fingerprint);
  EXPECT_TRUE(SameBits(logits[0], ChunkedLogits(*packed, ids, 64)));
  for (const std::string_view isa : {"reference", "avx2", "avx512", "amx", "neon", "auto"}) {
    if (!kernels::SelectIsa(isa).ok()) continue;  // not on this machine
    EXPECT_TRUE(SameBits(logits[0], ChunkedLogits(*LoadOrDie(path, DType::kF32), ids, 40))) << isa;
  }
  ASSERT_TRUE(kernels::SelectIsa("auto").ok());
}

INSTANTIATE_TEST_SUITE_P(Types, LatentTypeTest,
                         ::testing::Combine(::testing::ValuesIn(AllTypes()), ::testing::Bool()),
                         [](const auto& info) {
                           return std::string(Traits(std::get<0>(info.param)).name) +
                                  (std::get<1>(info.param) ? "_split" : "");
                         });

// --- pages ---

TEST(LatentTest, APageKeepsTheLatentVectorAndTheTurnedKeyAndNoMore) {
  const std::string path = LoadGolden("deepseek_v3").model_dir;
  // 3 layers, 16 positions, 32 + 8 values.
  EXPECT_EQ(LoadOrDie(path, DType::kF16)->info().kv.PageBytes(), size_t{3 * 16 * 40 * 2});
  EXPECT_EQ(LoadOrDie(path, DType::kF32)->info().kv.PageBytes(), size_t{3 * 16 * 40 * 4});
  // A byte each, and a float for each of two blocks.
  EXPECT_EQ(LoadOrDie(path, DType::kQ8_0)->info().kv.PageBytes(), size_t{3 * 16 * (40 + 2 * 4)});
}

TEST(LatentTest, ACacheOfInt8IsNearThatOfFloats) {
  for (const char* set : {"deepseek_v2_lite", "deepseek_v3"}) {
    const GoldenModel golden = LoadGolden(set);
    const auto ids = golden.prompts.back().ids;
    const auto exact = ChunkedLogits(*LoadOrDie(golden.model_dir, DType::kF32), ids, 200),
               q8 = ChunkedLogits(*LoadOrDie(golden.model_dir, DType::kQ8_0), ids, 200);
    double difference = 0, power = 0;
    for (size_t i = 0; i < exact.size(); ++i) {
      difference += std::pow(static_cast<double>(exact[i]) - q8[i], 2);
      power += std::pow(static_cast<double>(exact[i]), 2);
    }
    EXPECT_LT(std::sqrt(difference / power), 0.05) << set;
  }
}

// --- experts elsewhere ---

// Loads each expert by itself, as a shard does, and runs it.
class Shard final : public moe::ExpertBackend {
 public:
  explicit Shard(const std::string& path)
      : files_(*model::OpenExperts(path, 0)), runner_(files_.experts.activation) {}

  void Start(const moe::ExpertBatch& batch, int, float* out) override {
    layers_.push_back(batch.moe_layer);
    ASSERT_LT(static_cast<size_t>(batch.moe_layer), files_.experts.layers.size());
    const auto layer = files_.experts.layers.at(static_cast<size_t>(batch.moe_layer));
    for (int64_t r = 0; r < batch.num_rows; ++r) {
      for (int32_t p = batch.row_offsets[r]; p < batch.row_offsets[r + 1]; ++p) {
        const auto w = model::LoadExpert(*files_.files, files_.model, layer, batch.expert_ids[p]);
        ASSERT_TRUE(w.ok()) << w.status();
        float* const to = out + p * batch.hidden;
        const model::ExpertJob job{
            .weights = &*w,
            .x = {.f32 = batch.f32 + r * batch.hidden, .q = {}, .cols = batch.hidden},
            .num_rows = 1,
            .out = &to};
        runner_.Run(exec_, {&job, 1});
      }
    }
  }
  absl::Status Wait(int) override { return absl::OkStatus(); }
  const std::vector<int>& layers() const { return layers_; }

 private:
  model::ExpertFiles files_;
  model::Exec exec_{&kernels::Kernels(), nullptr};
  model::ExpertRunner runner_;
  std::vector<int> layers_;
};

TEST(LatentTest, ExpertsElsewhereAreCountedWithoutTheDenseLayersBeforeThem) {
  const std::string path = LoadGolden("deepseek_v2_lite").model_dir;
  const auto experts = model::OpenExperts(path, 0);
  ASSERT_TRUE(experts.ok()) << experts.status();
  EXPECT_THAT(experts->experts.layers, ::testing::ElementsAre(1, 2));
  EXPECT_FALSE(model::LoadExpert(*experts->files, experts->model, 0, 0).ok());
  Shard shard(path);
  const auto remote = model::LoadTransformer(path, {.kv_dtype = DType::kF32, .experts = &shard});
  ASSERT_TRUE(remote.ok()) << remote.status();
  const std::vector<int32_t> ids = {5, 6, 7, 300, 301};
  EXPECT_TRUE(SameBits(ChunkedLogits(**remote, ids, 8),
                       ChunkedLogits(*LoadOrDie(path, DType::kF32), ids, 8)));
  EXPECT_THAT(shard.layers(), ::testing::ElementsAre(0, 1));
}

// --- what a file may say ---

struct Wrong {
  const char* set;
  const char* field;
  json value;
  const char* message;  // beside the field's name
};

TEST(LatentTest, WrongFieldsAreNamed) {
  const std::vector<Wrong> cases = {
      {"deepseek_v3", "kv_lora_rank", 0, "[1, 1024]"},
      {"deepseek_v3", "kv_lora_rank", 1020, "at most 1024"},
      {"deepseek_v3", "kv_lora_rank", 33, "kv_a_proj_with_mqa"},
      {"deepseek_v3", "q_lora_rank", 0, "[1, "},
      {"deepseek_v3", "q_lora_rank", nullptr, "q_proj"},
      {"deepseek_v2_lite", "q_lora_rank", 24, "q_a_proj"},
      {"deepseek_v3", "qk_nope_head_dim", 0, "[1, 1024]"},
      {"deepseek_v3", "qk_rope_head_dim", 0, "[2, 1024]"},
      {"deepseek_v3", "qk_rope_head_dim", 7, "even"},
      {"deepseek_v3", "v_head_dim", 0, "[1, 1024]"},
      {"deepseek_v3", "n_group", 0, "[1, 4096]"},
      {"deepseek_v3", "n_group", 3, "divide n_routed_experts = 16"},
      {"deepseek_v3", "n_group", 16, "best 2"},
      {"deepseek_v3", "topk_group", 5, "[1, n_group = 4]"},
      {"deepseek_v3", "topk_group", 0, "[1, 4096]"},
      {"deepseek_v3", "num_experts_per_tok", 9, "[1, 8]"},
      {"deepseek_v3", "num_experts_per_tok", 0, "[1, 4096]"},
      {"deepseek_v3", "n_routed_experts", 0, "[1, 4096]"},
      {"deepseek_v3", "n_shared_experts", -1, "[0, 1024]"},
      {"deepseek_v3", "routed_scaling_factor", -1, "number in"},
      {"deepseek_v3", "first_k_dense_replace", -1, "[0, 1024]"},
      {"deepseek_v3", "first_k_dense_replace", 0, "layers.0.mlp.gate"},
      {"deepseek_v3", "moe_layer_freq", 0, "[1, 1024]"},
      {"deepseek_v3", "topk_method", "greedy", "noaux_tc"},
      {"deepseek_v3", "scoring_func", "softmax", "sigmoid"},
      {"deepseek_v2_lite", "topk_method", "noaux_tc", "group_limited_greedy"},
      {"deepseek_v2_lite", "scoring_func", "sigmoid", "softmax"},
      {"deepseek_v2_lite", "norm_topk_prob", true, "different things"},
      {"deepseek_v3", "attention_bias", true, "not built"},
  };
  for (const Wrong& wrong : cases) {
    const testing::TempDir dir;
    const auto model = model::LoadDecoder(
        WithConfig(wrong.set, dir, [&](json& c) { c[wrong.field] = wrong.value; }), {});
    const std::string message(model.status().message());
    EXPECT_THAT(message, ::testing::HasSubstr(wrong.message)) << wrong.field;
    // A shape that the tensors contradict is reported with the tensor's name.
    if (message.find("tensor ") != std::string::npos) continue;
    EXPECT_THAT(message, ::testing::HasSubstr(wrong.field));
  }
}

TEST(LatentTest, WrongKeysOfAGgufFileAreNamed) {
  struct Key {
    const char* field;  // of the folder that is converted
    int value;
    const char* key;
    const char* message;
  };
  const std::vector<Key> cases = {
      {"kv_lora_rank", 0, "deepseek2.attention.kv_lora_rank", "[1, 1024]"},
      {"kv_lora_rank", 1020, "deepseek2.attention.kv_lora_rank", "at most 1024"},
      {"qk_nope_head_dim", 0, "deepseek2.attention.key_length", "above rope.dimension_count"},
      {"qk_rope_head_dim", 7, "deepseek2.rope.dimension_count", "even"},
      {"v_head_dim", 0, "deepseek2.attention.value_length", "[1, 1024]"},
      {"n_group", 0, "deepseek2.expert_group_count", "[1, 4096]"},
      {"n_group", 3, "deepseek2.expert_group_count", "divide expert_count = 16"},
      {"topk_group", 5, "deepseek2.expert_group_used_count", "[1, expert_group_count = 4]"},
      {"num_experts_per_tok", 9, "deepseek2.expert_used_count", "[1, 8]"},
      {"n_shared_experts", 2000, "deepseek2.expert_shared_count", "[0, 1024]"},
      {"first_k_dense_replace", 2000, "deepseek2.leading_dense_block_count", "[0, 1024]"},
  };
  for (const Key& wrong : cases) {
    const testing::TempDir dir;
    const std::string folder =
        WithConfig("deepseek_v3", dir, [&](json& c) { c[wrong.field] = wrong.value; });
    const auto model = model::LoadDecoder(dir.Write("m.gguf", ToGguf(folder, "deepseek2")), {});
    const std::string message(model.status().message());
    EXPECT_THAT(message, ::testing::HasSubstr(wrong.key));
    EXPECT_THAT(message, ::testing::HasSubstr(wrong.message)) << wrong.key;
  }
}

TEST(LatentTest, ACacheOfInt8AsksForARankOfWholeBlocks) {
  // Given a model whose rank is no multiple of 32, made from the first dimensions of one that is,
  const testing::TempDir dir;
  const auto files = weights::ModelFiles::Open(LoadGolden("deepseek_v2_lite").model_dir);
  ASSERT_TRUE(files.ok());
  testing::SafetensorsWriter writer;
  for (const weights::TensorInfo& t : (*files)->tensors()) {
    std::vector<float> values(static_cast<size_t>(t.NumElements()));
    std::memcpy(values.data(), t.data.data(), t.data.size());
    std::vector<int64_t> shape = t.shape;
    if (t.name.find("kv_a_layernorm") != std::string::npos) shape = {24};
    if (t.name.find("kv_a_proj") != std::string::npos) shape[0] = 32;
    if (t.name.find("kv_b_proj") != std::string::npos) shape[1] = 24;
    int64_t n = 1;
    for (int64_t d : shape) n *= d;
    values.resize(static_cast<size_t>(n));
    writer.Tensor(t.name, shape, values);
  }
  const std::string path =
      WithConfig("deepseek_v2_lite", dir, [](json& c) { c["kv_lora_rank"] = 24; });
  dir.Write("model.safetensors", writer.Image());
  // then the other caches take it, and int8 says why not.
  EXPECT_EQ(ChunkedLogits(*LoadOrDie(path, DType::kF16), {1, 2, 3}, 3).size(), 3u * 512);
  const auto q8 = model::LoadDecoder(path, {.kv_dtype = DType::kQ8_0});
  EXPECT_TRUE(absl::IsInvalidArgument(q8.status()));
  EXPECT_THAT(std::string(q8.status().message()), ::testing::HasSubstr("kv_lora_rank is 24"));
}

}  // namespace
}  // namespace tutti::golden
