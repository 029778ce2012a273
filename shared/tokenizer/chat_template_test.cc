#include "shared/tokenizer/chat_template.h"

#include <fstream>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tutti::tokenizer {
namespace {

using nlohmann::ordered_json;
using ::testing::HasSubstr;

constexpr int64_t kNow = 1741529107;  // 2025-03-09T14:05:07

ordered_json ReadJson(const std::string& name) {
  std::ifstream in(std::string(TUTTI_SOURCE_DIR "/tests/data/chat_templates/") + name);
  return ordered_json::parse(in, nullptr, false);
}

absl::StatusOr<std::string> Render(std::string_view source,
                                   const ordered_json& variables = ordered_json::object()) {
  auto parsed = ChatTemplate::Parse(source);
  if (!parsed.ok()) return parsed.status();
  TemplateInput input;
  input.variables = variables;
  input.now_unix_s = kNow;
  return parsed->Render(input);
}

// As Jinja2 3.1.6 renders them in transformers' environment.
TEST(ChatTemplateTest, FalseValuesSlicesNumbersAndFieldsAreAsInJinja) {
  const ordered_json v = {{"d", {{"a b", "c/d"}, {"x", 1}}}, {"l", {1, 2, 3}}};
  for (const auto& [source, expected] : std::vector<std::pair<std::string, std::string>>{
           {"{{ none | selectattr('x') | list }}", "[]"},
           {"{{ none | rejectattr('x', 'equalto', 1) | list }}", "[]"},
           {"{{ none | select('odd') | list }}", "[]"},
           {"{{ none | reject | list }}", "[]"},
           {"{{ none | map(attribute='x') | list }}", "[]"},
           {"{{ undefined_name | map('upper') | list }}", "[]"},
           {"{{ 0 | select | list }}", "[]"},
           {"{{ l | select('odd') | list }}", "[1, 3]"},
           {"{{ 5 .real }} {{ 1.5 .imag }} {{ true.real }}", "5 0.0 1"},
           {"{{ d | urlencode }}", "a+b=c%2Fd&x=1"},
           {"{{ [('k', 'v w')] | urlencode }}", "k=v+w"},
           {"{{ 'a b/c' | urlencode }}", "a%20b/c"},
           {"{{ 'aǅ' is lower }} {{ 'Aǅ' is upper }} {{ 'a' is lower }}", "False False True"},
           {"{{ '{:.2f}|{:>6}|{:<4}|{:^5}|{:05d}|{:,}'.format(3.14159, 'ab', 'c', 'd', 42, "
            "1234567) }}",
            "3.14|    ab|c   |  d  |00042|1,234,567"},
           {"{{ '{0:x}{1:+d}{n:*^7.1f}{2!r:>5}'.format(255, 3, 'q', n=2.25) }}",
            "ff+3**2.2**  'q'"},
           {"{{ '{:.1%} {:e} {:g} {:b}'.format(0.125, 12345.678, 0.0001, 5) }}",
            "12.5% 1.234568e+04 0.0001 101"},
           {"{{ l[1:] }} {{ 'abc'[::-1] }}", "[2, 3] cba"},
       }) {
    const auto text = Render(source, v);
    ASSERT_TRUE(text.ok()) << source << ": " << text.status();
    EXPECT_EQ(*text, expected) << source;
  }
  for (const auto& [source, what] : std::vector<std::pair<std::string, std::string>>{
           {"{{ none[1:] }}", "'NoneType' object is not subscriptable"},
           {"{{ true[:2] }}", "'bool' object is not subscriptable"},
           {"{{ 5[:2] }}", "'int' object is not subscriptable"},
           {"{{ d[1:] }}", "unhashable type: 'slice'"},
           {"{{ 5 | select | list }}", "not iterable"},
           {"{{ '{:d}'.format('x') }}", "is not for a text"},
           {"{{ '{:999999999}'.format(1) }}", "too large"},
       }) {
    const auto text = Render(source, v);
    ASSERT_FALSE(text.ok()) << source << ": " << *text;
    EXPECT_THAT(std::string(text.status().message()), HasSubstr(what)) << source;
  }
}

TEST(ChatTemplateTest, GoldenTemplatesGiveTheTextThatTransformersGives) {
  const ordered_json golden = ReadJson("cases.json");
  ASSERT_GE(golden["cases"].size(), 300u);
  int refused = 0;
  for (const ordered_json& c : golden["cases"]) {
    const std::string name =
        c["template"].get<std::string>() + "/" + c["conversation"].get<std::string>();
    auto parsed = ChatTemplate::Parse(
        golden["templates"][c["template"].get<std::string>()].get<std::string>());
    ASSERT_TRUE(parsed.ok()) << name << ": " << parsed.status();
    TemplateInput input;
    input.messages = c["messages"];
    input.tools = c["tools"];
    input.add_generation_prompt = c["add_generation_prompt"].get<bool>();
    input.variables = c["variables"];
    input.now_unix_s = kNow;
    const auto text = parsed->Render(input);
    if (c.contains("error")) {
      ++refused;
      EXPECT_EQ(text.status().code(), absl::StatusCode::kInvalidArgument) << name;
      EXPECT_EQ(text.status().message(), c["error"].get<std::string>()) << name;
      EXPECT_EQ(ReasonOf(text.status()), "TEMPLATE_REFUSED") << name;
    } else {
      ASSERT_TRUE(text.ok()) << name << ": " << text.status();
      EXPECT_EQ(*text, c["expected"].get<std::string>()) << name;
    }
  }
  EXPECT_GT(refused, 10);
}

TEST(ChatTemplateTest, SmallTemplatesGiveWhatJinjaItselfGives) {
  const ordered_json extra = ReadJson("extra.json");
  ASSERT_GT(extra["cases"].size(), 100u);
  for (const ordered_json& c : extra["cases"]) {
    const std::string source = c["source"].get<std::string>();
    auto parsed = ChatTemplate::Parse(source);
    TemplateInput input;
    input.variables = extra["variables"];
    input.now_unix_s = extra["now_unix_s"].get<int64_t>();
    const absl::StatusOr<std::string> text = parsed.ok() ? parsed->Render(input) : parsed.status();
    if (c.contains("expected")) {
      ASSERT_TRUE(text.ok()) << source << "\n" << text.status();
      EXPECT_EQ(*text, c["expected"].get<std::string>()) << source;
    } else {
      EXPECT_EQ(text.status().code(), absl::StatusCode::kInvalidArgument)
          << source << "\nJinja: " << (c.contains("error") ? c["error"] : c["refused"]);
      if (c.contains("refused")) {
        EXPECT_EQ(text.status().message(), c["refused"].get<std::string>());
      }
    }
  }
}

TEST(ChatTemplateTest, ErrorsNameTheLineOfTheTemplate) {
  EXPECT_THAT(Render("a\n\n{{ 1 + 'x' }}").status().message(),
              HasSubstr("template:3: unsupported operand"));
  EXPECT_THAT(Render("\n{% if %}").status().message(),
              HasSubstr("template:2: Expected an expression"));
  EXPECT_THAT(Render("{% for x in y %}").status().message(), HasSubstr("expected 'endfor'"));
  EXPECT_THAT(Render("{{ 'open").status().message(), HasSubstr("template:1:"));
  EXPECT_THAT(Render("{% include 'x' %}").status().message(),
              HasSubstr("'include' is not available"));
  EXPECT_THAT(Render("x\xff").status().message(), HasSubstr("not UTF-8 at byte 1"));
  EXPECT_THAT(Render("{{ a.b.c }}", {{"a", ordered_json::object()}}).status().message(),
              HasSubstr("'dict object' has no attribute 'b'"));
}

// Templates that would take all time or memory; each must come back (the test's time limit is the
// judge of soon), and say so.
TEST(ChatTemplateTest, HostileTemplatesRunIntoALimit) {
  const std::string deep_text = "{{ '" + std::string(100, 'x') + "' * 10**9 }}";
  const std::string sources[] = {
      deep_text,
      "{{ 'a' * 10**18 }}",
      "{{ [0] * 10**10 }}",
      "{{ 'a'.center(10**12) }}",
      "{{ '%9999999999d' % 1 }}",
      "{{ 'a' | indent(10**12) }}",
      "{{ range(10**9) }}",
      "{{ 9**99999 }}",
      "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}x{% endfor "
      "%}{% endfor %}{% endfor %}",
      "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
      "{% set ns = namespace(s='x') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% "
      "endfor %}",
      "{% set ns = namespace(l=[]) %}{% for i in range(9999) %}{% set ns.l = [ns.l] %}{% endfor %}",
      "{% set ns = namespace(l=[1]) %}{% for i in range(99) %}{% set ns.l = [ns.l, ns.l] %}{% "
      "endfor %}",
      "{% set ns = namespace(l=[1]) %}{% for i in range(9999) %}{% for x in [ns.l] %}{% set ns.l = "
      "loop %}{% endfor %}{% endfor %}",
      "{{ ('a' * 9999999) | replace('', 'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb') }}",
      "{{ ('a' * 200000000) | upper }}",
      "{% set a = 'a' * 1000000 %}{% for i in range(99999) %}{% if a ~ i == 'b' %}{% endif %}{% "
      "endfor %}",
      "{{ ('a' * 99999999).split('a') }}",
      "{{ [1] | batch(10**9, 0) | list }}",
  };
  for (const std::string& source : sources) {
    const auto text = Render(source);
    EXPECT_EQ(text.status().code(), absl::StatusCode::kResourceExhausted) << source << "\n"
                                                                          << text.status();
  }
}

TEST(ChatTemplateTest, SyntaxNestedTooDeepIsAnErrorOfTheTemplate) {
  const auto many = [](const std::string& s, int n) {
    std::string out;
    for (int i = 0; i < n; ++i) out += s;
    return out;
  };
  const int n = 20000;
  const std::string sources[] = {
      "{{ " + many("(", n) + "1" + many(")", n) + " }}",
      "{{ " + many("[", n) + many("]", n) + " }}",
      "{{ " + many("not ", n) + "1 }}",
      "{{ " + many("-", n) + "1 }}",
      "{{ 1" + many(" + 1", n) + " }}",
      "{{ a" + many(".b", n) + " }}",
      "{{ a" + many("|upper", n) + " }}",
      many("{% if 1 %}", n) + many("{% endif %}", n),
      "{{ 1" + many(" if 1 else 1", n) + " }}",
      "{% for " + many("(", n) + "a" + many(")", n) + " in b %}{% endfor %}",
      "{{ f" + many("(f", n) + many(")", n) + " }}",
      "{{ a" + many("[a", n) + many("]", n) + " }}",
  };
  for (const std::string& source : sources) {
    EXPECT_THAT(ChatTemplate::Parse(source).status().message(), HasSubstr("too deep"))
        << source.substr(0, 40);
  }
}

TEST(ChatTemplateTest, ValuesThatHoldThemselvesAreGivenBack) {
  // The leak checker of the sanitizer build is the judge.
  EXPECT_TRUE(
      Render("{% set ns = namespace() %}{% set ns.me = ns %}{% set ns.l = [ns] %}{{ ns.me.me.l }}")
          .ok());
  EXPECT_TRUE(Render("{% macro f() %}{% endmacro %}{% set ns = namespace(f=f) %}{% macro g() %}{{ "
                     "ns.f }}{% endmacro %}"
                     "{% set ns.f = g %}{% for i in [1] %}{% macro h() %}{{ i }}{% endmacro %}{% "
                     "set ns.h = h %}{% endfor %}")
                  .ok());
  EXPECT_TRUE(Render("{% set ns = namespace() %}{% for i in [1, 2] %}{% set x = loop.changed(loop) "
                     "%}{% set ns.l = loop %}"
                     "{% endfor %}{% set y = ns.l.changed(ns.l) %}")
                  .ok());
}

TEST(ChatTemplateTest, AnInputNestedTooDeepIsRefused) {
  ordered_json deep = 1;
  for (int i = 0; i < 1000; ++i) deep = ordered_json::array({deep});
  EXPECT_EQ(Render("{{ x }}", {{"x", deep}}).status().code(), absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace tutti::tokenizer
