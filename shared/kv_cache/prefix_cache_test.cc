#include "shared/kv_cache/prefix_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <random>

namespace tutti::kv_cache {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr PageLayout kLayout = {.num_layers = 1, .num_kv_heads = 1, .head_dim = 2, .v_head_dim = 2};

std::vector<int32_t> Range(int32_t first, int32_t n) {
  std::vector<int32_t> tokens(static_cast<size_t>(n));
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

// Computes `tokens` as a sequence would: takes what is cached, allocates and registers the rest.
// Returns the pages, owned by the caller.
std::vector<PageId> Compute(PagePool& pool, PrefixCache& cache,
                            const std::vector<int32_t>& tokens) {
  const int32_t full = static_cast<int32_t>(tokens.size() / kPageTokens);
  auto hit = cache.Match(tokens, full);
  for (int32_t i = static_cast<int32_t>(hit.pages.size()); i < full; ++i) {
    const PageId page = pool.Allocate().value();
    auto [cursor, canonical] = cache.Extend(
        hit.cursor, std::span(tokens).subspan(static_cast<size_t>(i) * kPageTokens, kPageTokens),
        page);
    hit.cursor = cursor;
    hit.pages.push_back(canonical);
  }
  return hit.pages;
}

void Drop(PagePool& pool, const std::vector<PageId>& pages) {
  for (PageId page : pages) pool.Unref(page);
}

TEST(PrefixCacheTest, APrefixSurvivesItsSequence) {
  PagePool pool(kLayout, 8);
  PrefixCache cache(&pool);
  const auto pages = Compute(pool, cache, Range(0, 40));
  Drop(pool, pages);
  EXPECT_EQ(pool.num_free(), 6);
  auto hit = cache.Match(Range(0, 40), 2);
  EXPECT_EQ(hit.pages, pages);
  EXPECT_EQ(pool.RefCount(pages[0]), 2);
  Drop(pool, hit.pages);
}

TEST(PrefixCacheTest, OnlyTheSharedFullPagesMatch) {
  PagePool pool(kLayout, 8);
  PrefixCache cache(&pool);
  Drop(pool, Compute(pool, cache, Range(0, 48)));
  auto tokens = Range(0, 48);
  tokens[31] = 999;  // the last token of page 1
  EXPECT_EQ(cache.Peek(tokens, 3), 1);
  EXPECT_EQ(cache.Peek(Range(0, 47), 3), 2);
  EXPECT_EQ(cache.Peek(Range(0, 48), 1), 1);
  EXPECT_EQ(cache.Peek(Range(1, 48), 3), 0);
  EXPECT_EQ(cache.Peek(std::vector<int32_t>{}, 3), 0);
  EXPECT_EQ(cache.Peek(Range(0, 48), -1), 0);
}

TEST(PrefixCacheTest, TheSamePageContentAfterAnotherPrefixIsAnotherPage) {
  PagePool pool(kLayout, 8);
  PrefixCache cache(&pool);
  auto a = Range(0, 32), b = Range(100, 32);
  std::copy_n(a.begin() + 16, 16,
              b.begin() + 16);  // equal second pages behind different first ones
  const auto pages_a = Compute(pool, cache, a);
  const auto pages_b = Compute(pool, cache, b);
  EXPECT_NE(pages_a[1], pages_b[1]);
  Drop(pool, pages_a);
  Drop(pool, pages_b);
}

TEST(PrefixCacheTest, ADuplicateGivesUpItsOwnPageForTheCachedOne) {
  PagePool pool(kLayout, 8);
  PrefixCache cache(&pool);
  const auto tokens = Range(0, 16);
  const PageId first = pool.Allocate().value(), second = pool.Allocate().value();
  EXPECT_EQ(cache.Extend(PrefixCache::kRoot, tokens, first).second, first);
  EXPECT_EQ(cache.Extend(PrefixCache::kRoot, tokens, second).second, first);
  EXPECT_EQ(pool.RefCount(second), 0);
  EXPECT_EQ(pool.RefCount(first), 3);  // two sequences and the cache
  Drop(pool, std::vector<PageId>{first, first});
}

TEST(PrefixCacheTest, TheLeastRecentlyUsedLeafGoesFirst) {
  PagePool pool(kLayout, 4);
  PrefixCache cache(&pool);
  Drop(pool, Compute(pool, cache, Range(0, 16)));
  Drop(pool, Compute(pool, cache, Range(100, 16)));
  Drop(pool, Compute(pool, cache, Range(200, 16)));
  Drop(pool, cache.Match(Range(0, 16), 1).pages);  // used again
  EXPECT_EQ(cache.Evict(1), 1);
  EXPECT_EQ(cache.Peek(Range(100, 16), 1), 0);
  EXPECT_EQ(cache.Peek(Range(0, 16), 1), 1);
  EXPECT_EQ(cache.Peek(Range(200, 16), 1), 1);
}

TEST(PrefixCacheTest, InnerPagesGoAfterTheirLeavesAndOwnedPagesStay) {
  PagePool pool(kLayout, 4);
  PrefixCache cache(&pool);
  const auto pages = Compute(pool, cache, Range(0, 64));
  EXPECT_EQ(cache.Evict(4), 0);  // the sequence owns them all
  EXPECT_EQ(cache.NumEvictable(), 0);
  pool.Unref(pages[2]);
  pool.Unref(pages[3]);
  EXPECT_EQ(cache.NumEvictable(), 2);
  EXPECT_EQ(cache.Evict(4), 2);
  EXPECT_EQ(cache.Peek(Range(0, 64), 4), 2);
  Drop(pool, std::vector<PageId>{pages[0], pages[1]});
  EXPECT_EQ(cache.Evict(4), 2);
  EXPECT_EQ(pool.num_free(), 4);
}

TEST(PrefixCacheTest, RandomUseNeverLeaksAPageAndAlwaysFindsWhatItOwns) {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 rng(seed);
    PagePool pool(kLayout, 24);
    {
      PrefixCache cache(&pool);
      std::vector<std::pair<std::vector<int32_t>, std::vector<PageId>>> live;
      for (int step = 0; step < 300; ++step) {
        if (live.size() < 4 && rng() % 2 == 0) {
          std::vector<int32_t> tokens;  // few distinct pages, so that paths are shared often
          for (uint32_t page = 0, n = 1 + rng() % 4; page < n; ++page) {
            const auto more = Range(static_cast<int32_t>(rng() % 3) * 100, 16);
            tokens.insert(tokens.end(), more.begin(), more.end());
          }
          const int32_t missing = static_cast<int32_t>(tokens.size() / 16) - cache.Peek(tokens, 99);
          if (pool.num_free() < missing) cache.Evict(missing - pool.num_free() + 4);
          auto pages = Compute(pool, cache, tokens);
          live.emplace_back(std::move(tokens), std::move(pages));
        } else if (!live.empty()) {
          const size_t victim = rng() % live.size();
          Drop(pool, live[victim].second);
          live.erase(live.begin() + static_cast<ptrdiff_t>(victim));
        }
        if (rng() % 8 == 0) cache.Evict(static_cast<int32_t>(rng() % 5));
        for (const auto& [tokens, pages] : live) {
          auto hit = cache.Match(tokens, 99);
          ASSERT_EQ(hit.pages, pages);
          Drop(pool, hit.pages);
        }
        ASSERT_EQ(cache.num_pages(), pool.num_pages() - pool.num_free());
      }
      for (const auto& [tokens, pages] : live) Drop(pool, pages);
      ASSERT_EQ(cache.NumEvictable(), cache.num_pages());
    }
    ASSERT_EQ(pool.num_free(), pool.num_pages());
  }
}

}  // namespace
}  // namespace tutti::kv_cache
