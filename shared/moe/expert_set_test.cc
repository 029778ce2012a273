#include "shared/moe/expert_set.h"

#include <gtest/gtest.h>

#include <string>

namespace tutti::moe {
namespace {

// "1/0 1/2": the members, of a model with 3 layers of 4 experts.
std::string MembersOf(std::string_view text) {
  const auto set = ExpertSet::Parse(text, 3, 4);
  if (!set.ok()) return std::string(absl::StatusCodeToString(set.status().code()));
  std::string out;
  for (int l = 0; l < 3; ++l) {
    for (int e = 0; e < 4; ++e) {
      if (set->Contains(l, e))
        out += (out.empty() ? "" : " ") + std::to_string(l) + "/" + std::to_string(e);
    }
  }
  EXPECT_EQ(out.empty(), set->empty());
  return out;
}

TEST(ExpertSetTest, NamesExpertsByCountByRangeAndAll) {
  EXPECT_EQ(MembersOf(""), "");
  EXPECT_EQ(MembersOf("0"), "");
  EXPECT_EQ(MembersOf("1"), "0/0 1/0 2/0");
  EXPECT_EQ(MembersOf("2/3"), "2/3");
  EXPECT_EQ(MembersOf("0-1/2-3,2/0"), "0/2 0/3 1/2 1/3 2/0");
  EXPECT_EQ(MembersOf("all"), MembersOf("4"));
  EXPECT_EQ(MembersOf("all"), MembersOf("0-2/0-3"));
}

TEST(ExpertSetTest, WhatIsNoSetIsRefused) {
  for (const char* bad : {"some", "-1", "5", "3/0", "0/4", "0/0,", ",", "1/", "/1", "2-1/0",
                          "0/0-9", "1/1/1", "0x1", " 1", "99999999999/0"}) {
    EXPECT_EQ(MembersOf(bad), "INVALID_ARGUMENT") << bad;
  }
}

}  // namespace
}  // namespace tutti::moe
