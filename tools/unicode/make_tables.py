#!/usr/bin/env python3
"""Writes shared/tokenizer/unicode_tables.inc from Python's unicodedata.

Run with a Python whose unicodedata is version 14.0.0 (3.11 has it): the version is fixed so that equal
tokenizers give equal ids on every machine. usage: tools/unicode/make_tables.py > shared/tokenizer/unicode_tables.inc
"""
import sys
import unicodedata as u

LETTER, NUMBER, SPACE, MARK, PUNCT, SYMBOL, WORD, ASSIGNED, NFC_SAFE = (1 << i for i in range(9))
WHITE = {*range(9, 14), 32, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000}
# Alphabetic characters that are neither letters, marks nor letter numbers: the circled and squared ones.
OTHER_ALPHABETIC = {*range(0x24B6, 0x24EA), *range(0x1F130, 0x1F14A), *range(0x1F150, 0x1F16A), *range(0x1F170, 0x1F18A)}
HANGUL = range(0xAC00, 0xAC00 + 11172)


def decomposition(c):
    d = u.decomposition(chr(c))
    return [int(x, 16) for x in d.split()] if d and not d.startswith('<') else None


def surrogate(c):
    return 0xD800 <= c < 0xE000


pairs = {c: d for c in range(0x110000) if (d := decomposition(c))}
composed = {c for c, d in pairs.items() if len(d) == 2 and u.normalize('NFC', chr(c)) == chr(c)}
seconds = {pairs[c][1] for c in composed} | {*range(0x1161, 0x1176), *range(0x11A8, 0x11C3)}


def flags(c):
    cat = u.category(chr(c))
    f = {'L': LETTER, 'N': NUMBER, 'M': MARK, 'P': PUNCT, 'S': SYMBOL}.get(cat[0], 0)
    if c in WHITE:
        f |= SPACE
    if cat[0] in 'LM' or cat in ('Nd', 'Nl', 'Pc') or c in (0x200C, 0x200D) or c in OTHER_ALPHABETIC:
        f |= WORD
    if cat != 'Cn' and not surrogate(c):
        f |= ASSIGNED
    if not surrogate(c) and u.combining(chr(c)) == 0 and c not in seconds and u.normalize('NFC', chr(c)) == chr(c):
        f |= NFC_SAFE
    return f


def runs(value):
    out, last, length = [], None, 0
    for c in range(0x110000):
        v = value(c)
        if v != last and length:
            out.append((length, last))
            length = 0
        last = v
        length += 1
    out.append((length, last))
    return out


def emit(name, numbers, type_):
    print(f'inline constexpr {type_} {name}[] = {{')
    line = ''
    for n in numbers:
        s = f'{n},'
        if len(line) + len(s) > 100:
            print(line)
            line = ''
        line += s
    print(line)
    print('};')


assert u.unidata_version == '14.0.0', u.unidata_version
print('// Made by tools/unicode/make_tables.py from Unicode 14.0.0. Do not edit.')
print('// clang-format off')
print('// (length, flags) runs over all code points.')
emit('kFlagRuns', [x for r in runs(flags) for x in r], 'uint32_t')
print('// (length, canonical combining class) runs over all code points.')
emit('kCombiningRuns', [x for r in runs(lambda c: 0 if surrogate(c) else u.combining(chr(c))) for x in r], 'uint32_t')
print('// (code point, first, second or 0, 1 when the pair composes again), ascending.')
emit('kDecompositions', [x for c, d in pairs.items() for x in (c, d[0], d[1] if len(d) > 1 else 0, int(c in composed))],
     'uint32_t')
