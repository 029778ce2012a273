// The scanners against the regular expressions that they stand for, on text made to hit every rule.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "shared/base/strings.h"
#include "shared/tokenizer/splitter.h"

#include "shared/tokenizer/regex/program.h"
#include "shared/tokenizer/unicode.h"

namespace tutti::tokenizer {
namespace {

using ::testing::ElementsAre;

std::vector<std::string> Cut(const std::vector<std::unique_ptr<Splitter>>& stages,
                             std::string_view text) {
  std::vector<Piece> pieces = {{0, static_cast<uint32_t>(text.size())}}, next;
  for (const auto& stage : stages) {
    next.clear();
    for (const Piece& p : pieces) {
      if (p.begin < p.end) stage->Split(text, p, &next);
    }
    pieces.swap(next);
  }
  std::vector<std::string> out;
  for (const Piece& p : pieces) out.emplace_back(text.substr(p.begin, p.end - p.begin));
  return out;
}

std::vector<std::unique_ptr<Splitter>> ByRegex(const std::vector<SplitSpec>& specs) {
  std::vector<std::unique_ptr<Splitter>> out;
  for (const SplitSpec& s : specs) {
    auto stage = MakeRegexSplitter(s);
    EXPECT_TRUE(stage.ok()) << stage.status();
    out.push_back(*std::move(stage));
  }
  return out;
}

std::vector<SplitSpec> Isolated(std::initializer_list<std::string_view> patterns) {
  std::vector<SplitSpec> out;
  for (const auto p : patterns) out.push_back({.pattern = std::string(p)});
  return out;
}

// Characters that patterns tell apart, and any others that Unicode 14 has assigned.
std::string RandomText(std::mt19937* rng) {
  static const std::vector<std::string> kLikely = {" ",
                                                   " ",
                                                   "  ",
                                                   "\n",
                                                   "\r\n",
                                                   "\t",
                                                   "'",
                                                   "'s",
                                                   "'T",
                                                   "'ll",
                                                   "'RE",
                                                   "'\xC5\xBF",
                                                   "a",
                                                   "Z",
                                                   "word",
                                                   "é",
                                                   "e\xCC\x81",
                                                   "ß",
                                                   "中",
                                                   "文",
                                                   "の",
                                                   "カ",
                                                   "ー",
                                                   "龥",
                                                   "龦",
                                                   "1",
                                                   "23",
                                                   "4567",
                                                   "²",
                                                   "Ⅷ",
                                                   "٣",
                                                   "½",
                                                   "!",
                                                   "?!",
                                                   "...",
                                                   "$",
                                                   "+",
                                                   "_",
                                                   "—",
                                                   "、",
                                                   "。",
                                                   "\xC2\xA0",
                                                   "\xC2\x85",
                                                   "\xE2\x80\x83",
                                                   "\xE3\x80\x80",
                                                   "\xE1\xA0\x8E",
                                                   "\xE2\x80\x8B",
                                                   "\xE2\x80\x8D",
                                                   "\xEF\xBB\xBF",
                                                   "😀",
                                                   "👩‍💻",
                                                   "\xCC\x81",
                                                   "\xE0\xA4\xBF",
                                                   "क",
                                                   "\x01",
                                                   "\x7F",
                                                   "\x1C",
                                                   "\x0B",
                                                   "//",
                                                   "#",
                                                   "\"",
                                                   "`"};
  std::string text;
  const int n = std::uniform_int_distribution<>(0, 40)(*rng);
  for (int i = 0; i < n; ++i) {
    if ((*rng)() % 8 != 0) {
      text += kLikely[(*rng)() % kLikely.size()];
      continue;
    }
    uint32_t c;
    do {
      c = (*rng)() % ((*rng)() % 4 == 0 ? 0x110000 : 0x3000);
    } while (!(FlagsOf(Chars(), c) & kAssigned));
    AppendUtf8(c, &text);
  }
  return text;
}

struct Row {
  const char* name;
  std::vector<SplitSpec> specs;
};

class ScannerTest : public ::testing::TestWithParam<Row> {};

TEST_P(ScannerTest, CutsRandomTextLikeItsRegularExpression) {
  const std::vector<SplitSpec>& specs = GetParam().specs;
  size_t used = 0;
  ASSERT_NE(MakeScanner(specs.data(), specs.size(), &used), nullptr);
  ASSERT_EQ(used, specs.size());
  const auto scanners = MakeSplitters(specs);
  ASSERT_TRUE(scanners.ok());
  const auto regexes = ByRegex(specs);
  std::mt19937 rng(20240607);
  for (int i = 0; i < 20000; ++i) {
    const std::string text = RandomText(&rng);
    ASSERT_EQ(Cut(*scanners, text), Cut(regexes, text))
        << "text " << i << ": " << Printable(text, 1000);
  }
}

TEST_P(ScannerTest, CutsEveryAssignedCharacterLikeItsRegularExpression) {
  const auto scanners = MakeSplitters(GetParam().specs);
  ASSERT_TRUE(scanners.ok());
  const auto regexes = ByRegex(GetParam().specs);
  for (uint32_t c = 0; c < 0x110000; ++c) {
    if (!(FlagsOf(Chars(), c) & kAssigned)) continue;
    std::string text = "a";
    AppendUtf8(c, &text);
    text += " !";
    AppendUtf8(c, &text);
    text += "1";
    ASSERT_EQ(Cut(*scanners, text), Cut(regexes, text)) << std::hex << c;
  }
}

TEST_P(ScannerTest, CoversAnyBytesWithoutLosingOne) {
  const auto scanners = MakeSplitters(GetParam().specs);
  ASSERT_TRUE(scanners.ok());
  std::mt19937 rng(7);
  for (int i = 0; i < 3000; ++i) {
    std::string text(rng() % 50, '\0');
    for (char& c : text) c = static_cast<char>(rng() % 3 == 0 ? rng() % 256 : 0x80 + rng() % 0x70);
    std::string joined;
    for (const std::string& piece : Cut(*scanners, text)) {
      EXPECT_FALSE(piece.empty());
      joined += piece;
    }
    EXPECT_EQ(joined, text);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Patterns, ScannerTest,
    ::testing::Values(Row{"gpt2", Isolated({patterns::kGpt2})},
                      Row{"llama3", Isolated({patterns::kLlama3})},
                      Row{"qwen2", Isolated({patterns::kQwen2})},
                      Row{"digit", Isolated({patterns::kDigit})},
                      Row{"digits", Isolated({patterns::kDigits})},
                      Row{"digits_up_to_3", Isolated({patterns::kDigitsUpTo3})},
                      Row{"cjk", Isolated({patterns::kCjk})},
                      Row{"deepseek_words", Isolated({patterns::kDeepSeekWords})},
                      Row{"smollm", Isolated({patterns::kDigit, patterns::kGpt2})},
                      Row{"digits_gpt2", Isolated({patterns::kDigits, patterns::kGpt2})},
                      Row{"deepseek", Isolated({patterns::kDigitsUpTo3, patterns::kCjk,
                                                patterns::kDeepSeekWords})}),
    [](const auto& info) { return std::string(info.param.name); });

std::vector<std::string> CutOne(SplitSpec spec, std::string_view text) {
  auto stage = MakeRegexSplitter(spec);
  EXPECT_TRUE(stage.ok()) << stage.status();
  std::vector<std::unique_ptr<Splitter>> stages;
  stages.push_back(*std::move(stage));
  return Cut(stages, text);
}

TEST(RegexSplitterTest, EachBehaviorPutsTheMatchWhereHuggingFaceDoes) {
  const SplitSpec dash = {.pattern = "-", .literal = true};
  const auto with = [&](SplitBehavior b) {
    SplitSpec s = dash;
    s.behavior = b;
    return CutOne(s, "the-final--countdown");
  };
  EXPECT_THAT(with(SplitBehavior::kRemoved), ElementsAre("the", "final", "countdown"));
  EXPECT_THAT(with(SplitBehavior::kIsolated),
              ElementsAre("the", "-", "final", "-", "-", "countdown"));
  EXPECT_THAT(with(SplitBehavior::kMergedWithPrevious),
              ElementsAre("the-", "final-", "-", "countdown"));
  EXPECT_THAT(with(SplitBehavior::kMergedWithNext),
              ElementsAre("the", "-final", "-", "-countdown"));
  EXPECT_THAT(with(SplitBehavior::kContiguous),
              ElementsAre("the", "-", "final", "--", "countdown"));
}

TEST(RegexSplitterTest, InvertCutsOutWhatDoesNotMatch) {
  EXPECT_THAT(
      CutOne({.pattern = "[a-z]+", .behavior = SplitBehavior::kRemoved, .invert = true}, "ab1cd"),
      ElementsAre("ab", "cd"));
}

TEST(RegexSplitterTest, SpaceIsWhiteSpaceAndDollarIsTheEndOfALineAsInOniguruma) {
  EXPECT_THAT(CutOne({.pattern = R"(\s+$)"}, "a  \nb \xE1\xA0\x8E"),
              ElementsAre("a", "  ", "\nb \xE1\xA0\x8E"));
  EXPECT_THAT(CutOne({.pattern = R"([\w\s]+)"}, "e\xCC\x81 _-"), ElementsAre("e\xCC\x81 _", "-"));
}

TEST(RegexSplitterTest, AnEmptyMatchCuts) {
  EXPECT_THAT(CutOne({.pattern = "(?=[A-Z])"}, "aBéC"), ElementsAre("a", "Bé", "C"));
}

TEST(RegexSplitterTest, ABrokenPatternIsAnErrorWithItsPlace) {
  const auto bad = MakeSplitters({{.pattern = "a(b"}});
  EXPECT_EQ(bad.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(bad.status().message()), ::testing::HasSubstr("pattern 0"));
  EXPECT_FALSE(MakeRegexSplitter({.pattern = std::string(100000, 'a')}).ok());
  EXPECT_FALSE(
      MakeRegexSplitter({.pattern = std::string(5000, '(') + std::string(5000, ')')}).ok());
}

// What Oniguruma gives, which Hugging Face tokenizers 0.23 splits with; PCRE2 means other things.
TEST(RegexSplitterTest, PatternsMeanWhatOnigurumaMeans) {
  struct Case {
    const char *pattern, *text;
    std::vector<std::string> pieces;
  };
  const std::vector<Case> cases = {
      {R"([a-z[0-9]]+)", "a1-b2", {"a1", "-", "b2"}},
      {R"([^\s[.,]]+)", "ab,c d", {"ab", ",", "c", " ", "d"}},
      {R"([\p{L}&&[^\p{Han}]]+)", "ab国c", {"ab", "国", "c"}},
      {R"([a-z&&[^aeiou]&&[^z]]+)", "xyzae", {"xy", "zae"}},
      {R"([^a[^b]])", "abc", {"a", "b", "c"}},
      {R"([[:alpha:]&&[:ascii:]]+)", "aé1b", {"a", "é1", "b"}},
      {" ?[^(\\s|[.,!?…。，、।۔،])]+", "a b,c|d", {"a", " b", ",", "c", "|", "d"}},
      {R"(\h+)", "xfaG", {"x", "fa", "G"}},
      {R"(\w+)", "e\u0301² ½\u200d", {"e\u0301²", " ", "½", "\u200d"}},
      {R"([\w]+)", "e\u0301²", {"e\u0301", "²"}},
      {R"(\b)", "ab² c", {"ab²", " ", "c"}},
      {R"(\p{Hiragana}+)", "あ〱ー", {"あ", "〱ー"}},
      {R"(\p{Arabic}+)", "اـ،", {"ا", "ـ،"}},
      {R"(\p{Letter}+|\p{^L})", "ab1", {"ab", "1"}},
      {R"(\p{Alnum}+)", "a1-", {"a1", "-"}},
      {R"([[:punct:]]+)", "a$+.b", {"a", "$+.", "b"}},
      {R"(\p{Punct}+)", "a$.b", {"a$", ".", "b"}},
      {R"(\u4e00|\x41|\x{4e8c}|\101)", "一A二b", {"一", "A", "二", "b"}},
      {R"(\d{2,3}+)", "12345678", {"12345678"}},
      {R"(a{2}?)", "aaa", {"aa", "a"}},
      {R"(a(?i)b|c)", "aBaCb", {"aB", "aC", "b"}},
      {R"((?i:'s|k))", "'Sx'ſK", {"'S", "x", "'ſ", "K"}},
      {R"((?m).+)", "a\nb", {"a\nb"}},
      {R"(.+)", "a\nb", {"a", "\n", "b"}},
      {R"(^.|.$)", "abc\nde", {"a", "b", "c", "\n", "d", "e"}},
      {R"(\A.|.\z)", "abc\n", {"a", "bc\n"}},
      {R"((?<=a|bz)[A-Z])", "aBbzCzD", {"a", "B", "bz", "C", "zD"}},
      {R"((?<!\w)\w+)", "ab-cd", {"ab", "-", "cd"}},
      {R"((?>a+b?|a)Z?)", "aabZ", {"aabZ"}},
      {R"([^\r\n\p{L}\p{N}]?+\p{L}+)", "!ab ?c", {"!ab", " ", "?c"}},
      {R"((?x) a b # c)", "abc", {"ab", "c"}},
      {R"([]a]+)", "a]b", {"a]", "b"}},
      {R"([+--]+)", "+,-.", {"+,-", "."}},
      {R"((?<=\d)(?=(\d{3})+$)|\w+)", "ab12", {"ab12"}},
      {R"(\R)", "a\r\n\nb", {"a", "\r\n", "\n", "b"}},
      {R"(a**)", "aab", {"aa", "b"}},
  };
  for (const Case& c : cases)
    EXPECT_EQ(CutOne({.pattern = c.pattern}, c.text), c.pieces) << c.pattern;
}

TEST(RegexSplitterTest, WhatCannotBeMatchedExactlyIsRefusedWithItsPlace) {
  for (const auto& [pattern, what] : std::vector<std::pair<std::string, std::string>>{
           {R"((a)\1)", "offset 3: back references"},
           {R"(ab\k<x>)", "offset 2: \\k"},
           {R"(\X)", "\\X is not supported"},
           {R"(a\Kb)", "\\K is not supported"},
           {R"(\G)", "\\G is not supported"},
           {R"(x(?~a))", "offset 1: (?~"},
           {R"(\p{InArabic})", "blocks are not read"},
           {R"(\p{Nonsense})", "no property is called \\p{Nonsense}"},
           {R"((?i)stra)", "offset 5: characters that equal others"},
           {R"((?i)[ß])", "a character that equals several"},
           {R"((?:a*b?)*)", "repeated without bound"},
           {R"((?<=a+)b)", "lookbehind"},
           {R"([z-a])", "ends before it begins"},
           {R"([a)", "offset 0: [ without its ]"},
           {R"(a{2,1})", "offset 1: the first number"},
           {R"(((((a{999}){999}){999}){999}))", "steps"},
           {R"((((){1000}){1000}){1000})", "steps"},
       }) {
    const auto made = MakeSplitters({{.pattern = pattern}});
    ASSERT_FALSE(made.ok()) << pattern;
    EXPECT_THAT(std::string(made.status().message()), ::testing::HasSubstr(what)) << pattern;
    EXPECT_THAT(std::string(made.status().message()), ::testing::HasSubstr("pattern 0")) << pattern;
  }
}

// Counted in instructions, not in time: twice the text takes twice the steps, where a matcher that
// forgets takes four times as many.
TEST(RegexSplitterTest, EveryPatternTakesStepsInProportionToTheText) {
  const auto steps = [](const regex::Program& program, const std::string& text) {
    regex::Program::Search search(program, text);
    size_t begin, end;
    while (search.Next(&begin, &end)) {
    }
    return search.steps();
  };
  const auto repeat = [](const std::string& unit, size_t n) {
    std::string text;
    for (size_t i = 0; i < n; ++i) text += unit;
    return text;
  };
  for (const char* pattern : {R"(\d{1,3}(?=(?:\d{3})*\b))",  // AFMoE
                              R"((?=(\d{3})+(?!\d)))",       // SuperBPE
                              R"(\s+$)",
                              R"((?:a+)+b)",
                              R"((a*)*c)",
                              R"((?:a|aa)+b)",
                              R"((?>a+)b)",
                              R"(a++b)",
                              R"((?=a+b))",
                              R"((?=a+)a)",
                              R"((?!a*b)a)",
                              R"(a*a*a*a*b)",
                              R"((?:a?){30}a{30})",
                              R"((?>(?:aa)+)b|a)",
                              R"((?=(?:a(?=a*b|a*))+c)a)",
                              R"(\w+(?=\s))",
                              R"(.*?b)",
                              R"((?:a|b|ab)*c)",
                              R"(\bword\b|(?<=a)b)",
                              R"([^b]*?[^b]*?b)"}) {
    const auto program = regex::Program::Compile(pattern);
    ASSERT_TRUE(program.ok()) << pattern << program.status();
    for (const char* unit : {"1", "a", " ", "ab", "a ", "1\n", "\u0301"}) {
      for (const char* tail : {"", "x", "b"}) {
        const size_t n = 3000;
        const uint64_t once = steps(**program, repeat(unit, n) + tail);
        const uint64_t twice = steps(**program, repeat(unit, 2 * n) + tail);
        EXPECT_LE(twice, 2 * once + 1000) << pattern << " on " << unit << tail;
        EXPECT_LE(once, 8 * (*program)->num_instructions() * n + 1000) << pattern << " on " << unit;
      }
    }
  }
}

TEST(RegexSplitterTest, APatternThatBacktracksForeverEndsSoon) {
  const std::string text(5000, 'a');
  const auto pieces = CutOne({.pattern = "(a+)+b|(a*)*c"}, text);
  std::string joined;
  for (const auto& p : pieces) joined += p;
  EXPECT_EQ(joined, text);
}

}  // namespace
}  // namespace tutti::tokenizer
