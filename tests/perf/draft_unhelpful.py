#!/usr/bin/env python3
"""What a draft costs that is no help: the same load with it and without, in turn.

    tests/perf/draft_unhelpful.py [--model FILE] [--skip-layers 15-29] [--clients 1 8] [--seconds 10] [--rounds 3]

The draft is the target's model without half its layers, on the same cores: hardly ever right, and dear. The router
finds that out and lets it be (DraftTrial); every run with it begins with a draft that has just
joined, so what finding out costs is in the figure. Medians of the ratios within each round.
"""
import argparse
import json
import os
import statistics
import subprocess
import time

from draft_latency import BIN, ROOT, Cluster


def load(cluster, clients, requests, seed):
    r = subprocess.run([f"{BIN}/tutti", "bench", "--address", cluster.router, "--clients", str(clients), "--requests",
                        str(requests), "--max-tokens", "128", "--prompt-words", "20", "--seed", str(seed), "--json"],
                       capture_output=True, text=True, check=True)
    return json.loads(r.stdout)


def processor_s(child):
    """Seconds of processor time that it has used."""
    with open(f"/proc/{child.pid}/stat") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", default=os.path.join(ROOT, "models", "SmolLM2-135M-Instruct.Q4_1.gguf"))
    p.add_argument("--skip-layers", default="15-29")
    p.add_argument("--clients", type=int, nargs="+", default=[1, 8])
    p.add_argument("--seconds", type=float, default=10, help="of a run, about")
    p.add_argument("--rounds", type=int, default=3)
    o = p.parse_args()
    o.draft, o.step_ms, o.target_arg = o.model, 0, []
    cluster = Cluster(o, threads=2, draft_flags=["--skip-layers", o.skip_layers])
    try:
        cluster.ask("Hi", 1, argparse.Namespace(temperature=0, tokens=4))
        print("| clients | no draft, tokens/s | unhelpful draft, tokens/s | ratio (of each round) | the draft computed |\n"
              "| --- | --- | --- | --- | --- |")
        for clients in o.clients:
            warm = load(cluster, clients, clients, 1)
            requests = max(clients, int(o.seconds * warm["output_tokens_per_s"] / 128))
            rates = {False: [], True: []}
            used = []
            for i in range(o.rounds):
                for with_draft in (i % 2 == 0, i % 2 == 1):
                    cluster.set_draft(0 if with_draft else None)
                    before = processor_s(cluster.draft) if with_draft else 0
                    begin = time.monotonic()
                    rates[with_draft].append(load(cluster, clients, requests, 100 + i)["output_tokens_per_s"])
                    if with_draft:
                        used.append((processor_s(cluster.draft) - before) / (time.monotonic() - begin))
            ratios = [a / b for a, b in zip(rates[True], rates[False])]
            print(f"| {clients} | {statistics.median(rates[False]):.0f} | {statistics.median(rates[True]):.0f} | "
                  f"{statistics.median(ratios):.3f} ({', '.join(f'{r:.3f}' for r in ratios)}) | "
                  f"{100 * statistics.median(used):.0f} % of the time |", flush=True)
    finally:
        cluster.stop()


if __name__ == "__main__":
    main()
