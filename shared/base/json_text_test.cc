#include "shared/base/json_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

namespace tutti {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::ordered_json;

// n values that `item` writes, with commas between.
std::string List(int n, const std::function<std::string(int)>& item) {
  std::string out;
  for (int i = 0; i < n; ++i) {
    if (i > 0) out += ',';
    out += item(i);
  }
  return out;
}
std::string Key(int i) { return "\"k" + std::to_string(i) + "\":1"; }

JsonLimits Wide() {
  return {.keys = 1 << 22, .containers = size_t{1} << 22, .values = size_t{1} << 24};
}

TEST(JsonTextTest, ValuesAreNlohmannsOwn) {
  for (
      const char* text :
      {R"({"z":1,"a":[true,false,null,-5,18446744073709551615,1.5e3,"x\n\u00e9\ud83d\ude00"],"m":{"":{}}})",
       "[]", "{}", "3", "\"s\"", "null", " [ [ ] , { \"a\" : [ 1 ] } ] ", "[1e2,-0,-0.0]"}) {
    const auto got = ParseJsonText(text);
    ASSERT_TRUE(got.ok()) << text << got.status();
    EXPECT_EQ(got->dump(), Json::parse(text).dump()) << text;
  }
}

TEST(JsonTextTest, WorkGrowsNoFasterThanTheText) {
  const struct {
    const char* what;
    std::function<std::string(int)> text;
  } kinds[] = {
      {"keys of one object", [](int n) { return "{" + List(n, Key) + "}"; }},
      {"keys of nested objects", [](int n) { return R"({"a":[{"b":{)" + List(n, Key) + "}}]}"; }},
      {"objects of an array",
       [](int n) { return "[" + List(n, [](int) { return R"({"a":1,"b":2})"; }) + "]"; }},
      {"long keys",
       [](int n) {
         return "{" +
                List(n / 10,
                     [](int i) {
                       return "\"" + std::string(200, 'k') + std::to_string(i) + "\":1";
                     }) +
                "}";
       }},
  };
  for (const auto& kind : kinds) {
    JsonWork small, large;
    ASSERT_TRUE(ParseJsonText(kind.text(1000), Wide(), nullptr, &small).ok()) << kind.what;
    ASSERT_TRUE(ParseJsonText(kind.text(10000), Wide(), nullptr, &large).ok()) << kind.what;
    // Ten times the keys: ten times the comparisons, and some that equal hash buckets add.
    EXPECT_LE(large.key_comparisons, 12 * small.key_comparisons + 1000) << kind.what;
    EXPECT_LE(large.key_comparisons, 10 * large.values) << kind.what;
    EXPECT_LE(large.values, 10 * small.values) << kind.what;
  }
}

TEST(JsonTextTest, ATextPastALimitIsReadUpToTheLimitAlone) {
  const struct {
    std::string text;
    const char* path;
    const char* message;
    int64_t most_values;
  } cases[] = {
      {R"({"a":[5,{"b":{)" + List(50000, Key) + "}}]}", "a[1].b", "more than 4096 keys", 4101},
      {"{" + List(20000, Key) + "}", "", "more than 4096 keys", 4097},
      {"[" + List(5000, [](int) { return "{}"; }) + "]", "[999]",
       "more than 1000 arrays and objects", 1001},
      {"[" + List(10000, [](int) { return "1"; }) + "]", "[4999]", "more than 5000 values", 5001},
      {std::string(100000, '['), "", "nests deeper than 64", 65},
      {R"({"a":{")" + std::string(2000, 'k') + R"(":1}})", "a", "a key of 2000 bytes", 2},
  };
  for (const auto& c : cases) {
    JsonWork work;
    JsonFault fault;
    EXPECT_FALSE(ParseJsonText(c.text, {.containers = 1000, .values = 5000}, &fault, &work).ok());
    EXPECT_EQ(fault.kind, JsonFault::Kind::kLimit);
    EXPECT_EQ(fault.path, c.path) << fault.message;
    EXPECT_THAT(fault.message, HasSubstr(c.message));
    EXPECT_LE(work.values, c.most_values) << c.message;
  }
}

TEST(JsonTextTest, AKeyTwiceIsFoundAtAnyPlace) {
  for (const int n : {1, 2, 7, 8, 9, 10, 100, 4000}) {
    for (const int twice : {0, n / 2, n - 1}) {
      JsonFault fault;
      const std::string text = R"({"x":[{)" + List(n, Key) + "," + Key(twice) + "}]}";
      EXPECT_FALSE(ParseJsonText(text, {}, &fault).ok()) << n;
      EXPECT_EQ(fault.kind, JsonFault::Kind::kDuplicateKey);
      EXPECT_EQ(fault.path, "x[0].k" + std::to_string(twice)) << n;
    }
  }
  // The same key in other objects is another key; escapes are read before keys are compared.
  EXPECT_TRUE(ParseJsonText(R"([{"a":1},{"a":2,"b":{"a":3}}])").ok());
  EXPECT_FALSE(ParseJsonText(R"({"a":1,"\u0061":2})").ok());
}

TEST(JsonTextTest, WhatIsNotJsonSaysWhere) {
  for (const char* text : {"", "{", "[1,]", "{\"a\"}", "nan", "[1] 2", "\"\xff\"", "[1e999]",
                           "\"\\ud800\"", "{\"a\":1,}", "'a'", "[01]", "\"\x01\""}) {
    JsonFault fault;
    const auto got = ParseJsonText(text, {}, &fault);
    EXPECT_FALSE(got.ok()) << text;
    EXPECT_EQ(fault.kind, JsonFault::Kind::kSyntax) << text;
    EXPECT_THAT(got.status().message(), HasSubstr("not JSON")) << text;
  }
}

}  // namespace
}  // namespace tutti
