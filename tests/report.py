#!/usr/bin/env python3
"""What a run of ctest was like: the slowest tests, and the cases that were skipped.

  tests/report.py BUILD_DIR [--slowest 10]

Reads BUILD_DIR/Testing/Temporary/LastTest.log, which ctest writes. Fails (exit status 1) when a case was
skipped that tests/skips.txt does not allow: a test that does not run proves nothing, and nobody reads
a skip in a green run."""
import argparse
import fnmatch
import pathlib
import re
import sys

HERE = pathlib.Path(__file__).resolve().parent
BLOCK = re.compile(r"^\d+/\d+ Test: (?P<name>\S+)\n(?P<text>.*?)^Test time = +(?P<seconds>[0-9.]+) sec\n-+\n"
                   r"(?P<verdict>[^\n]*)", re.M | re.S)
CASE = re.compile(r"^\[ +(?P<verdict>OK|FAILED|SKIPPED) +\] (?P<name>\S+?)(?:, where .*)? \((?P<ms>\d+) ms\)$", re.M)
PYTEST_SKIP = re.compile(r"^SKIPPED \[\d+\] (?P<name>\S+?)(?::\d+)?: (?P<why>.*)$", re.M)


def tests_of(log):
    """[(name, seconds, verdict, output)] of a LastTest.log; a test that was started again counts once a start."""
    return [(m["name"], float(m["seconds"]), m["verdict"], m["text"]) for m in BLOCK.finditer(log)]


def skips_of(name, verdict, text):
    """The skipped cases of one test, as "test case"."""
    out = [f"{name} {m['name']}" for m in CASE.finditer(text) if m["verdict"] == "SKIPPED"]
    out += [f"{name} {m['name']}" for m in PYTEST_SKIP.finditer(text)]
    if not out and ("Skipped" in verdict or "Not Run" in verdict):
        out.append(f"{name} *")
    return out


def allowed_skips(path):
    """The patterns of tests/skips.txt: what is before '#' on each line."""
    lines = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    return [" ".join(line.split()) for line in lines if line]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build_dir", type=pathlib.Path)
    parser.add_argument("--slowest", type=int, default=10, help="how many tests to print (10)")
    args = parser.parse_args()
    path = args.build_dir / "Testing/Temporary/LastTest.log"
    if not path.exists():
        sys.exit(f"{path}: no such file; run ctest in {args.build_dir} first")
    tests = tests_of(path.read_text(errors="replace"))
    if not tests:
        sys.exit(f"{path}: no test in it")
    print(f"{len(tests)} tests, {sum(t[1] for t in tests):.0f} s of them; the slowest, each with its slowest case:")
    for name, seconds, _, text in sorted(tests, key=lambda t: -t[1])[:args.slowest]:
        cases = [(int(m["ms"]), m["name"]) for m in CASE.finditer(text)]
        print(f"  {seconds:7.1f} s  {name}" + (f"   {max(cases)[0] / 1000:.1f} s {max(cases)[1]}" if cases else ""))
    allowed = allowed_skips(HERE / "skips.txt")
    skips = [s for t in tests for s in skips_of(t[0], t[2], t[3])]
    wrong = [s for s in skips if not any(fnmatch.fnmatchcase(s, a) for a in allowed)]
    if skips:
        print(f"{len(skips)} cases were skipped, {len(skips) - len(wrong)} of them as tests/skips.txt allows")
    for skip in wrong:
        print(f"  NOT ALLOWED: {skip}")
    if wrong:
        sys.exit("a skipped case counts as a failure: give it what it needs, or add it with its reason to tests/skips.txt")


if __name__ == "__main__":
    main()
