#!/usr/bin/env python3
"""Prefill and decode of one process against llama.cpp, side by side.

    tests/perf/llama_cpp_compare.py --model models/SmolLM2-135M-Instruct.Q4_1.gguf [--threads 2] [--pairs 5]
    tests/perf/llama_cpp_compare.py --table      all of README's performance table (about 20 minutes)

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

PEER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "llama_peer.py")


# For --isa: what llama.cpp is built with, so that both sides may use the same instructions.
AVX2 = "-DGGML_NATIVE=OFF -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON"
PEER_BUILD = {
    "avx2": AVX2 + " -DGGML_AVX512=OFF",
    "avx512": AVX2 + " -DGGML_AVX512=ON -DGGML_AVX512_VBMI=ON -DGGML_AVX512_VNNI=ON",
}


def peer_build(isa):
    """The key of PEER_BUILD; None: its own choice for this machine, which by gcc 12 dies of SIGILL where there is AMX."""
    if isa in PEER_BUILD:
        return isa
    with open("/proc/cpuinfo") as f:
        return "avx512" if "amx_int8" in f.read() else None


def environment(path, peer):
    python = os.path.join(path, "bin", "python")
    check = [python, "-c", "import llama_cpp"]
    if os.path.exists(python) and subprocess.run(check, capture_output=True).returncode == 0:
        return python
    print(f"building {path} with llama-cpp-python {VERSION} (once, some minutes) ...", flush=True)
    subprocess.run([sys.executable, "-m", "venv", path], check=True)
    build = dict(os.environ, CMAKE_ARGS=PEER_BUILD[peer]) if peer else None
    cache = ["--no-cache-dir"] if build else []  # pip would hand out the wheel of another build
    subprocess.run([python, "-m", "pip", "install", "-q", *cache, f"llama-cpp-python=={VERSION}"], check=True, env=build)
    return python


def run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{command[0]} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def pairs(o, python, threads, model, extra, keys):
    """Runs both engines in turn; {key: {"tutti", "llama_cpp", "ratio"}}, medians."""
    ours, theirs = [], []
    common = ["--model", model, "--threads", str(threads)] + [str(x) for x in extra]
    for i in range(o.pairs):
        ours.append(run([o.bench, "--repeat", "1", "--json", "--isa", o.isa] + common))
        theirs.append(run([python, PEER] + common))
        if not o.json:
            print(f"  pair {i + 1}/{o.pairs}: " + ", ".join(
                f"{k} {ours[-1][k]:.0f} | {theirs[-1][k]:.0f} tok/s" for k in keys), file=sys.stderr, flush=True)
    out = {}
    for k in keys:
        out[k] = {"tutti": round(statistics.median(x[k] for x in ours), 1),
                  "llama_cpp": round(statistics.median(x[k] for x in theirs), 1),
                  "ratio": round(statistics.median(x[k] / y[k] for x, y in zip(ours, theirs)), 2)}
    return out


def quantised(o, dtype):
    """The model in another element type, made once with `tutti quantize`."""
    if dtype == "Q4_1":
        return o.model
    path = os.path.join(os.path.dirname(o.model), f"{os.path.basename(o.model).split('.')[0]}.{dtype}.gguf")
    if not os.path.exists(path):
        subprocess.run([os.path.join(os.path.dirname(o.bench), "tutti"), "quantize", "--model", o.model, "--type", dtype,
                        "--out", path, "--no-report"], check=True, stdout=subprocess.DEVNULL)
    return path


def row(name, r):
    print(f"| {name} | {r['tutti']:.0f} tok/s | {r['llama_cpp']:.0f} tok/s | {r['ratio']:.2f} |", flush=True)


def table(o, python):
    """README's performance table."""
    print("| | Tutti | llama.cpp | ratio |\n| --- | --- | --- | --- |")
    for dtype in o.types.split(","):
        model = quantised(o, dtype)
        for threads in (2, 1):
            r = pairs(o, python, threads, model, ["--prompt", 512, "--generate", 128], ("pp", "tg"))
            plural = "threads" if threads > 1 else "thread"
            row(f"{dtype}, prefill of 512, {threads} {plural}", r["pp"])
            row(f"{dtype}, decode of 128, {threads} {plural}", r["tg"])
    for streams in (4, 8, 16):
        r = pairs(o, python, 2, o.model, ["--prompt", 0, "--generate", 32, "--streams", streams], ("tg",))
        row(f"Q4_1, {streams} streams, 2 threads", r["tg"])
    r = pairs(o, python, 2, o.model, ["--prompt", 0, "--generate", 32, "--depth", 8000], ("tg",))
    row("Q4_1, decode after 8,000 tokens, 2 threads", r["tg"])
    # Steps of each kind in turn, so that all meet the machine in the same moods.
    for flag, values, what in (("--rows", "1,4,8", "rows of one sequence, against n = 1"),
                               ("--streams", "4,8,16", "streams, against n = 4")):
        done = subprocess.run([o.bench, "--model", o.model, flag, values, "--depth", "100", "--json", "--isa", o.isa],
                              capture_output=True, text=True, check=True)
        steps = [json.loads(line) for line in done.stdout.splitlines()]
        print(f"\nA step over n {what}: " + ", ".join(
            f"n = {step[flag[2:]]} {step['ratio']:.2f}x ({step['tok_s']:.0f} tok/s)" for step in steps[1:]))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", default=os.path.join(ROOT, "models", "SmolLM2-135M-Instruct.Q4_1.gguf"))
    p.add_argument("--bench", default=os.path.join(ROOT, "build", "bin", "model_bench"))
    p.add_argument("--venv", help="llama.cpp's virtual environment (default: .venv-llama, or one for each --isa)")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--isa", default="auto", help="avx2, avx512: both with that alone; any other is ours (llama.cpp has its best)")
    p.add_argument("--prompt", type=int, default=512)
    p.add_argument("--generate", type=int, default=128)
    p.add_argument("--pairs", type=int, default=5)
    p.add_argument("--json", action="store_true")
    p.add_argument("--table", action="store_true", help="all rows of README's performance table, as Markdown")
    p.add_argument("--types", default="Q4_1,Q4_0,Q8_0,Q4_K,F16", help="element types of the table")
    o = p.parse_args()
    for path in (o.model, o.bench):
        if not os.path.exists(path):
            sys.exit(f"{path} is missing (build the project first; tools/quickstart gets the model)")
    peer = peer_build(o.isa)
    python = environment(o.venv or os.path.join(ROOT, ".venv-llama" + ("-" + peer if peer else "")), peer)
    if o.table:
        return table(o, python)
    result = pairs(o, python, o.threads, o.model, ["--prompt", o.prompt, "--generate", o.generate], ("pp", "tg"))
    if not o.json:
        for key, name in (("pp", f"prefill of {o.prompt}"), ("tg", f"decode of {o.generate}")):
            r = result[key]
            print(f"{name}, {o.threads} threads: {r['tutti']} tok/s, llama.cpp {r['llama_cpp']}, ratio {r['ratio']}")
    if o.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
