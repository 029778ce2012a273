#!/usr/bin/env python3
"""Writes tests/data/chat_templates/extra.json: small templates with what Jinja2 itself makes of them.

Needs jinja2 (3.1). The environment is the one that transformers gives chat templates. Run from the root
of the repository: python3 tools/convert/make_template_cases.py
"""
import datetime
import json

from jinja2 import nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

NOW = datetime.datetime(2025, 3, 9, 14, 5, 7)
VARIABLES = {
    "bos_token": "<s>", "eos_token": "</s>", "name": "Ünïcödé Ñame", "n": 7, "x": 2.5, "big": 123456789012,
    "yes": True, "no": False, "nothing": None, "empty": "", "list": [3, 1, 2], "words": ["beta", "Alpha", "gamma"],
    "d": {"b": 1, "a": [1, 2.0, None, "é\n\"q\""], "items": "shadowed", "nested": {"k": {"deep": True}}},
    "people": [{"name": "Ann", "age": 30, "tags": ["x"]}, {"name": "bob", "age": 25, "tags": []},
               {"name": "Cid", "age": 30}],
    "text": "  The quick\tbrown\n fox's \"jump\"  ", "html": "<a href='x'>&</a>",
    "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": [{"type": "text", "text": "hi"}]},
                 {"role": "assistant", "content": None, "tool_calls": [
                     {"id": "1", "function": {"name": "f", "arguments": {"a": 1, "b": [True, None]}}}]}],
}

CASES = r"""
{{ 1 }} {{ 1.0 }} {{ -0.0 }} {{ 1e100 }} {{ 1e16 }} {{ 123456789.125 }} {{ 1e-5 }} {{ 0.0001 }} {{ 0.1 + 0.2 }} {{ 1/3 }}
{{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % -3 }} {{ -7 % 3 }} {{ 7.5 // 2 }} {{ -7.5 % 2 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ -2 ** 2 }} {{ 2 ** 3 ** 2 }}
{{ True + 1 }} {{ true == 1 }} {{ 1 == 1.0 }} {{ '1' == 1 }} {{ none == false }} {{ [] == () }} {{ [1,2] == [1.0,2] }} {{ {'a':1} == {'a':1.0} }}
{{ 'a' ~ 1 ~ none ~ true ~ 1.5 ~ [1,'x'] ~ {'k': 'v'} ~ (1,) ~ () }}
{{ [1, 2] + [3] }} {{ (1,) + (2,) }} {{ 'ab' * 3 }} {{ [0] * 2 }} {{ 2 * 'x' }} {{ 'x' * -1 }}|
{{ 1 < 2 < 3 }} {{ 1 < 2 > 5 }} {{ 'a' < 'b' }} {{ [1,2] < [1,3] }} {{ 3 >= 3 }} {{ 3 != 3 }} {{ 2 in [1,2] }} {{ 'z' not in 'xyz' }} {{ 'b' in d }} {{ 1 in d }}
{{ yes and 'A' or 'B' }} {{ no and 'A' or 'B' }} {{ '' or 'fallback' }} {{ not '' }} {{ not not 5 }} {{ 0 and x }} {{ none or none }}
{{ 'yes' if n > 5 else 'no' }} {{ 'yes' if n > 50 }}| {{ 'a' if no else 'b' if no else 'c' }}
{{ missing }}|{{ missing is defined }}|{{ d.missing is defined }}|{{ missing | default('D') }}|{{ nothing | default('D') }}|{{ nothing | default('D', true) }}|{{ missing or 'x' }}
{% for i in missing %}never{% else %}else{% endfor %} {{ missing | length }} {{ missing | list }} {{ missing | join(',') }}| {{ missing == missing }} {{ 'x' in missing }}
{{ missing.attribute }}
{{ missing + 1 }}
{{ missing() }}
{{ d.nope.nope }}
{{ 1 + 'a' }}
{{ 'a' + 1 }}
{{ 1 < 'a' }}
{{ none | length }}
{{ none.x }}|{{ n.x }}|{{ d.x }}|{{ list.x }}|{{ list[10] }}|{{ list['a'] }}|{{ d[1] }}
{{ list[0] }} {{ list[-1] }} {{ list[1:] }} {{ list[:-1] }} {{ list[::-1] }} {{ list[5:] }} {{ name[1:4] }} {{ name[::-1] }} {{ name[0] }} {{ name[-1] }} {{ 'abcdef'[1::2] }} {{ 'abc'[-10:10] }} {{ (1,2,3)[1:] }}
{{ d.b }} {{ d['b'] }} {{ d['items'] }} {{ d.a[3] }} {{ d.nested.k.deep }} {{ d.get('zz') }} {{ d.get('zz', 5) }} {{ d.items() | list | length }} {{ d.keys() | list }} {{ d.nested.values() | list }}
{{ d.items() }} {{ d.keys() }} {{ {}.values() }}
{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %} {% for k in d %}{{ k }},{% endfor %} {% for k, v in d | dictsort %}{{ k }} {% endfor %} {% for k, v in d | items %}{{ k }} {% endfor %}
{{ d | tojson }} {{ d | tojson(indent=2) }} {{ [] | tojson(indent=2) }} {{ {} | tojson }} {{ d | tojson(sort_keys=true) }} {{ 'é' | tojson(ensure_ascii=true) }} {{ [1,2] | tojson(separators=(',',':')) }} {{ '\x01\x1f\x7f\u2028😀/' | tojson }} {{ {1:2, none:3, true:4, 1.5:6} | tojson }}
{{ (1, 'a') | tojson }} {{ 1e22 | tojson }} {{ 100000.0 | tojson }} {{ '<&>\'' | tojson }}
{{ missing | tojson }}
{{ range | tojson }}
{{ text | trim }}|{{ text.strip() }}|{{ text.lstrip() }}|{{ text.rstrip() }}|{{ 'xxaxx'.strip('x') }}|{{ 'xxaxx' | trim('x') }}
{{ text.split() }} {{ 'a,b,,c'.split(',') }} {{ 'a,b,c'.split(',', 1) }} {{ 'a,b,c'.rsplit(',', 1) }} {{ ' a  b '.split(' ') }} {{ ' a b  c '.split(none, 1) }} {{ ' a b  c '.rsplit(none, 1) }} {{ 'a\nb\r\nc\n'.splitlines() }} {{ 'a\nb'.splitlines(true) }}
{{ 'k=v=w'.partition('=') }} {{ 'k=v=w'.rpartition('=') }} {{ 'kv'.partition('=') }} {{ 'kv'.rpartition('=') }}
{{ name.upper() }} {{ name.lower() }} {{ name | upper }} {{ name | title }} {{ "they're bill's-friends (x)" | title }} {{ "they're bill's friends".title() }} {{ 'HELLO wOrld' | capitalize }} {{ 'ß' | upper }} {{ 'ΑΣ' | lower }} {{ 'ÀÉ' | lower }} {{ 'aBc'.swapcase() }} {{ 'ǆx'.title() }}
{{ 'hello'.startswith('he') }} {{ 'hello'.startswith(('x', 'h')) }} {{ 'hello'.endswith('lo') }} {{ 'hello'.startswith('l', 2) }} {{ 'hello'.find('l') }} {{ 'hello'.rfind('l') }} {{ 'hello'.find('z') }} {{ 'hello'.index('e') }} {{ 'hello'.count('l') }} {{ 'ñañ'.find('ñ', 1) }} {{ 'aaa'.count('') }}
{{ 'hello'.index('z') }}
{{ 'a-b-c'.replace('-', '+') }} {{ 'a-b-c'.replace('-', '+', 1) }} {{ 'abc'.replace('', '.') }} {{ 'a-b' | replace('-', '') }} {{ 5 | replace(5, 6) }} {{ 'é' | replace('é', 'e') }} {{ 'aXbX' | replace('X', 'Y', 1) }}
{{ 'ab'.center(7) }}|{{ 'ab'.ljust(5, '*') }}|{{ 'ab'.rjust(5) }}|{{ '42'.zfill(5) }}|{{ '-42'.zfill(5) }}|{{ 'ab' | center(6) }}|{{ 'abc'.center(6) }}
{{ 'abc'.isalpha() }} {{ 'ab1'.isalnum() }} {{ '12'.isdigit() }} {{ '²'.isdigit() }} {{ '²'.isdecimal() }} {{ '½'.isnumeric() }} {{ ' \t'.isspace() }} {{ 'Ab'.istitle() }} {{ 'AB'.isupper() }} {{ 'ab'.islower() }} {{ ''.isalpha() }} {{ 'é'.isascii() }} {{ 'a_1'.isidentifier() }}
{{ 'prefix-x'.removeprefix('prefix-') }} {{ 'x.txt'.removesuffix('.txt') }} {{ '-'.join(['a','b']) }} {{ 'a\tb'.expandtabs(4) }}
{{ '-'.join([1]) }}
{{ '%s is %d, %5.2f|%-5s|%05d|%x|%r|%%' % ('a', 3, 2.5, 'b', 42, 255, "q") }} {{ '%s' % 5 }} {{ '%(a)s' % {'a': 1} }} {{ '%s-%s' | format('a', 'b') }} {{ '%+d % d %e %g %G' % (1, 2, 12345.678, 0.0001, 1e20) }}
{{ '%s %s' % (1,) }}
{{ '%s' % (1, 2) }}
{{ '{} {}'.format(1, 'a') }} {{ '{1} {0}'.format('a', 'b') }} {{ '{x}'.format(x=5) }} {{ '{{}}'.format() }}
{{ words | sort }} {{ words | sort(reverse=true) }} {{ words | sort(case_sensitive=true) }} {{ list | sort }} {{ people | sort(attribute='age') | map(attribute='name') | list }} {{ people | sort(attribute='age,name', reverse=true) | map(attribute='name') | join(' ') }}
{{ list | min }} {{ list | max }} {{ list | sum }} {{ people | sum(attribute='age') }} {{ words | max }} {{ people | max(attribute='age') }} {{ [] | min }}| {{ [1, 2] | sum(start=10) }}
{{ words | join }} {{ words | join(', ') }} {{ people | join('|', attribute='name') }} {{ [1, none, true] | join('-') }} {{ 'abc' | join('.') }}
{{ words | first }} {{ words | last }} {{ [] | first }}| {{ 'abc' | first }} {{ 'abc' | last }} {{ words | reverse | list }} {{ 'abç' | reverse }} {{ words | length }} {{ name | length }} {{ d | count }}
{{ [1,1,2,'a','A'] | unique | list }} {{ ['a','A'] | unique(case_sensitive=true) | list }} {{ people | unique(attribute='age') | map(attribute='name') | list }}
{{ words | map('upper') | list }} {{ people[:2] | map(attribute='tags.0') | list | length }} {{ people | map(attribute='zip', default='-') | join }} {{ ['1','2'] | map('int') | sum }} {{ words | map('replace', 'a', '_') | list }} {{ words | map(attribute=0) | list }}
{{ people | selectattr('age', 'gt', 26) | map(attribute='name') | list }} {{ people | rejectattr('age', 'equalto', 30) | list | length }} {{ people | selectattr('tags') | list | length }} {{ people | selectattr('tags', 'defined') | list | length }} {{ [0,1,2,''] | select | list }} {{ list | select('odd') | list }} {{ list | reject('even') | list }} {{ list | select('in', [1]) | list }}
{{ people | groupby('age') | length }} {% for age, group in people | groupby('age') %}{{ age }}:{{ group | map(attribute='name') | join('+') }} {% endfor %}
{{ [1,2,3,4,5] | batch(2) | list }} {{ [1,2,3] | batch(2, 0) | list }} {{ [1,2,3,4,5] | slice(2) | list }} {{ [1,2,3] | slice(2, 'x') | list }}
{{ 3.7 | int }} {{ '42' | int }} {{ '3.9' | int }} {{ 'x' | int }} {{ 'x' | int(default=5) }} {{ 'ff' | int(base=16) }} {{ '0x1F' | int(base=16) }} {{ none | int }} {{ true | int }} {{ ' 12 ' | int }} {{ '1.5' | float }} {{ 'x' | float }} {{ 5 | float }} {{ '1e3' | float }}
{{ 2.5 | round }} {{ 3.5 | round }} {{ 2.567 | round(2) }} {{ 2.5 | round(0, 'ceil') }} {{ 2.57 | round(1, 'floor') }} {{ 25 | round(-1) }} {{ 35 | round(-1) }} {{ 1234.5 | round(-2) }} {{ -3 | abs }} {{ -2.5 | abs }} {{ 7 | round }}
{{ "a\nb\n\nc" | indent }}|{{ "a\nb" | indent(2, true) }}|{{ "a\n\nb" | indent(2, blank=true) }}|{{ "a\nb" | indent('> ') }}|{{ "" | indent }}|{{ "a\n" | indent }}
{{ 'a long sentence for cutting' | truncate(12) }}|{{ 'a long sentence for cutting' | truncate(12, true) }}|{{ 'short' | truncate(5) }}|{{ 'short text here' | truncate(5, true, '..', 0) }} {{ 'some words, here' | wordcount }} {{ 'a b/ç' | urlencode }}
{{ html | escape }} {{ html | e | e }} {{ html | safe }} {{ '<' + (html | e) }} {{ (html | safe) + '<b>' }} {{ '<' ~ (html | e) }} {{ html | forceescape }} {{ 5 | escape }} {{ html | escape | length }}
{{ 5 | string + 'x' }} {{ 1.0 | string }} {{ none | string }} {{ true | string | lower }} {{ [1,'a'] | string }} {{ 'abc' | list }} {{ d | list }}
{{ "it's" | string }} {{ ["it's"] }} {{ ['say "hi"', "both ' and \"", 'tab\t', 'nul\x00', 'é', '\u200b', '\\'] }}
{{ 1 is number }} {{ 1 is integer }} {{ 1.0 is float }} {{ true is integer }} {{ true is number }} {{ true is boolean }} {{ 'a' is string }} {{ d is mapping }} {{ list is sequence }} {{ d is sequence }} {{ 'a' is iterable }} {{ 1 is iterable }} {{ none is none }} {{ no is false }} {{ yes is true }} {{ 1 is true }} {{ range is callable }} {{ missing is iterable }} {{ missing is sequence }}
{{ 3 is odd }} {{ 4 is even }} {{ 9 is divisibleby 3 }} {{ 9 is divisibleby(2) }} {{ 1 is in [1,2] }} {{ 3 is not in [1,2] }} {{ 'a' is eq 'a' }} {{ 2 is lt 3 }} {{ 'x' is lower }} {{ 'X' is upper }} {{ none is sameas none }} {{ 1 is sameas true }} {{ 'upper' is filter }} {{ 'odd' is test }} {{ 'nix' is filter }} {{ 1 is not none }} {{ missing is undefined }} {{ d.a is not defined }}
{{ 1 is nosuchtest }}
{{ 1 | nosuchfilter }}
{% set a = 1 %}{% for i in [1,2] %}{{ a }}{% set a = a + 1 %}{{ a }} {% endfor %}{{ a }}
{% set ns = namespace(a=1, b='x') %}{% for i in [1,2] %}{% set ns.a = ns.a + i %}{% endfor %}{{ ns.a }} {{ ns.b }} {{ ns['a'] }} {{ ns.c }}| {{ ns.c is defined }}
{% set d2 = {} %}{% set d2.x = 1 %}
{% set a, b = 1, 2 %}{{ a }}{{ b }} {% set (c, e) = [3, 4] %}{{ c }}{{ e }} {% set t = 1, %}{{ t }}
{% set a, b = [1] %}
{% set block %}  some {{ n }} text{% endset %}[{{ block }}] {% set up | upper | trim %} abc {% endset %}[{{ up }}]
{% if n == 1 %}one{% elif n == 7 %}seven{% else %}other{% endif %} {% if missing %}x{% elif none %}y{% else %}z{% endif %} {% if 0.0 or [] or {} or '' or () %}t{% else %}f{% endif %}
{% for x in list %}{{ loop.index }}/{{ loop.index0 }}/{{ loop.revindex }}/{{ loop.revindex0 }}/{{ loop.first }}/{{ loop.last }}/{{ loop.length }}/{{ loop.previtem }}/{{ loop.nextitem }}/{{ loop.depth }} {% endfor %}
{% for x in list %}{{ loop.cycle('a','b') }}{{ loop.changed(x > 1) }} {% for y in list %}{{ loop.depth }}{{ loop.depth0 }}{% endfor %}{% endfor %}
{% for x in list if x > 1 %}{{ loop.index }}:{{ x }}/{{ loop.length }} {% else %}none{% endfor %}{% for x in list if x > 5 %}{{ x }}{% else %}none{% endfor %}
{% for x in range(10) %}{% if x == 2 %}{% continue %}{% endif %}{% if x == 5 %}{% break %}{% endif %}{{ x }}{% endfor %} {{ range(5) | list }} {{ range(2, 8, 3) | list }} {{ range(3, 0, -1) | list }} {{ range(3) }} {{ range(5)[2] }}
{% for c in 'añb' %}{{ c }}.{% endfor %} {% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %} {% for a in 1, 2 %}{{ a }}{% endfor %}
{% for x in 5 %}{% endfor %}
{% for x in none %}{% endfor %}
{% for a, b in [1] %}{% endfor %}
{% macro f(a, b=2, c='x') %}{{ a }}-{{ b }}-{{ c }}{% endmacro %}{{ f(1) }} {{ f(1, 3) }} {{ f(1, c='y') }} {{ f(b=5, a=6) }} {{ f() }} {{ f(*[7, 8]) }} {{ f(**{'a': 9}) }} {{ f | string | length > 3 }} {{ f.name }}
{% macro f(a) %}{{ a }}{% endmacro %}{{ f(1, 2) }}
{% macro f(a) %}{{ a }}{% endmacro %}{{ f(z=2) }}
{% macro f(a) %}{{ a }}|{{ varargs }}|{{ kwargs }}{% endmacro %}{{ f(1, 2, 3, z=4) }}
{% macro wrap(tag) %}<{{ tag }}>{{ caller() }}</{{ tag }}>{% endmacro %}{% call wrap('b') %}bold {{ n }}{% endcall %} {% macro each(l) %}{% for i in l %}{{ caller(i) }}{% endfor %}{% endmacro %}{% call(i) each(list) %}[{{ i }}]{% endcall %}
{% macro fact(n) %}{% if n <= 1 %}1{% else %}{{ n * (fact(n - 1) | int) }}{% endif %}{% endmacro %}{{ fact(6) }}
{% set v = 1 %}{% macro f() %}{{ v }}{% endmacro %}{% set v = 2 %}{{ f() }}{% for v in [3] %}{{ f() }}{{ v }}{% endfor %}
{% macro f(x) %}{% set y = x * 2 %}{{ y }}{% endmacro %}{{ f(2) }}{{ y is defined }}
{% macro f() %}{{ loop is defined }}{% endmacro %}{% for i in [1] %}{{ f() }}{{ loop is defined }}{% endfor %}
{% filter upper | replace('A', '4') %}banana {{ n }}{% endfilter %} {% with a = 1, b = n %}{{ a + b }}{% endwith %}{{ a is defined }} {% with %}{% set q = 1 %}{{ q }}{% endwith %}{{ q is defined }}
{% generation %}text {{ n }}{% set g = 1 %}{% endgeneration %}{{ g is defined }}
{% raw %}{{ not }} {% evaluated %}{% endraw %} {%- raw -%}   {{ x }}   {%- endraw -%} end
{# comment #}a{#- stripped -#} b {#+ kept +#} c
a   {%- if yes -%}   b   {%- endif -%}   c {{- ' d ' -}} e
{% if yes %}
    line one
    {% for i in [1, 2] %}
    item {{ i }}
    {% endfor %}
{% endif %}
tail
   {% if yes %}x{% endif %}   
	{%+ if yes %}kept{% endif +%}
end
text {% if yes %}
newline trimmed{% endif %}

blank line above
{{ 'single\'quote' }} {{ "double\"quote" }} {{ 'tab\there' }} {{ 'uni\u00e9\x41\101' }} {{ 'back\\slash' }} {{ 'unknown\qescape' }} {{ 'joined' 'strings' }} {{ '\U0001F600' }}
{{ 1_000 }} {{ 0x1f }} {{ 0b101 }} {{ 0o17 }} {{ 1.5e3 }} {{ 1e3 }} {{ list.0 }} {{ d.a.1 }}
{{ (1, 2, 3) }} {{ 1, 2 }} {{ (1) }} {{ [1, [2, (3,)], {'a': (4, 5)}] }} {{ {'a': 1, 'a': 2} }} {{ {1: 'x', 1.0: 'y', true: 'z'} }}
{{ dict(a=1, b=2) }} {{ dict({'x': 1}, y=2) }} {{ dict([('k', 'v')]) }}
{{ strftime_now('%Y-%m-%d %H:%M:%S %d %b %Y %B %A %a %j %I:%M %p %y %e|%-d|%-m %F %T %D %U %W %u %w') }}
{{ raise_exception('refused: ' ~ n) }}
{{ messages[1].content[0].text }} {{ messages[2].tool_calls[0].function.arguments | tojson }} {{ messages | map(attribute='role') | list }} {{ messages[-1]['tool_calls'] | length }} {{ messages[0].content is string }} {{ messages[1].content is string }} {{ messages[2].content is none }} {{ 'tool_calls' in messages[2] }}
{% set last = messages | selectattr('role', 'equalto', 'user') | list | last %}{{ last.role }} {{ (messages | last).role }} {{ messages[0]['content'] if messages[0]['role'] == 'system' else '' }}
{{ list.append(4) }}
{{ d.update({'z': 1}) }}
{{ ''.__class__ }}|{{ ''.__class__.__mro__ }}
{{ list.index(2) }} {{ list.count(3) }} {{ (1,2).index(2) }} {{ list.copy() }} {{ d.nested.copy() }}
{{ list | attr('index') is callable }} {{ d | attr('b') is defined }}
{% print n %} {% set _x = 5 %}{{ _x }}
{{ list is sameas list }} {{ [1] is sameas [1] }} {{ ([1,2,3] | map('string') | list)[1] }} {{ ([3,1] | sort)[0] }}
{{ (words | map('upper'))[0] is defined }} {{ words | map('upper') is iterable }}
{{ not missing is defined }} {{ not n == 7 }} {{ -n + 1 }} {{ +n }} {{ - 2 ** 2 }} {{ (n, x) | sum }} {{ n is not number or yes }}
{{ {'a': {'b': [1, {'c': 'deep'}]}}.a.b[1].c }} {{ [[1,2],[3,4]][1][0] }} {{ 'abc'[1].upper() }} {{ ('a' ~ 'b') | upper }} {{ 'a' ~ 'b' | upper }}
{{ "%.3f" | format(3.14159) }} {{ 3.0 | int }} {{ 10 / 2 }} {{ 10 // 2.0 }} {{ 2 ** 0.5 > 1 if no else 'skip' }}
{%- set content = '<think>a</think>b' -%}{{ content.split('</think>')[-1].lstrip('\n') }} {{ content.split('</think>')[0].rstrip('\n').split('<think>')[-1] }}
{%- for m in messages[::-1] %}{{ (messages | length - 1) - loop.index0 }}{{ m.role }} {% endfor %}
{% set ns = namespace(l=[]) %}{% for i in [1,2,3] %}{% set ns.l = ns.l + [i] %}{% endfor %}{{ ns.l }}
{% for i in [1] %}{% for j in [1,2] %}{% if j == 1 %}{% continue %}{% endif %}{{ j }}{% endfor %}{{ i }}{% endfor %}
{% block content %}in block {{ n }}{% endblock %} {% block b scoped %}x{% endblock b %}
{{ 'x' if missing is defined and missing.y else 'safe' }} {{ missing is defined and missing.y }}
{% if messages is string %}s{% elif messages is iterable and messages is not mapping %}list{% endif %}
{{ 'a' in ['a'] and 'b' in 'abc' and 'k' in d.nested }} {{ none in [none] }} {{ [1] in [[1]] }}
{{ 'x' in none }}
{{ 'x' in 5 }}
{{ d.a | map('string') | join(',') }} {{ [true, false] | map('string') | join }} {{ 'a,b' | replace(',', '\n') | indent(2) }}
{{ loop }}| {{ caller is defined }} {{ varargs is defined }}
"""


class GenerationTag(Extension):
    tags = {"generation"}

    def parse(self, parser):
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return nodes.CallBlock(self.call_method("_support"), [], [], body).set_lineno(lineno)

    def _support(self, caller):
        return caller()


class Refused(TemplateError):
    pass


def environment():
    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def raise_exception(message):
        raise Refused(message)

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda form: NOW.strftime(form)
    return env


def sources():
    """One case per line, but for the few that are about lines."""
    lines = CASES.strip("\n").split("\n")
    multi = {"{% if yes %}": 7, "   {% if yes %}x{% endif %}   ": 3, "text {% if yes %}": 4}
    i = 0
    while i < len(lines):
        n = multi.get(lines[i], 1)
        yield "\n".join(lines[i:i + n])
        i += n


def main():
    env = environment()
    cases = []
    for source in sources():
        case = {"source": source}
        try:
            case["expected"] = env.from_string(source).render(**VARIABLES)
        except Refused as e:
            case["refused"] = str(e)
        except Exception as e:  # any error of the template; the text is Python's own
            case["error"] = f"{type(e).__name__}: {e}"
        cases.append(case)
    with open("tests/data/chat_templates/extra.json", "w") as f:
        json.dump({"now_unix_s": int(NOW.replace(tzinfo=datetime.timezone.utc).timestamp()),
                   "variables": VARIABLES, "cases": cases}, f, indent=0)
        f.write("\n")
    print(len(cases), "cases,", sum("error" in c for c in cases), "errors")


if __name__ == "__main__":
    main()
