#!/usr/bin/env python3
"""Encoding speed on one thread against PyPI's tokenizers and tiktoken, side by side.

    tests/perf/tokenizer_compare.py --model models/SmolLM2-135M-Instruct.Q4_1.gguf [--rounds 3] [kind=FILE ...]

All three encode the same requests of about 2 KB with the vocabulary of the model file, in turn, timed by the
processor time of their thread; medians of the rounds, and ours divided by the better peer. The peers live in
a virtual environment of their own (.venv-tokenizers), made on first use. Texts as in build/bin/tokenizer_bench.
"""
import argparse
import glob
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
VENV = os.path.join(ROOT, ".venv-tokenizers")
PACKAGES = ["tokenizers==0.23.3", "tiktoken==0.14.0"]

# Runs inside the virtual environment: engine, model, JSON of {kind: file} -> JSON of MB/s.
PEER = r"""
import json, struct, sys, time
engine, model, files = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])

def metadata(path):
    f = open(path, "rb")
    def read(fmt): return struct.unpack("<" + fmt, f.read(struct.calcsize("<" + fmt)))[0]
    def text(): return f.read(read("Q")).decode("utf-8", "replace")
    scalars = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
    def value(kind):
        if kind == 8: return text()
        if kind == 9:
            kind, count = read("I"), read("Q")
            return [value(kind) for _ in range(count)]
        return read(scalars[kind])
    assert f.read(4) == b"GGUF"; read("I"); read("Q")
    return {text(): value(read("I")) for _ in range(read("Q"))}

meta = metadata(model)
tokens, merges = meta["tokenizer.ggml.tokens"], [m.split(" ") for m in meta["tokenizer.ggml.merges"]]
start = time.perf_counter()
if engine == "tokenizers":
    from tokenizers import Tokenizer, models, pre_tokenizers
    t = Tokenizer(models.BPE({s: i for i, s in enumerate(tokens)}, [tuple(m) for m in merges]))
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(False)])
    encode = lambda s: t.encode(s, add_special_tokens=False).ids
else:
    import tiktoken
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    chars = {chr(b): b for b in printable}
    chars.update({chr(256 + n): b for n, b in enumerate(b for b in range(256) if b not in printable)})
    ranks = {}
    for s in [chr_ for chr_ in chars] + ["".join(m) for m in merges]:
        ranks.setdefault(bytes(chars[c] for c in s), len(ranks))
    pattern = r"\p{N}|'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    t = tiktoken.Encoding("model", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    encode = t.encode_ordinary
load = time.perf_counter() - start
out = {"load_ms": load * 1e3}
for kind, path in files.items():
    requests = json.load(open(path))
    size = sum(len(r.encode()) for r in requests)
    for r in requests[:50]: encode(r)
    start = time.thread_time()
    for r in requests: encode(r)
    out[kind] = size / 1e6 / (time.thread_time() - start)
print(json.dumps(out))
"""


def texts(given):
    out = {
        "english": "".join(open(p, encoding="utf-8").read() for p in sorted(glob.glob(f"{ROOT}/docs/**/*.md", recursive=True))),
        "code": "".join(open(p, encoding="utf-8").read() for p in sorted(glob.glob(f"{ROOT}/shared/**/*.cc", recursive=True))),
        "chinese": open(f"{ROOT}/tests/data/tokenizers/chinese.txt", encoding="utf-8").read(),
    }
    for pair in given:
        kind, path = pair.split("=", 1)
        out[kind] = open(path, encoding="utf-8").read()
    out["mixed"] = "".join(t[:60000] for t in out.values())
    # Small texts are repeated until a pass takes a while.
    return {k: t * max(1, 400000 // max(1, len(t.encode()))) for k, t in out.items()}


def requests(text):
    out, piece, size = [], [], 0
    for line in re.split(r"(?<=\n)", text):
        for part in (line[i : i + 600] for i in range(0, len(line), 600)):
            piece.append(part)
            size += len(part.encode())
            if size >= 2048:
                out.append("".join(piece))
                piece, size = [], 0
    return out + (["".join(piece)] if piece else [])


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True)
    p.add_argument("--bin", default=os.path.join(ROOT, "build/bin/tokenizer_bench"))
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("texts", nargs="*")
    a = p.parse_args()
    python = os.path.join(VENV, "bin/python")
    if not os.path.exists(python):
        subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    runs = {"ours": [], "tokenizers": [], "tiktoken": []}
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for kind, text in texts(a.texts).items():
            files[kind] = os.path.join(folder, kind + ".json")
            json.dump(requests(text), open(files[kind], "w"))
        for _ in range(a.rounds):
            ours = subprocess.run([a.bin, "--model", a.model, "--requests", *[f"{k}={v}" for k, v in files.items()]],
                                  check=True, capture_output=True, text=True).stdout
            runs["ours"].append(json.loads(ours))
            for engine in ("tokenizers", "tiktoken"):
                peer = subprocess.run([python, "-c", PEER, engine, a.model, json.dumps(files)],
                                      check=True, capture_output=True, text=True).stdout
                runs[engine].append(json.loads(peer))
    median = {e: {k: statistics.median(r[k] for r in rs) for k in rs[0]} for e, rs in runs.items()}
    print(f"{'MB/s':12}" + "".join(f"{e:>12}" for e in median) + f"{'ours / best':>14}")
    for kind in files:
        best = max(median[e][kind] for e in ("tokenizers", "tiktoken"))
        print(f"{kind:12}" + "".join(f"{m[kind]:12.1f}" for m in median.values()) + f"{median['ours'][kind] / best:14.1f}")
    print(f"{'load, ms':12}" + "".join(f"{m['load_ms']:12.1f}" for m in median.values()))


if __name__ == "__main__":
    main()
