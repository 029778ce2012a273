#include "shared/base/philox.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tutti {
namespace {
using ::testing::ElementsAre;

// Known-answer vectors published with the Random123 library (kat_vectors, philox4x32 10).
TEST(PhiloxTest, EqualsThePublishedKnownAnswers) {
  EXPECT_THAT(Philox4x32(0, {0, 0, 0, 0}),
              ElementsAre(0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u));
  EXPECT_THAT(Philox4x32(~uint64_t{0}, {~0u, ~0u, ~0u, ~0u}),
              ElementsAre(0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu));
  EXPECT_THAT(
      Philox4x32(0x299f31d0a4093822ull, {0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u}),
      ElementsAre(0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u));
}

TEST(PhiloxTest, UnitUniformNeverReachesItsEnds) {
  EXPECT_GT(UnitUniform(0), 0.0f);
  EXPECT_LT(UnitUniform(~0u), 1.0f);
}

}  // namespace
}  // namespace tutti
