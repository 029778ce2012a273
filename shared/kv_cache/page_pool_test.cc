#include "shared/kv_cache/page_pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

namespace tutti::kv_cache {
namespace {

constexpr PageLayout kLayout = {
    .num_layers = 2, .num_kv_heads = 3, .head_dim = 8, .v_head_dim = 4, .dtype = DType::kF16};

TEST(PageLayoutTest, RangesOfAllLayersAndHeadsTileThePage) {
  for (DType dtype : {DType::kF16, DType::kF32, DType::kQ8_0}) {
    PageLayout layout = kLayout;
    layout.dtype = dtype;
    size_t next = 0;
    for (int l = 0; l < layout.num_layers; ++l) {
      for (int h = 0; h < layout.num_kv_heads; ++h) {
        EXPECT_EQ(layout.KOffset(l, h), next);
        EXPECT_EQ(layout.VOffset(l, h), next + kernels::KeyBytes(dtype, 8));
        next = layout.VOffset(l, h) + kernels::ValueBytes(dtype, 4);
      }
    }
    EXPECT_EQ(layout.PageBytes(), next);
  }
}

TEST(PagePoolTest, TheLowestFreeIdIsHandedOutFirst) {
  PagePool pool(kLayout, 4);
  for (PageId want : {0, 1, 2, 3}) EXPECT_EQ(pool.Allocate().value(), want);
  pool.Unref(2);
  pool.Unref(0);
  pool.Unref(3);
  EXPECT_EQ(pool.Allocate().value(), 0);
  EXPECT_EQ(pool.Allocate().value(), 2);
  EXPECT_EQ(pool.Allocate().value(), 3);
}

TEST(PagePoolTest, AFullPoolRefusesAndServesAgainAfterAnUnref) {
  PagePool pool(kLayout, 1);
  const PageId page = pool.Allocate().value();
  EXPECT_TRUE(absl::IsResourceExhausted(pool.Allocate().status()));
  pool.Unref(page);
  EXPECT_TRUE(pool.Allocate().ok());
}

TEST(PagePoolTest, OnlyTheLastOwnerFreesAPage) {
  PagePool pool(kLayout, 2);
  const PageId page = pool.Allocate().value();
  pool.Ref(page);
  EXPECT_EQ(pool.RefCount(page), 2);
  pool.Unref(page);
  EXPECT_EQ(pool.num_free(), 1);
  pool.Unref(page);
  EXPECT_EQ(pool.num_free(), 2);
  EXPECT_EQ(pool.RefCount(page), 0);
}

TEST(PagePoolTest, PagesDoNotOverlapAndAreAligned) {
  PagePool pool(kLayout, 5);
  for (int i = 0; i < 5; ++i) {
    const PageId page = pool.Allocate().value();
    EXPECT_EQ(reinterpret_cast<uintptr_t>(pool.Data(page)) % 64, 0u);
    std::memset(pool.Data(page), i + 1, kLayout.PageBytes());
  }
  for (int i = 0; i < 5; ++i) {
    for (size_t b = 0; b < kLayout.PageBytes(); ++b)
      ASSERT_EQ(static_cast<int>(pool.Data(i)[b]), i + 1);
  }
}

TEST(PagePoolTest, TrimLeavesOwnedPagesAlone) {
  const PageLayout big = {
      .num_layers = 8, .num_kv_heads = 2, .head_dim = 64, .v_head_dim = 64, .dtype = DType::kF32};
  PagePool pool(big, 6);
  for (int i = 0; i < 6; ++i)
    std::memset(pool.Data(pool.Allocate().value()), i + 1, big.PageBytes());
  for (PageId page : {1, 2, 5}) pool.Unref(page);
  pool.TrimFree();
  for (PageId page : {0, 3, 4}) {
    for (size_t b = 0; b < big.PageBytes(); ++b)
      ASSERT_EQ(static_cast<int>(pool.Data(page)[b]), page + 1);
  }
  const PageId page = pool.Allocate().value();
  std::memset(pool.Data(page), 7, big.PageBytes());
}

TEST(PagePoolTest, AReservationFarBeyondMemoryCostsNothingUntilWritten) {
  const PageLayout layout = {
      .num_layers = 30, .num_kv_heads = 3, .head_dim = 64, .v_head_dim = 64, .dtype = DType::kF16};
  PagePool pool(layout, 1 << 20);  // 360 GiB of address space
  ASSERT_EQ(pool.num_pages(), 1 << 20);
  const PageId page = pool.Allocate().value();
  std::memset(pool.Data(page), 1, layout.PageBytes());
}

TEST(PagePoolTest, AnImpossibleReservationLeavesAnEmptyPool) {
  const PageLayout layout = {
      .num_layers = 1 << 20, .num_kv_heads = 1 << 10, .head_dim = 1 << 10, .v_head_dim = 1 << 10};
  PagePool pool(layout, 1 << 30);
  EXPECT_EQ(pool.num_pages(), 0);
  EXPECT_TRUE(absl::IsResourceExhausted(pool.Allocate().status()));
}

}  // namespace
}  // namespace tutti::kv_cache
