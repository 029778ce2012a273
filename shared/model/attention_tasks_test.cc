#include "shared/model/attention_tasks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <tuple>

namespace tutti::model {
namespace {

TEST(AttentionTasksTest, EveryQueryHeadOfEveryRunIsThereOnce) {
  const std::vector<RowRun> some = {{0, 4}, {4, 5}, {5, 21}, {21, 22}, {30, 32}};
  for (size_t runs = 0; runs <= some.size(); ++runs) {
    for (const int kv_heads : {1, 2, 3, 8}) {
      for (const int group : {1, 3, 4}) {
        for (const int threads : {1, 2, 3, 7, 16}) {
          std::vector<AttentionTask> tasks = {{{7, 8}, 9, 9, 9}};  // of a step before
          PlanAttention(std::span(some).first(runs), kv_heads, group, threads, &tasks);
          std::map<std::tuple<int32_t, int, int>, int> seen;  // (row, KV head, query head)
          for (const AttentionTask& t : tasks) {
            EXPECT_LT(t.first, t.last);
            for (int32_t row = t.run.begin; row < t.run.end; ++row)
              for (int h = t.first; h < t.last; ++h) ++seen[{row, t.kv_head, h}];
          }
          size_t rows = 0;
          for (size_t i = 0; i < runs; ++i) rows += static_cast<size_t>(some[i].size());
          EXPECT_EQ(seen.size(), rows * static_cast<size_t>(kv_heads * group));
          for (const auto& [what, times] : seen) EXPECT_EQ(times, 1);
        }
      }
    }
  }
}

TEST(AttentionTasksTest, SharesOfThreadsAreAboutEqual) {
  const std::vector<RowRun> one = {{0, 1}};
  for (const auto& [kv_heads, group, threads, most] :
       std::vector<std::tuple<int, int, int, int>>{{3, 3, 2, 5},     // 9 query heads: 5 and 4
                                                   {3, 4, 2, 6},     // of 12
                                                   {8, 4, 8, 4},     // a KV head each
                                                   {2, 4, 8, 1},     // a query head each
                                                   {4, 4, 3, 6}}) {  // of 16: 1 KV head, a third
    std::vector<AttentionTask> tasks;
    PlanAttention(one, kv_heads, group, threads, &tasks);
    const auto n = static_cast<int64_t>(tasks.size());
    int largest = 0;
    for (int64_t t = 0; t < threads; ++t) {
      int heads = 0;
      for (int64_t i = n * t / threads; i < n * (t + 1) / threads; ++i)
        heads += tasks[static_cast<size_t>(i)].last - tasks[static_cast<size_t>(i)].first;
      largest = std::max(largest, heads);
    }
    EXPECT_LE(largest, most) << kv_heads << " x " << group << " on " << threads;
  }
}

}  // namespace
}  // namespace tutti::model
