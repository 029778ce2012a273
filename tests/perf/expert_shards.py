#!/usr/bin/env python3
"""Throughput of a target whose experts run on shards of this machine, against the same in one process.

  tests/perf/expert_shards.py --model M.gguf [--slices 2] [--shards 2] [--clients 1,16] [--rounds 3]

Starts router, tokenizer, target and shards on unix sockets; the arms take turns, round by round, and
medians are compared, so that other load on the machine falls on both.
"""
import argparse, json, os, statistics, subprocess, tempfile, time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class Cluster:
    def __init__(self, args, shards, target_flags):
        self.folder = tempfile.TemporaryDirectory(prefix="tutti-shards-")
        self.children = []
        d = self.folder.name
        self.router = f"unix:{d}/router"
        self.start("router", "--listen", self.router)
        self.start("tokenizer", "--listen", f"unix:{d}/tokenizer", "--join", self.router, "--model", args.model)
        slices = ["--ffn-slices", str(args.slices)]
        for i in range(shards):
            self.start("expert", "--listen", f"unix:{d}/expert{i}", "--join", self.router, "--model", args.model,
                       *slices, *args.expert_arg)
        if shards:
            target_flags = target_flags + ["--experts", ",".join(f"unix:{d}/expert{i}" for i in range(shards))]
        self.start("target", "--listen", f"unix:{d}/target", "--join", self.router, "--model", args.model,
                   *slices, *target_flags)

    def start(self, name, *flags):
        log = open(os.path.join(self.folder.name, name + ".log"), "a")
        self.children.append(subprocess.Popen([f"{ROOT}/build/bin/tutti-{name}", *flags], stdout=log, stderr=log))

    def bench(self, clients, tokens):
        for _ in range(100):
            r = subprocess.run([f"{ROOT}/build/bin/tutti", "bench", "--address", self.router, "--clients", str(clients),
                                "--requests", str(clients * 2), "--prompt-words", "16", "--max-tokens", str(tokens),
                                "--seed", "1", "--json"], capture_output=True, text=True)
            if r.returncode == 0:
                return json.loads(r.stdout)
            time.sleep(0.2)
        raise SystemExit(r.stderr)

    def stop(self):
        for c in self.children:
            c.terminate()
        for c in self.children:
            c.wait()


def rate(result):
    return next(result[k] for k in ("output_tokens_per_s", "tokens_per_s") if k in result)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True)
    p.add_argument("--slices", type=int, default=2)
    p.add_argument("--shards", type=int, default=2)
    p.add_argument("--clients", default="1,16")
    p.add_argument("--tokens", type=int, default=64)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--target-arg", action="append", default=[], help="for the target with shards; repeatable")
    p.add_argument("--expert-arg", action="append", default=[])
    args = p.parse_args()
    arms = {"local": Cluster(args, 0, []), "shards": Cluster(args, args.shards, args.target_arg)}
    try:
        for clients in (int(c) for c in args.clients.split(",")):
            rates = {name: [] for name in arms}
            for _ in range(args.rounds):
                for name, cluster in arms.items():
                    rates[name].append(rate(cluster.bench(clients, args.tokens)))
            m = {name: statistics.median(r) for name, r in rates.items()}
            print(f"{clients:3} clients: local {m['local']:.1f} tok/s, {args.shards} shards {m['shards']:.1f} tok/s, "
                  f"ratio {m['shards'] / m['local']:.2f}", flush=True)
    finally:
        for cluster in arms.values():
            cluster.stop()


main()
