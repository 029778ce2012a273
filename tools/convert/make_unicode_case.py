#!/usr/bin/env python3
"""Writes shared/tokenizer/jinja/unicode_tables.inc: what Python's str methods know of code points.

Run from the root of the repository: python3 tools/convert/make_unicode_case.py
"""
import sys
import unicodedata

LAST = 0x110000


def ranges(predicate):
    out, start = [], None
    for c in range(0x80, LAST + 1):
        inside = c < LAST and predicate(chr(c))
        if inside and start is None:
            start = c
        elif not inside and start is not None:
            out.append((start, c - 1))
            start = None
    return out


def case_ranges(change):
    """(first, last, step, delta): code points that map to one other by a constant distance."""
    pairs = [(c, ord(change(chr(c))) - c) for c in range(0x80, LAST)
             if len(change(chr(c))) == 1 and change(chr(c)) != chr(c)]
    out = []
    for c, delta in pairs:
        if out:
            first, last, step, d = out[-1]
            if d == delta and (c - last == step or (first == last and c - last in (1, 2))):
                out[-1] = (first, c, c - last, d)
                continue
        out.append((c, c, 1, delta))
    return out


def specials(change):
    return [(c, change(chr(c))) for c in range(0x80, LAST) if len(change(chr(c))) > 1]


def write(name, rows, kind, form):
    print(f"inline constexpr {kind} {name}[] = {{")
    line = "   "
    for row in rows:
        item = " " + form(row) + ","
        if len(line) + len(item) > 100:
            print(line)
            line = "   "
        line += item
    print(line)
    print("};")


def pair(r):
    return f"{{{r[0]:#x}, {r[1]:#x}}}"


def quad(r):
    return f"{{{r[0]:#x}, {r[1]:#x}, {r[2]}, {r[3]}}}"


def special(r):
    return f"{{{r[0]:#x}, \"" + "".join(f"\\x{b:02x}" for b in r[1].encode()) + "\"}"


def main():
    path = "shared/tokenizer/jinja/unicode_tables.inc"
    with open(path, "w") as f:
        sys.stdout = f
        print(f"// Made by tools/convert/make_unicode_case.py, Unicode {unicodedata.unidata_version}. ASCII is left out.")
        write("kAlpha", ranges(str.isalpha), "Range", pair)
        write("kDigit", ranges(str.isdigit), "Range", pair)
        write("kDecimal", ranges(str.isdecimal), "Range", pair)
        write("kNumeric", ranges(str.isnumeric), "Range", pair)
        write("kSpace", ranges(str.isspace), "Range", pair)
        write("kNotPrintable", ranges(lambda c: not c.isprintable()), "Range", pair)
        write("kUpperCase", ranges(str.isupper), "Range", pair)
        write("kLowerCase", ranges(str.islower), "Range", pair)
        write("kToUpper", case_ranges(str.upper), "CaseRange", quad)
        write("kToLower", case_ranges(str.lower), "CaseRange", quad)
        write("kToTitle", case_ranges(str.title), "CaseRange", quad)
        write("kUpperSpecial", specials(str.upper), "CaseSpecial", special)
        write("kLowerSpecial", specials(str.lower), "CaseSpecial", special)
        write("kTitleSpecial", specials(str.title), "CaseSpecial", special)
    sys.stdout = sys.__stdout__


if __name__ == "__main__":
    main()
