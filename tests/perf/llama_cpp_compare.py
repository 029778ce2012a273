#!/usr/bin/env python3
"""Prefill and decode of one process against llama.cpp, side by side.

    tests/perf/llama_cpp_compare.py --model models/SmolLM2-135M-Instruct.Q4_1.gguf [--threads 2] [--pairs 5]

Runs the two engines in turn (so that a noisy machine is noisy for both), each in a process of its own,
and prints medians of tokens per second and of the ratio within each pair. llama.cpp comes from PyPI's
llama-cpp-python in a virtual environment, which is built on first use (some minutes: it compiles).
"""
import argparse
import json
import os
import statistics
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
VERSION = "0.3.36"

# Runs inside the virtual environment.
PEER = r"""
import json, sys, time
import llama_cpp
model, threads, prompt, generate = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
llm = llama_cpp.Llama(model, n_ctx=prompt + generate + 8, n_batch=512, n_ubatch=512, n_threads=threads,
                      n_threads_batch=threads, verbose=False)
vocab = llm.n_vocab()
tokens = [(i * 7919 + 13) % vocab for i in range(max(prompt, generate) + 1)]
llm.eval(tokens[:16])  # warm
llm.reset()
start = time.perf_counter()
llm.eval(tokens[:prompt])
pp = prompt / (time.perf_counter() - start)
llm.reset()
llm.eval(tokens[:1])
start = time.perf_counter()
for i in range(generate):
    llm.eval([tokens[i + 1]])
tg = generate / (time.perf_counter() - start)
print(json.dumps({"pp": pp, "tg": tg}))
"""


def environment(path):
    python = os.path.join(path, "bin", "python")
    check = [python, "-c", "import llama_cpp"]
    if os.path.exists(python) and subprocess.run(check, capture_output=True).returncode == 0:
        return python
    print(f"building {path} with llama-cpp-python {VERSION} (once, some minutes) ...", flush=True)
    subprocess.run([sys.executable, "-m", "venv", path], check=True)
    subprocess.run([python, "-m", "pip", "install", "-q", f"llama-cpp-python=={VERSION}"], check=True)
    return python


def run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{command[0]} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", default=os.path.join(ROOT, "models", "SmolLM2-135M-Instruct.Q4_1.gguf"))
    p.add_argument("--bench", default=os.path.join(ROOT, "build", "bin", "model_bench"))
    p.add_argument("--venv", default=os.path.join(ROOT, ".venv-llama"))
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--prompt", type=int, default=512)
    p.add_argument("--generate", type=int, default=128)
    p.add_argument("--pairs", type=int, default=5)
    p.add_argument("--json", action="store_true")
    o = p.parse_args()
    for path in (o.model, o.bench):
        if not os.path.exists(path):
            sys.exit(f"{path} is missing (build the project first; tools/quickstart gets the model)")
    python = environment(o.venv)
    ours, theirs = [], []
    for i in range(o.pairs):
        ours.append(run([o.bench, "--model", o.model, "--threads", str(o.threads), "--prompt", str(o.prompt),
                         "--generate", str(o.generate), "--repeat", "1", "--json"]))
        theirs.append(run([python, "-c", PEER, o.model, str(o.threads), str(o.prompt), str(o.generate)]))
        if not o.json:
            print(f"pair {i + 1}/{o.pairs}: prefill {ours[-1]['pp']:.0f} | {theirs[-1]['pp']:.0f} tok/s, "
                  f"decode {ours[-1]['tg']:.1f} | {theirs[-1]['tg']:.1f} tok/s", flush=True)
    result = {}
    for key, name in (("pp", f"prefill of {o.prompt}"), ("tg", f"decode of {o.generate}")):
        a = statistics.median(x[key] for x in ours)
        b = statistics.median(x[key] for x in theirs)
        ratio = statistics.median(x[key] / y[key] for x, y in zip(ours, theirs))
        result[key] = {"tutti": round(a, 1), "llama_cpp": round(b, 1), "ratio": round(ratio, 2)}
        if not o.json:
            print(f"{name}, {o.threads} threads: {a:.1f} tok/s, llama.cpp {b:.1f}, ratio {ratio:.2f}")
    if o.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
