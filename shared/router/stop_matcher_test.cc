#include "shared/router/stop_matcher.h"

#include <gtest/gtest.h>

#include "shared/base/philox.h"
#include "shared/base/strings.h"

namespace tutti::router {
namespace {

struct Outcome {
  std::string text;
  int matched = -1;
};

Outcome Feed(const std::vector<std::string>& stops, const std::vector<std::string>& pieces,
             bool include = false) {
  StopMatcher m(stops);
  Outcome run;
  for (const std::string& p : pieces) {
    auto r = m.Push(p, include);
    run.text += r.text;
    if (r.matched >= 0) {
      run.matched = r.matched;
      return run;
    }
  }
  run.text += m.Flush();
  return run;
}

// The specification: try every end, in order; at the first end where a stop ends, the longest one.
Outcome Plain(const std::vector<std::string>& stops, const std::string& text) {
  for (size_t end = 1; end <= text.size(); ++end) {
    int best = -1;
    for (size_t s = 0; s < stops.size(); ++s) {
      if (end >= stops[s].size() &&
          text.compare(end - stops[s].size(), stops[s].size(), stops[s]) == 0 &&
          (best < 0 || stops[s].size() > stops[best].size())) {
        best = static_cast<int>(s);
      }
    }
    if (best >= 0) return {text.substr(0, end - stops[best].size()), best};
  }
  return {text, -1};
}

TEST(StopMatcherTest, AStopIsFoundAcrossPieces) {
  const Outcome r = Feed({"\n\nUser:"}, {"Hello", "\n", "\nUs", "er: x"});
  EXPECT_EQ(r.text, "Hello");
  EXPECT_EQ(r.matched, 0);
  EXPECT_EQ(Feed({"\n\nUser:"}, {"Hello", "\n", "\nUs", "er: x"}, true).text, "Hello\n\nUser:");
}

TEST(StopMatcherTest, ABeginningThatComesToNothingIsReleased) {
  StopMatcher m({"END"});
  EXPECT_EQ(m.Push("aE", false).text, "a");
  EXPECT_EQ(m.Push("N", false).text, "");
  EXPECT_EQ(m.Push("x", false).text, "ENx");
  EXPECT_EQ(m.Push("EN", false).text, "");
  EXPECT_EQ(m.Flush(), "EN");
}

TEST(StopMatcherTest, ASelfOverlappingStopIsFoundAfterAFalseStart) {
  const Outcome r = Feed({"aab"}, {"a", "a", "a", "b"});
  EXPECT_EQ(r.text, "a");
  EXPECT_EQ(r.matched, 0);
}

TEST(StopMatcherTest, TheFirstToBeCompleteWinsAndOfThoseTheLongest) {
  EXPECT_EQ(Feed({"abcd", "bc"}, {"abcd"}).matched, 1);
  EXPECT_EQ(Feed({"abcd", "bc"}, {"abcd"}).text, "a");
  EXPECT_EQ(Feed({"c", "bc"}, {"abcd"}).matched, 1);
}

TEST(StopMatcherTest, ReleasedTextIsWholeCharacters) {
  StopMatcher m({"\xc3\xa9t\xc3\xa9"});  // "été"
  std::string all;
  for (const char* piece : {"\xc3\xa9", "t", "\xc3\xa8", "\xc3\xa9t", "e"}) {
    const auto r = m.Push(piece, false);
    EXPECT_TRUE(IsValidUtf8(r.text)) << Printable(r.text);
    all += r.text;
  }
  EXPECT_EQ(all + m.Flush(), "\xc3\xa9t\xc3\xa8\xc3\xa9te");
}

TEST(StopMatcherTest, EqualsTheSpecificationOnRandomTextHoweverItIsCut) {
  uint32_t counter = 0;
  const auto draw = [&](uint32_t n) { return Philox4x32(42, {++counter, 0, 0, 0})[0] % n; };
  int matched = 0;
  for (int round = 0; round < 3000; ++round) {
    std::vector<std::string> stops(draw(4));
    for (std::string& s : stops) {
      s.resize(1 + draw(5));
      for (char& c : s) c = static_cast<char>('a' + draw(2));
    }
    std::string text(draw(24), 'a');
    for (char& c : text) c = static_cast<char>('a' + draw(3));
    std::vector<std::string> pieces;
    for (size_t i = 0; i < text.size();) {
      const size_t n = std::min<size_t>(draw(4), text.size() - i);
      pieces.push_back(text.substr(i, n));
      i += n;
    }
    const Outcome want = Plain(stops, text), got = Feed(stops, pieces);
    ASSERT_EQ(got.text, want.text) << "round " << round << " text " << text;
    if (want.matched >= 0) {
      ++matched;
      ASSERT_GE(got.matched, 0);
      ASSERT_EQ(stops[got.matched], stops[want.matched]);
    } else {
      ASSERT_EQ(got.matched, -1);
    }
  }
  EXPECT_GT(matched, 500);  // the test is about something
}

}  // namespace
}  // namespace tutti::router
