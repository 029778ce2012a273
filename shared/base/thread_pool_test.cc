#include "shared/base/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

namespace tutti {
namespace {

class ThreadPoolTest : public ::testing::TestWithParam<ThreadPool::Options> {};

TEST_P(ThreadPoolTest, RunsEveryTaskOnceInEveryLoop) {
  ThreadPool pool(GetParam());
  for (int64_t tasks : {0, 1, 2, 3, 7, 64, 1000}) {
    for (int round = 0; round < 50; ++round) {
      std::vector<std::atomic<int>> count(static_cast<size_t>(tasks));
      pool.ParallelFor(tasks, [&](int64_t i, int thread) {
        EXPECT_GE(thread, 0);
        EXPECT_LT(thread, pool.num_threads());
        count[static_cast<size_t>(i)].fetch_add(1);
      });
      for (const auto& c : count) ASSERT_EQ(c.load(), 1);
    }
  }
}

TEST_P(ThreadPoolTest, NoMoreThreadsTakeTasksThanTheLoopAllows) {
  ThreadPool pool(GetParam());
  for (int round = 0; round < 3000; ++round) {
    const int allowed = 1 + round % 5;
    std::atomic<int> count{0}, most{0};
    pool.ParallelFor(
        16,
        [&](int64_t, int thread) {
          ++count;
          for (int m = most; m < thread && !most.compare_exchange_weak(m, thread);) {
          }
        },
        allowed);
    ASSERT_EQ(count, 16);
    ASSERT_LT(most, allowed);
  }
}

TEST_P(ThreadPoolTest, PlainWritesOfOneLoopAreSeenByTheNext) {
  ThreadPool pool(GetParam());
  std::vector<int64_t> value(257, 1);
  for (int round = 0; round < 500; ++round) {
    std::vector<int64_t> next(value.size());
    pool.ParallelFor(static_cast<int64_t>(value.size()), [&](int64_t i, int) {
      const auto u = static_cast<size_t>(i);
      next[u] = value[u] + value[(u + 1) % value.size()] % 2;
    });
    value = next;
  }
  EXPECT_EQ(value, std::vector<int64_t>(257, value[0]));
  EXPECT_GT(value[0], 1);
}

TEST_P(ThreadPoolTest, WakesUpAfterSleeping) {
  ThreadPool pool(GetParam());
  std::atomic<int> sum{0};
  for (int round = 0; round < 20; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    pool.ParallelFor(4, [&](int64_t, int) { sum.fetch_add(1); });
  }
  EXPECT_EQ(sum.load(), 80);
}

TEST_P(ThreadPoolTest, LoopsRunAfterGivingWay) {
  ThreadPool pool(GetParam());
  for (int round = 0; round < 200; ++round) {
    pool.GiveWay();
    // At once, while the workers yield, and after they fell asleep.
    if (round % 10 == 0) std::this_thread::sleep_for(std::chrono::microseconds(300));
    std::atomic<int> count{0};
    pool.ParallelFor(5, [&](int64_t, int) { ++count; });
    ASSERT_EQ(count.load(), 5);
  }
}

TEST_P(ThreadPoolTest, PostedJobsRunOnceBesideTheLoops) {
  std::atomic<int> jobs{0}, tasks{0};
  {
    ThreadPool pool(GetParam());
    for (int round = 0; round < 200; ++round) {
      pool.Post([&] { jobs.fetch_add(1); });
      pool.ParallelFor(3, [&](int64_t, int) { tasks.fetch_add(1); });
    }
    pool.Post([&] { jobs.fetch_add(1); });
  }
  EXPECT_EQ(jobs.load(), 201);
  EXPECT_EQ(tasks.load(), 600);
}

TEST_P(ThreadPoolTest, ALoopDoesNotWaitForAPostedJob) {
  std::atomic<bool> go_on{false}, started{false};
  ThreadPool pool(GetParam());
  if (pool.num_threads() == 1) return;  // there it runs first
  pool.Post([&] {
    started = true;
    while (!go_on) std::this_thread::yield();
  });
  while (!started) std::this_thread::yield();
  std::atomic<int> sum{0};
  pool.ParallelFor(100, [&](int64_t, int) { sum.fetch_add(1); });
  EXPECT_EQ(sum.load(), 100);
  go_on = true;
}

INSTANTIATE_TEST_SUITE_P(
    Sizes, ThreadPoolTest,
    ::testing::Values(ThreadPool::Options{.num_threads = 1}, ThreadPool::Options{.num_threads = 2},
                      ThreadPool::Options{.num_threads = 5, .spin_us = 0},
                      ThreadPool::Options{.num_threads = 3, .spin_us = 20, .pin = true}));

TEST(ThreadPoolWorkTest, EveryThreadBeginsWithItsShareAndGoesOnInIt) {
  ThreadPool pool({.num_threads = 2, .spin_us = 1000});
  std::atomic<int> begun{0};
  std::vector<int64_t> taken[2];
  pool.ParallelFor(20, [&](int64_t task, int thread) {
    taken[thread].push_back(task);
    if (taken[thread].size() > 1) return;
    begun.fetch_add(1);  // both have a task before any goes on
    while (begun.load() < 2) std::this_thread::yield();
  });
  for (const int thread : {0, 1}) {
    int64_t next = 10 * thread;  // of its own
    for (const int64_t task : taken[thread]) {
      if (task / 10 == thread) {
        EXPECT_EQ(task, next++) << "thread " << thread;
      } else {
        EXPECT_GT(task, taken[1 - thread].back()) << "thread " << thread << " took a next one";
      }
    }
  }
}

TEST(ThreadPoolWorkTest, WhoIsDoneTakesTheLastTasksOfOthers) {
  ThreadPool pool({.num_threads = 2, .spin_us = 1000});
  std::atomic<int> others{0};
  std::vector<int64_t> taken;
  pool.ParallelFor(10, [&](int64_t task, int thread) {
    if (thread == 1) {
      taken.push_back(task);
      others.fetch_add(1);
      return;
    }
    EXPECT_EQ(task, 0);  // it holds the first thread until all others are done
    while (others.load() < 9) std::this_thread::yield();
  });
  EXPECT_EQ(taken, (std::vector<int64_t>{5, 6, 7, 8, 9, 4, 3, 2, 1}));
}

TEST(ThreadPoolWorkTest, IsSharedBetweenThreads) {
  ThreadPool pool({.num_threads = 2, .spin_us = 1000});
  // Each task waits until the other has begun, so one thread alone would never finish.
  std::atomic<int> begun{0};
  pool.ParallelFor(2, [&](int64_t, int) {
    begun.fetch_add(1);
    while (begun.load() < 2) std::this_thread::yield();
  });
  EXPECT_EQ(begun.load(), 2);
}

}  // namespace
}  // namespace tutti
