#!/usr/bin/env python3
"""Throughput of a target whose experts run on shards of this machine, against the same in one process.

  tests/perf/expert_shards.py --model MIXTURE.gguf [--shards 2] [--clients 1,16] [--rounds 5]
  tests/perf/expert_shards.py --model DENSE.gguf --slices 2      a dense model, its FFN cut into slices
  tests/perf/expert_shards.py --model MIXTURE.gguf --grpc        shards that do not share memory
  tests/perf/expert_shards.py --model MIXTURE.gguf --grpc --expert-arg=--reply-delay-us=1000 \
      --other-arg=--expert-overlap-rows=2                        a second way to use them, side by side
  tests/perf/expert_shards.py --networks                         computed: other models, other networks

Starts router, tokenizer, target and shards on unix sockets; the arms take turns, round by round, and
medians are compared, so that other load on the machine falls on both. Then says where the time of a
layer goes, as the target's /metrics tell.
"""
import argparse, json, os, re, socket, statistics, subprocess, tempfile, time, urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Cluster:
    def __init__(self, args, shards, target_flags):
        self.folder = tempfile.TemporaryDirectory(prefix="tutti-shards-")
        self.children = []
        self.metrics_address = f"127.0.0.1:{free_port()}"
        d = self.folder.name
        self.router = f"unix:{d}/router"
        self.cluster = f"unix:{d}/router-cluster"
        self.start("router", "--listen", self.router, "--cluster-listen", self.cluster)
        self.start("tokenizer", "--listen", f"unix:{d}/tokenizer", "--join", self.cluster, "--model", args.model)
        slices = ["--ffn-slices", str(args.slices)] if args.slices else []
        for i in range(shards):
            self.start("expert", "--listen", f"unix:{d}/expert{i}", "--join", self.cluster, "--model", args.model,
                       *slices, *args.expert_arg)
        if shards:
            target_flags = target_flags + ["--experts", ",".join(f"unix:{d}/expert{i}" for i in range(shards))]
        self.start("target", "--listen", f"unix:{d}/target", "--join", self.cluster, "--model", args.model,
                   "--metrics", self.metrics_address, *slices, *target_flags)

    def start(self, name, *flags):
        path = os.path.join(self.folder.name, f"{name}{len(self.children)}.log")
        with open(path, "w") as log:
            child = subprocess.Popen([f"{ROOT}/build/bin/tutti-{name}", *flags], stdout=log, stderr=log)
        child.log = path
        self.children.append(child)

    def bench(self, clients, tokens):
        for _ in range(300):
            r = subprocess.run([f"{ROOT}/build/bin/tutti", "bench", "--address", self.router, "--clients", str(clients),
                                "--requests", str(clients * 2), "--prompt-words", "16", "--max-tokens", str(tokens),
                                "--seed", "1", "--json"], capture_output=True, text=True)
            if r.returncode == 0:
                return json.loads(r.stdout)
            dead = [c for c in self.children if c.poll() is not None]
            if dead:
                raise SystemExit(f"{' '.join(dead[0].args)}: ended with {dead[0].returncode}; its last words:\n"
                                 + open(dead[0].log).read()[-500:])
            time.sleep(0.2)
        raise SystemExit(r.stderr)

    def metrics(self):
        """{name with labels: value} of the target."""
        text = urllib.request.urlopen(f"http://{self.metrics_address}/metrics", timeout=10).read().decode()
        return {m[1]: float(m[2]) for m in re.finditer(r"^(tutti_target_\S+) (\S+)$", text, re.M)}

    def stop(self):
        for c in self.children:
            c.terminate()
        for c in self.children:
            c.wait()


def rate(result):
    return next(result[k] for k in ("output_tokens_per_s", "tokens_per_s") if k in result)


def breakdown(before, after):
    """What the target's counters say of the layers in between."""
    d = {k: after[k] - before.get(k, 0) for k in after}
    layers = d["tutti_target_expert_batches_total"]
    tokens = d["tutti_target_generation_tokens_total"]
    us = {p: d[f'tutti_target_expert_seconds_total{{part="{p}"}}'] / layers * 1e6 for p in ("send", "run", "way", "copy")}
    out, back = (d[f'tutti_target_expert_bytes_total{{direction="{x}"}}'] for x in ("out", "in"))
    return (f"    a layer: send {us['send']:.1f} us, slowest shard's computation {us['run']:.1f} us, way and waking "
            f"{us['way']:.1f} us, copy {us['copy']:.1f} us\n    a generated token (its share of the prompt in it): "
            f"{2 * d['tutti_target_expert_dispatches_total'] / tokens:.1f} messages, {out / tokens / 1e3:.1f} kB out, "
            f"{back / tokens / 1e3:.1f} kB back")


def compare(args):
    arms = {"local": Cluster(args, 0, []), "shards": Cluster(args, args.shards, args.target_arg)}
    if args.other_arg:
        arms["other"] = Cluster(args, args.shards, args.target_arg + args.other_arg)
    try:
        for clients in (int(c) for c in args.clients.split(",")):
            rates = {name: [] for name in arms}
            before = {}
            for name in list(arms)[1:]:
                arms[name].bench(clients, 4)  # it is up
                before[name] = arms[name].metrics()
            for _ in range(args.rounds):
                for name, cluster in arms.items():
                    rates[name].append(rate(cluster.bench(clients, args.tokens)))
            m = {name: statistics.median(r) for name, r in rates.items()}
            for name in before:
                print(f"{clients:3} clients: local {m['local']:.1f} tok/s, {args.shards} {name} {m[name]:.1f} tok/s, "
                      f"ratio {m[name] / m['local']:.2f}", flush=True)
                print(breakdown(before[name], arms[name].metrics()), flush=True)
            if args.other_arg:
                pairs = [o / s for o, s in zip(rates["other"], rates["shards"])]
                print(f"    other / shards, median of {len(pairs)} pairs: {statistics.median(pairs):.3f} "
                      f"({min(pairs):.2f} to {max(pairs):.2f})", flush=True)
    finally:
        for cluster in arms.values():
            cluster.stop()


# hidden size, layers with experts, experts per token, experts
MODELS = {"SmolLM2 upcycled": (576, 30, 2, 8), "Mixtral 8x7B": (4096, 32, 2, 8), "DeepSeek-V3": (7168, 58, 8, 256)}


def networks(shards, batch):
    """Bytes of a decode step and the time that the wires need for them: rows go out as int8 with an f32 scale for
    each 32, once to every shard that one of the row's experts is on; an f32 row comes back for each (row, expert)."""
    print(f"A decode step of {batch} sequences, experts spread evenly over {shards} shards; one wire in and one out "
          "at the target.\n")
    print("| model | messages | MB out | MB back | wire at 10 / 25 / 100 Gb/s, ms | and 20 us a layer on the way, ms |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, (hidden, layers, top_k, _) in MODELS.items():
        per_row = shards * (1 - (1 - 1 / shards) ** top_k)  # shards that a row visits
        per_layer = shards * (1 - (1 - 1 / shards) ** (top_k * batch))  # shards that a layer visits
        out = batch * layers * per_row * (hidden * 1.125 + 12)
        back = batch * layers * top_k * hidden * 4
        wire = [max(out, back) * 8 / (g * 1e9) * 1e3 for g in (10, 25, 100)]
        print(f"| {name} | {2 * layers * per_layer:.0f} | {out / 1e6:.2f} | {back / 1e6:.2f} | "
              + " / ".join(f"{w:.2f}" for w in wire) + " | "
              + " / ".join(f"{w + layers * 0.02:.2f}" for w in wire) + " |")
    print()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model")
    p.add_argument("--slices", type=int, default=0, help="cut a dense model's FFN; 0: the model is a mixture")
    p.add_argument("--shards", type=int, default=2)
    p.add_argument("--clients", default="1,16")
    p.add_argument("--tokens", type=int, default=64)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--grpc", action="store_true", help="shards do not share memory with the target")
    p.add_argument("--target-arg", action="append", default=[], help="for the target with shards; repeatable")
    p.add_argument("--other-arg", action="append", default=[],
                   help="for the target of a third arm, beside --target-arg; repeatable")
    p.add_argument("--expert-arg", action="append", default=[])
    p.add_argument("--networks", action="store_true", help="print the computed tables and end")
    args = p.parse_args()
    if args.networks:
        for batch in (1, 16, 256):
            networks(8, batch)
        return
    if not args.model:
        p.error("--model is needed (tutti upcycle makes a mixture of a dense model)")
    args.expert_arg += ["--no-shared-memory"] if args.grpc else []
    compare(args)


main()
