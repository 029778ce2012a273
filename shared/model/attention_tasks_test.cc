#include "shared/model/attention_tasks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <tuple>

#include "kernels/kernels.h"

namespace tutti::model {
namespace {

using kernels::ChunkResults;
using kernels::kAttentionChunk;

constexpr int kHeadDim = 40;

AttentionPlan Plan(std::span<const RowRun> runs, std::span<const int64_t> positions, int kv_heads,
                   int group, int threads) {
  AttentionPlan plan{{{{7, 8}, 9, 9, 9}}, {{5, 5}}, 77};  // of a step before
  PlanAttention({runs, positions, kv_heads, group, kHeadDim}, threads, &plan);
  return plan;
}

// A task's share of the work of its run and KV head.
double Share(const AttentionTask& t, int64_t end, int group) {
  const int64_t first = PartBegin(0, end, t.part, t.parts);
  const int64_t last = std::min(end, PartBegin(0, end, t.part + 1, t.parts));
  return static_cast<double>((last - first) * (t.last - t.first)) /
         static_cast<double>(end * group);
}

TEST(AttentionTasksTest, EveryQueryHeadOfEveryRunIsThereOnceAndSoIsEveryPosition) {
  const std::vector<RowRun> some = {{0, 4}, {4, 5}, {5, 21}, {21, 22}, {30, 32}};
  int cut_by_positions = 0;
  for (const int64_t longest : {40, 700, 9000}) {
    const std::vector<int64_t> positions = {longest, 40, longest / 2, longest, longest};
    for (size_t runs = 0; runs <= some.size(); ++runs) {
      for (const int kv_heads : {1, 2, 3, 8}) {
        for (const int group : {1, 3, 4}) {
          for (const int threads : {1, 2, 3, 7, 16}) {
            const AttentionPlan plan =
                Plan(std::span(some).first(runs), std::span(positions).first(runs), kv_heads, group,
                     threads);
            // (row, KV head, query head): which parts
            std::map<std::tuple<int32_t, int, int>, std::set<int>> seen;
            std::map<std::tuple<int32_t, int, int>, int> parts;
            for (const AttentionTask& t : plan.tasks) {
              EXPECT_LT(t.first, t.last);
              cut_by_positions += t.parts > 1;
              for (int32_t row = t.run.begin; row < t.run.end; ++row) {
                for (int h = t.first; h < t.last; ++h) {
                  EXPECT_TRUE((seen[{row, t.kv_head, h}].insert(t.part).second));
                  parts[{row, t.kv_head, h}] = t.parts;
                }
              }
            }
            size_t rows = 0;
            for (size_t i = 0; i < runs; ++i) rows += static_cast<size_t>(some[i].size());
            EXPECT_EQ(seen.size(), rows * static_cast<size_t>(kv_heads * group));
            for (const auto& [what, which] : seen)
              EXPECT_EQ(which.size(), static_cast<size_t>(parts[what]));
          }
        }
      }
    }
  }
  EXPECT_GT(cut_by_positions, 100);
}

// What is cut by positions is merged once for each row, and no two results lie in one place.
TEST(AttentionTasksTest, WhatIsCutByPositionsIsMergedOnce) {
  const std::vector<RowRun> runs = {{0, 4}, {4, 6}};
  const std::vector<int64_t> positions = {3000, 2500};
  const AttentionPlan plan = Plan(runs, positions, 5, 1, 4);  // 10 tasks, of which 2 are cut
  std::map<int64_t, int64_t> ends;                            // where results begin: where they end
  std::set<std::pair<int, int>> cut, merged;                  // (KV head, row)
  for (const AttentionTask& t : plan.tasks) {
    if (t.parts == 1) continue;
    EXPECT_EQ(t.last - t.first, 1);
    const int64_t chunks = (positions[t.run.begin == 0 ? 0 : 1] - 1) / kAttentionChunk + 1;
    ends[t.results] = t.results + t.run.size() * chunks * ChunkResults::Floats(kHeadDim);
    for (int32_t row = t.run.begin; row < t.run.end; ++row) cut.insert({t.kv_head, row});
  }
  int64_t end = 0;
  for (const auto& [begins, its_end] : ends) {
    EXPECT_EQ(begins, end);
    end = its_end;
  }
  EXPECT_EQ(plan.results, end);
  EXPECT_EQ(ends.size(), 2u);
  for (const AttentionPlan::Merge& m : plan.merges) {
    const AttentionTask& t = plan.tasks[m.task];
    EXPECT_EQ(t.part, 0);
    EXPECT_TRUE(merged.insert({t.kv_head, t.run.begin + m.row}).second);
  }
  EXPECT_EQ(merged, cut);
}

TEST(AttentionTasksTest, PartsCoverAllPositionsInOrder) {
  for (const int64_t begin : {0, 300, 5000}) {
    for (const int64_t size : {1, 255, 256, 257, 1000, 9000}) {
      for (const int parts : {1, 2, 3, 16}) {
        EXPECT_EQ(PartBegin(begin, begin + size, 0, parts), 0);
        EXPECT_GE(PartBegin(begin, begin + size, parts, parts), begin + size);
        for (int p = 0; p < parts; ++p) {
          const int64_t at = PartBegin(begin, begin + size, p, parts);
          EXPECT_EQ(at % kAttentionChunk, 0);
          EXPECT_LE(at, PartBegin(begin, begin + size, p + 1, parts));
        }
      }
    }
  }
}

TEST(AttentionTasksTest, SharesOfThreadsAreAboutEqual) {
  const std::vector<RowRun> one = {{0, 1}};
  struct Case {
    int kv_heads, group, threads;
    int64_t positions;
    double most;  // KV heads' work of a thread
  };
  for (const Case& c : std::vector<Case>{{3, 3, 2, 100, 5 / 3.0},  // 9 query heads: 5 and 4
                                         {3, 4, 2, 100, 6 / 4.0},  // of 12
                                         {8, 4, 8, 100, 1},        // a KV head each
                                         {2, 4, 8, 100, 1 / 4.0},  // a query head each
                                         {4, 4, 3, 100, 6 / 4.0},  // of 16: 1 KV head, a third
                                         {3, 3, 2, 8192, 1.5},     // 16 chunks of the third
                                         {3, 3, 2, 8000, 1.54},
                                         {3, 3, 8, 8192, 0.375},
                                         {3, 3, 2, 520, 5 / 3.0},   // too little to gain
                                         {12, 1, 8, 4096, 1.5}}) {  // no query heads to cut by
    const AttentionPlan plan =
        Plan(one, std::span(&c.positions, 1), c.kv_heads, c.group, c.threads);
    const auto n = static_cast<int64_t>(plan.tasks.size());
    double largest = 0;
    for (int64_t t = 0; t < c.threads; ++t) {
      double work = 0;
      for (int64_t i = n * t / c.threads; i < n * (t + 1) / c.threads; ++i)
        work += Share(plan.tasks[static_cast<size_t>(i)], c.positions, c.group);
      largest = std::max(largest, work);
    }
    EXPECT_LE(largest, c.most + 1e-9)
        << c.kv_heads << " x " << c.group << " on " << c.threads << ", " << c.positions;
  }
}

}  // namespace
}  // namespace tutti::model
