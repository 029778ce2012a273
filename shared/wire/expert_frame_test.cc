#include "shared/wire/expert_frame.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

namespace tutti::wire {
namespace {

constexpr int64_t kHidden = 64;

struct FrameTest : public ::testing::Test {
  FrameTest() {
    for (size_t i = 0; i < q.size(); ++i) q[i] = static_cast<int8_t>(i);
    frame.resize(DispatchFrameBytes(part, shape));
    WriteDispatchFrame(batch, part, 7, 100, shape, /*now_us=*/5'000'000'000, {3, 4}, frame.data());
  }
  // Three rows; the part has the last two, which want experts 1 and 3, and expert 0.
  std::vector<int8_t> q = std::vector<int8_t>(3 * kHidden);
  std::vector<kernels::BlockScale> scales{{1}, {2}, {3}, {4}, {5}, {6}};
  std::vector<int32_t> offsets = {0, 1, 3, 4}, ids = {2, 1, 3, 0};
  moe::ExpertBatch batch{.moe_layer = 1,
                         .num_rows = 3,
                         .hidden = kHidden,
                         .quantized = {3, kHidden, q.data(), scales.data()},
                         .row_offsets = offsets,
                         .expert_ids = ids};
  DispatchRows part{.rows = {1, 2}, .offsets = {0, 2, 3}, .pairs = {1, 2, 3}};
  ExpertShape shape{.fingerprint = 9, .hidden = kHidden, .num_layers = 2, .experts_per_layer = 4};
  std::vector<std::byte> frame;
};

TEST_F(FrameTest, ADispatchSaysWhatItsMessageSays) {
  DispatchFrame out;
  ASSERT_TRUE(ReadDispatchFrame(frame, &out).ok());
  ASSERT_TRUE(CheckDispatch(out.view, shape).ok()) << CheckDispatch(out.view, shape);
  expert::v1::DispatchRequest proto;
  DispatchToProto(batch, part, 7, 100, shape, &proto);
  EXPECT_EQ(out.view.dispatch_id, proto.dispatch_id());
  EXPECT_EQ(out.view.moe_layer, proto.moe_layer());
  EXPECT_EQ(out.view.budget_us, proto.budget_us());
  EXPECT_EQ(std::string(out.view.rows.begin(), out.view.rows.end()), proto.rows());
  EXPECT_EQ(out.row_offsets, (std::vector<uint32_t>{0, 2, 3}));
  EXPECT_EQ(out.expert_ids, (std::vector<uint32_t>{1, 3, 0}));
}

TEST_F(FrameTest, HowLongADispatchWaitedIsTold) {
  DispatchFrame out;
  ASSERT_TRUE(ReadDispatchFrame(frame, &out).ok());
  EXPECT_EQ(WaitedUs(out, 5'000'000'000), 0u);
  EXPECT_EQ(WaitedUs(out, 5'000'000'123), 123u);
  // The clock's lower bits begin again on the way.
  out.sent_us = UINT32_MAX - 9;
  EXPECT_EQ(WaitedUs(out, (int64_t{3} << 32) + 5), 15u);
  // Another clock wrote it, or nobody.
  EXPECT_EQ(WaitedUs(out, (int64_t{3} << 32) - 1000), 0u);
  out.sent_us = 0;
  EXPECT_EQ(WaitedUs(out, 5'000'000'000), 0u);
}

TEST_F(FrameTest, HowMuchOfTheCoresAndWhichIsTold) {
  DispatchFrame out;
  for (const float share : {1.0F, 0.5F, 0.25F}) {
    part.share = share;
    WriteDispatchFrame(batch, part, 7, 100, shape, 0, {3, 4}, frame.data());
    ASSERT_TRUE(ReadDispatchFrame(frame, &out).ok());
    EXPECT_EQ(out.share, share);
    EXPECT_EQ(out.seat.index, 3);
    EXPECT_EQ(out.seat.of, 4);
  }
  // Nothing of the cores, or none of no seats, cannot be; then it is as little as can be.
  part.share = 0;
  WriteDispatchFrame(batch, part, 7, 100, shape, 0, {0, 0}, frame.data());
  ASSERT_TRUE(ReadDispatchFrame(frame, &out).ok());
  EXPECT_GT(out.share, 0);
  EXPECT_EQ(out.seat.of, 1);
}

TEST_F(FrameTest, WhateverTheBytesSayNothingOutsideIsRead) {
  std::mt19937 random(1);
  int refused = 0;
  for (int i = 0; i < 50'000; ++i) {
    std::vector<std::byte> bad = frame;
    for (int n = static_cast<int>(random() % 3); n >= 0; --n)
      bad[random() % 128] = static_cast<std::byte>(random() % 3 == 0 ? 0 : random());
    bad.resize(random() % 4 == 0 ? random() % bad.size() : bad.size());
    bad.shrink_to_fit();
    DispatchFrame out;
    if (!ReadDispatchFrame(bad, &out).ok() || !CheckDispatch(out.view, shape).ok()) {
      ++refused;
      continue;
    }
    for (int64_t r = 0; r < out.view.num_rows(); ++r) {
      int8_t row[kHidden];
      kernels::BlockScale of_row[kHidden / 32];
      CopyQuantizedRow(out.view, kHidden, r, row, of_row);
    }
  }
  EXPECT_GT(refused, 20'000);
  EXPECT_LT(refused, 50'000);
}

TEST_F(FrameTest, Replies) {
  std::vector<std::byte> reply(ReplyFrameBytes(3, kHidden));
  for (int64_t i = 0; i < 3 * kHidden; ++i) ReplyFrameRows(reply.data())[i] = static_cast<float>(i);
  WriteReplyFrame(7, 3, kHidden, 99, 5, 6, reply.data());
  const auto got = ReadReplyFrame(reply);
  ASSERT_TRUE(got.ok() && got->status.ok());
  EXPECT_EQ(got->dispatch_id, 7u);
  EXPECT_EQ(got->run_us, 6u);
  EXPECT_EQ(got->process, 99u);
  ASSERT_EQ(got->rows.size(), 3 * kHidden * sizeof(float));
  EXPECT_EQ(std::memcmp(got->rows.data(), ReplyFrameRows(reply.data()), got->rows.size()), 0);

  // One bit anywhere in the rows, or rows of another dispatch.
  for (const size_t at : {reply.size() - 1, reply.size() / 2}) {
    std::vector<std::byte> damaged = reply;
    damaged[at] ^= std::byte{1};
    const auto said = ReadReplyFrame(damaged);
    ASSERT_TRUE(said.ok());
    EXPECT_TRUE(absl::IsDataLoss(said->status)) << said->status;
    EXPECT_TRUE(said->rows.empty());
  }
  std::vector<std::byte> other = reply;
  other[0] ^= std::byte{1};  // its dispatch_id
  EXPECT_TRUE(absl::IsDataLoss(ReadReplyFrame(other)->status));

  reply.pop_back();
  EXPECT_FALSE(ReadReplyFrame(reply).ok());
  EXPECT_FALSE(ReadReplyFrame(std::span(reply).first(8)).ok());

  const auto full = absl::ResourceExhaustedError("no room " + std::string(5000, 'x'));
  std::vector<std::byte> error(ErrorFrameBytes(full));
  WriteErrorFrame(8, full, error.data());
  const auto said = ReadReplyFrame(error);
  ASSERT_TRUE(said.ok());
  EXPECT_EQ(said->dispatch_id, 8u);
  EXPECT_TRUE(absl::IsResourceExhausted(said->status));
  EXPECT_EQ(said->status.message().substr(0, 7), "no room");
}

}  // namespace
}  // namespace tutti::wire
