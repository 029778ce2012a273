// Faults planted in the rows of a real shard, under an engine over a real model: they are found
// within a stated number of parts, the shard is quarantined, and what was computed with it is
// dropped.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <map>
#include <thread>

#include "services/expert/expert.h"
#include "shared/engine/engine.h"
#include "shared/model/file_experts.h"
#include "shared/model/load.h"
#include "shared/rpc/clients/expert_client.h"
#include "shared/testing/model_writer.h"

namespace tutti::expert {
namespace {

const std::string kModel = TUTTI_SOURCE_DIR "/tests/data/models/qwen3_moe";

struct Answer {
  std::vector<int32_t> ids;
  uint64_t digest = 0;
  absl::Status status;
  friend bool operator==(const Answer& a, const Answer& b) {
    return a.ids == b.ids && a.digest == b.digest;
  }
};

std::vector<int32_t> Prompt(int salt) {
  std::vector<int32_t> ids;
  for (int i = 0; i < 40; ++i) ids.push_back(2 + (i * 7 + salt * 11) % 50);
  return ids;
}

class Decoder {
 public:
  explicit Decoder(moe::ExpertBackend* experts) {
    auto model = model::LoadDecoder(kModel, {.experts = experts});
    EXPECT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
    auto engine = engine::Engine::Create(model_.get(), {.num_pages = 256});
    EXPECT_TRUE(engine.ok()) << engine.status();
    engine_ = *std::move(engine);
  }
  // Runs requests with these prompts together. `at_token` is called with the tokens so far.
  std::vector<Answer> Ask(const std::vector<int>& salts,
                          const std::function<void(size_t)>& at_token = {}) {
    std::map<uint64_t, Answer> answers;
    const uint64_t first = next_;
    for (const int salt : salts) {
      engine::SequenceRequest r{.id = next_++, .prompt = Prompt(salt)};
      r.params.seed = 5;
      r.params.temperature = 0.8f;
      r.params.max_tokens = 20;
      r.params.ignore_eos = true;
      EXPECT_TRUE(engine_->Submit(r, 0).ok());
    }
    size_t tokens = 0;
    while (engine_->HasWork()) {
      if (at_token) at_token(tokens);
      for (const auto& o : engine_->Step(0)) {
        Answer& a = answers[o.id];
        for (const auto& t : o.tokens) a.ids.push_back(t.token_id);
        tokens += o.tokens.size();
        a.digest = o.digest;
        if (!o.status.ok()) a.status = o.status;
      }
    }
    std::vector<Answer> out;
    for (uint64_t id = first; id < next_; ++id) out.push_back(answers[id]);
    return out;
  }
  engine::EngineStats Stats() const { return engine_->Stats(); }

 private:
  std::unique_ptr<model::DecoderModel> model_;
  std::unique_ptr<engine::Engine> engine_;
  uint64_t next_ = 1;
};

struct FaultTest : public ::testing::TestWithParam<bool> {  // shared memory
  void SetUp() override {
    std::vector<int> salts;
    for (int i = 0; i < 40; ++i) salts.push_back(i);
    right = Decoder(nullptr).Ask(salts);
  }
  // Shard `i` flips a bit of each row that it computes while bad[i].
  void StartShard(int i) {
    ExpertOptions o;
    o.model = kModel;
    o.shared_memory = GetParam();
    o.worker.service.listen = {"unix:" + dir.path() + "/e" + std::to_string(i)};
    o.row_fault = [this, i](int, int, std::span<float> row) {
      if (bad[static_cast<size_t>(i)]) row[1] += 0.25f;
    };
    auto shard = Expert::Start(o);
    ASSERT_TRUE(shard.ok()) << shard.status();
    ASSERT_TRUE((*shard)->worker().WaitReady().ok());
    shards[i] = *std::move(shard);
  }
  // `num_addresses` 0: as many as shards.
  void Connect(int num_shards, uint32_t double_every, bool own = true, int num_addresses = 0) {
    rpc::RpcExpertsOptions o;
    for (int i = 0; i < num_shards; ++i) StartShard(i);
    for (int i = 0; i < std::max(num_shards, num_addresses); ++i) {
      o.addresses.push_back("unix:" + dir.path() + "/e" + std::to_string(i));
    }
    const auto files = model::OpenExperts(kModel, 0);
    ASSERT_TRUE(files.ok()) << files.status();
    o.shape = {.fingerprint = files->experts.fingerprint,
               .hidden = files->experts.hidden,
               .num_layers = files->experts.num_layers,
               .experts_per_layer = files->experts.experts_per_layer,
               .reads_f32 = files->experts.reads_f32};
    o.shared_memory = GetParam();
    o.exchange.double_every = double_every;
    o.exchange.hedge_min_us = 60'000'000;  // a busy machine is not a slow shard
    if (own) {
      const auto file_experts = std::make_shared<model::FileExperts>(*files);
      o.own_experts = [file_experts](const moe::ExpertBatch& b, float* out) {
        return file_experts->Run(b, out);
      };
    }
    auto connected = rpc::RpcExperts::Create(o);
    ASSERT_TRUE(connected.ok()) << connected.status();
    experts = *std::move(connected);
    decoder = std::make_unique<Decoder>(experts.get());
  }
  void ExpectRight(int salt, const Answer& a) {
    EXPECT_TRUE(a.status.ok()) << a.status;
    EXPECT_TRUE(a == right[static_cast<size_t>(salt)]) << "prompt " << salt << " is answered wrong";
  }
  // Asks for all, one after the other.
  void ExpectAllRight() {
    for (int salt = 0; salt < 40; ++salt) ExpectRight(salt, decoder->Ask({salt})[0]);
  }

  std::vector<Answer> right;
  testing::TempDir dir;
  std::array<std::atomic<bool>, 4> bad{};
  std::map<int, std::unique_ptr<Expert>> shards;
  std::unique_ptr<rpc::RpcExperts> experts;
  std::unique_ptr<Decoder> decoder;
};

TEST_P(FaultTest, HealthyShardsAreComparedAtTheStatedRateAndNoneIsQuarantined) {
  Connect(2, 20);
  ExpectAllRight();
  const exchange::ExchangeStats& s = experts->stats();
  EXPECT_GE(s.compared, s.parts / 20 - 2);
  EXPECT_LE(s.compared, s.parts / 20 + 2 * 5 + 2 + s.abandoned);
  EXPECT_GT(s.by_own, 0);
  EXPECT_EQ(s.mismatches, 0);
  EXPECT_TRUE(experts->quarantined().empty());
}

TEST_P(FaultTest, AShardThatIsWrongFromTheStartHarmsNoAnswer) {
  bad[1] = true;
  Connect(2, 1000);
  ExpectAllRight();
  ASSERT_EQ(experts->quarantined().size(), 1u);
  EXPECT_TRUE(experts->quarantined()[0].address.ends_with("e1"));
  EXPECT_EQ(decoder->Stats().distrusted_sequences, 0u) << "it was found before it was used";
}

// Its memory goes bad while it serves: pages in the cache and requests in flight.
TEST_P(FaultTest, AShardThatGoesBadIsFoundAndWhatItMadeIsDropped) {
  constexpr int kEvery = 50;
  for (const int num_shards : {2, 3}) {
    SCOPED_TRACE(num_shards);
    Connect(num_shards, kEvery);
    for (int salt = 0; salt < 8; ++salt) ExpectRight(salt, decoder->Ask({salt})[0]);
    bad[1] = true;
    const int64_t before = experts->stats().parts;
    int salt = 8;
    std::vector<Answer> said;
    while (experts->quarantined().empty()) {
      ASSERT_LT(salt, 40) << "not found";
      for (Answer& a : decoder->Ask({salt, salt + 1, salt + 2})) said.push_back(std::move(a));
      salt += 3;
    }
    bad[1] = false;  // whoever asks it now is told what is right, and it stays out all the same
    // Each comparison has two of the shards: the bad one is in 2 of num_shards. All in flight end a
    // few hundred parts later.
    EXPECT_LE(experts->stats().parts - before, 8 * kEvery + 1000);
    EXPECT_EQ(experts->quarantined().size(), 1u);
    EXPECT_TRUE(experts->quarantined()[0].address.ends_with("e1"));
    EXPECT_GT(decoder->Stats().distrusted_pages, 0u);
    // The requests that were running when it was found are right or say that they are not.
    for (int i = salt - 3; i < salt; ++i) {
      const Answer& a = said[static_cast<size_t>(i - 8)];
      if (a.status.ok()) {
        ExpectRight(i, a);
      } else {
        EXPECT_TRUE(absl::IsDataLoss(a.status)) << a.status;
      }
    }
    // Also prompts that were cached with its rows.
    ExpectAllRight();
    EXPECT_EQ(experts->quarantined().size(), 1u);
    decoder.reset();
    experts.reset();
    shards.clear();
  }
}

// One shard, and the target's own experts.
TEST_P(FaultTest, AShardThatIsAloneIsFoundByTheTargetsOwnExperts) {
  Connect(1, 10, true, 2);
  ExpectRight(0, decoder->Ask({0})[0]);
  bad[0] = true;
  std::atomic<bool> found{false}, done{false};
  std::thread rescue([&] {  // a batch waits for a shard that can be asked
    while (!done && !(found = !experts->quarantined().empty()))
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    StartShard(1);
  });
  for (int salt = 1; salt < 40 && !found; ++salt) decoder->Ask({salt});
  done = true;
  rescue.join();
  ASSERT_EQ(experts->quarantined().size(), 1u);
  EXPECT_GT(experts->stats().by_own, 0);
  ExpectAllRight();
}

TEST_P(FaultTest, ANewProcessAtTheSameAddressIsTrustedAgainAndWatched) {
  bad[1] = true;
  Connect(2, 1000);
  ExpectRight(0, decoder->Ask({0})[0]);
  ASSERT_EQ(experts->quarantined().size(), 1u);
  shards.erase(1);
  bad[1] = false;
  StartShard(1);
  const auto before = experts->stats();
  int64_t asked = 0;
  for (int i = 0; i < 400 && asked < 20; ++i) {  // it is connected to again within 0.5 s
    ExpectRight(i % 40, decoder->Ask({i % 40})[0]);
    asked = experts->stats().compared - before.compared;
  }
  EXPECT_GE(asked, 20) << "its parts are compared";
  EXPECT_EQ(experts->quarantined().size(), 1u);
  // And found again when it is wrong again.
  bad[1] = true;
  for (int i = 0; i < 40 && experts->quarantined().size() < 2; ++i)
    ExpectRight(i, decoder->Ask({i})[0]);
  EXPECT_EQ(experts->quarantined().size(), 2u);
}

INSTANTIATE_TEST_SUITE_P(Ways, FaultTest, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "SharedMemory" : "Grpc"; });

}  // namespace
}  // namespace tutti::expert
