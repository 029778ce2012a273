#include "shared/wire/expert.h"

#include <gtest/gtest.h>

#include <cstring>
#include <numeric>

#include "shared/base/hash.h"

namespace tutti::wire {
namespace {

constexpr int64_t kHidden = 64;

// Two rows, the first wants experts 1 and 3, the second expert 0.
struct Fixture {
  std::vector<int8_t> q = std::vector<int8_t>(2 * kHidden);
  std::vector<kernels::BlockScale> scales;
  std::vector<int32_t> offsets = {0, 2, 3}, ids = {1, 3, 0};
  ExpertShape shape{.fingerprint = 9, .hidden = kHidden, .num_layers = 2, .experts_per_layer = 4};
  expert::v1::DispatchRequest proto;

  Fixture() {
    for (size_t i = 0; i < q.size(); ++i) q[i] = static_cast<int8_t>(i);
    for (size_t b = 0; b < 4; ++b) {
      const auto* of = q.data() + 32 * b;
      scales.push_back(kernels::MakeBlockScale(1.5f + static_cast<float>(b),
                                               std::accumulate(of, of + 32, int32_t{0})));
    }
    const moe::ExpertBatch batch{.moe_layer = 1,
                                 .num_rows = 2,
                                 .hidden = kHidden,
                                 .quantized = {2, kHidden, q.data(), scales.data()},
                                 .row_offsets = offsets,
                                 .expert_ids = ids};
    DispatchToProto(batch, {.rows = {0, 1}, .offsets = {0, 2, 3}, .pairs = {0, 1, 2}}, 7, 100,
                    shape, &proto);
  }
};

TEST(WireExpertTest, RowsComeOutAsTheyWentIn) {
  const Fixture f;
  ASSERT_TRUE(CheckDispatch(f.proto, f.shape).ok()) << CheckDispatch(f.proto, f.shape);
  for (int64_t r = 0; r < 2; ++r) {
    int8_t q[kHidden];
    kernels::BlockScale scales[2];
    CopyQuantizedRow(ViewOf(f.proto), kHidden, r, q, scales);
    EXPECT_EQ(std::memcmp(q, f.q.data() + r * kHidden, kHidden), 0);
    EXPECT_EQ(std::memcmp(scales, f.scales.data() + r * 2, sizeof(scales)), 0);
  }
}

TEST(WireExpertTest, WhatIsWrongIsNamed) {
  using Edit = void (*)(expert::v1::DispatchRequest*);
  struct Case {
    const char* name;
    Edit edit;
    absl::StatusCode code;
    const char* says;
  };
  const Case cases[] = {
      {"fingerprint", [](auto* p) { p->set_fingerprint(1); }, absl::StatusCode::kFailedPrecondition,
       "fingerprint"},
      {"layer", [](auto* p) { p->set_moe_layer(2); }, absl::StatusCode::kInvalidArgument,
       "moe_layer"},
      {"format", [](auto* p) { p->set_format(expert::v1::ACTIVATION_FORMAT_F32); },
       absl::StatusCode::kInvalidArgument, "format"},
      {"no rows", [](auto* p) { p->clear_row_offsets(); }, absl::StatusCode::kInvalidArgument,
       "row_offsets"},
      {"first offset", [](auto* p) { p->set_row_offsets(0, 1); },
       absl::StatusCode::kInvalidArgument, "row_offsets[0]"},
      {"empty row", [](auto* p) { p->set_row_offsets(1, 0); }, absl::StatusCode::kInvalidArgument,
       "row_offsets[1]"},
      {"offset past the ids", [](auto* p) { p->set_row_offsets(2, 4000000000u); },
       absl::StatusCode::kInvalidArgument, "row_offsets[2]"},
      {"ids left over", [](auto* p) { p->add_expert_ids(0); }, absl::StatusCode::kInvalidArgument,
       "expert_ids"},
      {"unknown expert", [](auto* p) { p->set_expert_ids(2, 4); },
       absl::StatusCode::kInvalidArgument, "expert_ids[2]"},
      {"twice", [](auto* p) { p->set_expert_ids(1, 1); }, absl::StatusCode::kInvalidArgument,
       "expert_ids[1]"},
      {"short", [](auto* p) { p->mutable_rows()->pop_back(); }, absl::StatusCode::kInvalidArgument,
       "rows"},
      {"a flipped bit", [](auto* p) { (*p->mutable_rows())[5] ^= 1; }, absl::StatusCode::kDataLoss,
       "checksum"},
      {"another id", [](auto* p) { p->set_dispatch_id(8); }, absl::StatusCode::kDataLoss,
       "checksum"},
  };
  for (const Case& c : cases) {
    Fixture f;
    c.edit(&f.proto);
    const absl::Status status = CheckDispatch(f.proto, f.shape);
    EXPECT_EQ(status.code(), c.code) << c.name << ": " << status;
    EXPECT_NE(status.message().find(c.says), std::string::npos) << c.name << ": " << status;
  }
}

TEST(WireExpertTest, AReplyWithAFlippedBitIsRefused) {
  expert::v1::CombineReply reply;
  reply.set_dispatch_id(7);
  reply.mutable_rows()->assign(3 * kHidden * 4, 'x');
  SignReply(&reply);
  EXPECT_TRUE(CheckReply(reply).ok());
  (*reply.mutable_rows())[100] ^= 4;
  EXPECT_EQ(CheckReply(reply).code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace tutti::wire
