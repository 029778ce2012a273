#include "shared/base/cores.h"

#include <gtest/gtest.h>

#include <thread>

namespace tutti {
namespace {

TEST(CoresTest, AThreadIsMovedAndMayMoveOn) {
  const int cores = UsableCores();
  ASSERT_GE(cores, 1);
  std::thread([&] {
    for (int i = 0; i < 4 * cores; ++i) {
      MoveThreadTo(i);
      EXPECT_EQ(UsableCores(), cores);
      EXPECT_LT(CurrentCore(), cores);
    }
  }).join();
}

TEST(CoresTest, AThreadThatIsBoundStaysThere) {
  for (int i = 0; i < UsableCores(); ++i) {
    std::thread([&] {
      PinThreadTo(i + UsableCores());
      EXPECT_EQ(UsableCores(), 1);
      EXPECT_EQ(CurrentCore(), 0);  // of one
      MoveThreadTo(5);
      EXPECT_EQ(UsableCores(), 1);
    }).join();
  }
}

}  // namespace
}  // namespace tutti
