#include "shared/base/heap.h"

#include <gtest/gtest.h>
#include <malloc.h>
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <thread>
#include <vector>

namespace tutti {
namespace {

int64_t ResidentBytes() {
  long long total = 0, resident = 0;
  FILE* file = std::fopen("/proc/self/statm", "r");
  EXPECT_EQ(std::fscanf(file, "%lld %lld", &total, &resident), 2);
  std::fclose(file);
  return resident * ::sysconf(_SC_PAGESIZE);
}

TEST(HeapTest, WhatABurstTookGoesBackAndThenThereIsNothingToDo) {
  if (::mallinfo2().arena == 0) {  // a sanitizer's allocator: nothing is known, nothing is done
    EXPECT_FALSE(TrimHeap(0));
    return;
  }
  const int64_t before = ResidentBytes();
  // 200 MB in small pieces from another thread's arena; every 1000th stays, so that nothing can be
  // cut off at the end.
  std::vector<std::unique_ptr<char[]>> stay;
  std::thread([&] {
    std::vector<std::unique_ptr<char[]>> pieces;
    for (int i = 0; i < 400'000; ++i) {
      pieces.emplace_back(new char[500]);
      pieces.back()[0] = pieces.back()[499] = 1;
      if (i % 1000 == 0) stay.emplace_back(new char[500]);
    }
  }).join();
  EXPECT_GT(ResidentBytes() - before, 100 << 20);
  EXPECT_TRUE(TrimHeap(32 << 20));
  EXPECT_LT(ResidentBytes() - before, 32 << 20);
  EXPECT_FALSE(TrimHeap(32 << 20));
}

}  // namespace
}  // namespace tutti
