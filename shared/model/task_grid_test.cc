#include <gtest/gtest.h>

#include <vector>

#include "shared/model/workspace.h"

namespace tutti::model {
namespace {

TEST(TaskGridTest, EveryGroupOfEveryRowIsInOneTask) {
  for (const int64_t rows : {1, 5, 128, 129, 700}) {
    for (const int64_t groups : {1, 2, 7, 36, 96, 97}) {
      for (const int64_t unit : {1, 2}) {
        for (const int threads : {1, 2, 3, 64}) {
          for (const int64_t most_units : {int64_t{4}, INT64_MAX}) {
            const TaskGrid grid(rows, groups, unit, threads, most_units);
            std::vector<int> seen(static_cast<size_t>(rows * groups));
            for (int64_t task = 0; task < grid.num_tasks(); ++task) {
              EXPECT_EQ(grid.group_begin(task) % unit, 0);
              EXPECT_LE(grid.group_end(task) - grid.group_begin(task), grid.most_groups());
              for (int64_t r = 0; r < grid.num_rows(task); ++r)
                for (int64_t g = grid.group_begin(task); g < grid.group_end(task); ++g)
                  ++seen[static_cast<size_t>((grid.row_begin(task) + r) * groups + g)];
            }
            for (const int times : seen) ASSERT_EQ(times, 1);
            EXPECT_LE((grid.most_groups() + unit - 1) / unit, most_units);
          }
        }
      }
    }
  }
}

TEST(TaskGridTest, SharesOfThreadsDifferByAGroup) {
  for (const int64_t groups : {36, 96, 100, 3072}) {
    for (const int threads : {2, 3, 4, 7}) {
      const TaskGrid grid(1, groups, 1, threads);
      const int64_t tasks = grid.num_tasks();
      for (int64_t t = 0; t < threads; ++t) {
        const int64_t first = tasks * t / threads, end = tasks * (t + 1) / threads;
        const int64_t share = grid.group_end(end - 1) - grid.group_begin(first);
        EXPECT_GE(share, groups / threads) << groups << " on " << threads;
        EXPECT_LE(share, groups / threads + 1) << groups << " on " << threads;
      }
    }
  }
}

}  // namespace
}  // namespace tutti::model
