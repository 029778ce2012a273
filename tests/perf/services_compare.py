#!/usr/bin/env python3
"""What the services cost: a local cluster against the same load on a model in one process.

    tests/perf/services_compare.py [--model FILE] [--pairs 9]

Each pair is one process, the services, one process again, with the same requests; the ratio is taken to the
mean of the two. Then the time to first token of one client. Uses a state dir and ports of its own.
"""
import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TUTTI = os.path.join(ROOT, "build", "bin", "tutti")


def bench(*where, clients, requests, words, tokens, seed):
    command = [TUTTI, "bench", *where, "--clients", clients, "--requests", requests, "--prompt-words", words,
               "--max-tokens", tokens, "--seed", seed, "--json"]
    done = subprocess.run([str(x) for x in command], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", default=os.path.join(ROOT, "models", "SmolLM2-135M-Instruct.Q4_1.gguf"))
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--pairs", type=int, default=9)
    p.add_argument("--streams", type=int, default=8)
    o = p.parse_args()
    alone = ["--model", o.model, "--threads", o.threads]
    with tempfile.TemporaryDirectory() as state:
        start = time.perf_counter()
        subprocess.run([TUTTI, "up", "--model", o.model, "--threads", str(o.threads), "--state-dir", state, "--http", "0",
                        "--grpc", "0", "--detach"], check=True, stdout=subprocess.DEVNULL)
        try:
            subprocess.run([TUTTI, "generate", "--state-dir", state, "--prompt", "Hi", "--max-tokens", "1"], check=True,
                           stdout=subprocess.DEVNULL)
            print(f"tutti up to the first token: {time.perf_counter() - start:.2f} s")
            services = ["--state-dir", state]
            ratios = []
            for i in range(o.pairs):
                load = dict(clients=o.streams, requests=2 * o.streams, words=32, tokens=128, seed=1000 + i)
                runs = [bench(*w, **load)["output_tokens_per_s"] for w in (alone, services, alone)]
                ratios.append(runs[1] / ((runs[0] + runs[2]) / 2))
                print(f"pair {i + 1}/{o.pairs}: one process {runs[0]:.0f} and {runs[2]:.0f} tok/s, services {runs[1]:.0f}, "
                      f"ratio {ratios[-1]:.3f}", flush=True)
            print(f"{o.streams} streams: median ratio {statistics.median(ratios):.3f}")
            added = []
            for i in range(5):
                load = dict(clients=1, requests=20, words=16, tokens=4, seed=2000 + i)
                first = [bench(*w, **load)["first_token_s"]["p50"] for w in (alone, services)]
                added.append((first[1] - first[0]) * 1e3)
            print(f"time to first token: median {statistics.median(added):.2f} ms more than in one process")
        finally:
            subprocess.run([TUTTI, "down", "--state-dir", state], stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
