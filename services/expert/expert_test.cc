// A model over a real shard, with mixtures as published and f32 weights.
#include "services/expert/expert.h"

#include <gtest/gtest.h>

#include <cstring>

#include "shared/model/load.h"
#include "shared/model/model_weights.h"
#include "shared/model/single_sequence.h"
#include "shared/rpc/channel.h"
#include "shared/rpc/clients/expert_client.h"
#include "shared/testing/model_writer.h"
#include "tutti/expert/v1/expert.grpc.pb.h"

namespace tutti::expert {
namespace {

TEST(ExpertTest, MixturesOverAShardGiveTheBitsOfOneProcess) {
  for (const std::string name :
       {"qwen3_moe", "qwen2_moe_shared", "olmoe", "deepseek_v2_lite", "deepseek_v3"}) {
    SCOPED_TRACE(name);
    const std::string path = TUTTI_SOURCE_DIR "/tests/data/models/" + name;
    const testing::TempDir dir;
    ExpertOptions options;
    options.model = path;
    options.worker.service.listen = {"unix:" + dir.path() + "/e"};
    const auto shard = Expert::Start(options);
    ASSERT_TRUE(shard.ok()) << shard.status();
    ASSERT_TRUE((*shard)->worker().WaitReady().ok());

    const auto files = model::OpenExperts(path, 0);
    ASSERT_TRUE(files.ok()) << files.status();
    rpc::RpcExpertsOptions remote;
    remote.shape = {.fingerprint = files->experts.fingerprint,
                    .hidden = files->experts.hidden,
                    .num_layers = files->experts.num_layers,
                    .experts_per_layer = files->experts.experts_per_layer,
                    .reads_f32 = files->experts.reads_f32};
    remote.addresses = options.worker.service.listen;
    // Before it was asked for one it has none, and knows how large they are all the same.
    const auto stub = v1::ExpertService::NewStub(*rpc::OpenChannel(remote.addresses[0]));
    const auto held = [&] {
      grpc::ClientContext context;
      v1::GetExpertsResponse response;
      EXPECT_TRUE(stub->GetExperts(&context, {}, &response).ok());
      return response;
    };
    EXPECT_EQ(held().memory_bytes(), 0);
    const auto experts = rpc::RpcExperts::Create(remote);
    ASSERT_TRUE(experts.ok()) << experts.status();
    const auto here = model::LoadDecoder(path, {});
    const auto there = model::LoadDecoder(path, {.experts = experts->get()});
    ASSERT_TRUE(here.ok() && there.ok()) << here.status() << there.status();
    EXPECT_LT((*there)->info().weight_bytes, (*here)->info().weight_bytes);
    const std::vector<int32_t> ids = {3, 5, 7, 11, 2, 4, 6};
    const auto a = model::PromptLogits(here->get(), ids),
               b = model::PromptLogits(there->get(), ids);
    ASSERT_TRUE(a.ok() && b.ok()) << a.status() << b.status();
    ASSERT_EQ(a->size(), b->size());
    EXPECT_EQ(std::memcmp(a->data(), b->data(), a->size() * sizeof(float)), 0);
    EXPECT_GT((*experts)->stats().dispatches, 0);
    EXPECT_EQ(held().memory_bytes(), files->experts.expert_bytes * held().experts_size());
  }
}

}  // namespace
}  // namespace tutti::expert
