#!/usr/bin/env python3
"""What a draft costs that is no help: a cluster with it and one without, in turn.

    tests/perf/draft_unhelpful.py [--model FILE] [--skip-layers 15-29] [--clients 1 8] [--turns 40] [--rounds 3]

The draft is the target's model without half its layers, on the same cores: hardly ever right, and dear. The router
finds that out and lets it be (DraftTrial); every round begins with a draft that has just joined, so what finding out
costs is in the figure. The two clusters stand side by side and take turns of about a second, so that both meet the
machine in the same moods; one that has no turn does nothing. The ratio is that of all the time they took in a round.
"""
import argparse
import json
import os
import statistics
import subprocess

from draft_latency import BIN, ROOT, Cluster

TOKENS = 128  # of each answer


def load(cluster, clients, requests, seed):
    r = subprocess.run([f"{BIN}/tutti", "bench", "--address", cluster.router, "--clients", str(clients), "--requests",
                        str(requests), "--max-tokens", str(TOKENS), "--prompt-words", "20", "--seed", str(seed), "--json"],
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
    p.add_argument("--turns", type=int, default=40, help="of each cluster in a round")
    p.add_argument("--rounds", type=int, default=3)
    o = p.parse_args()
    o.draft, o.step_ms, o.target_arg = o.model, 0, []
    flags = ["--skip-layers", o.skip_layers]
    clusters = {with_draft: Cluster(o, threads=2, draft_flags=flags) for with_draft in (False, True)}
    try:
        for cluster in clusters.values():
            cluster.ask("Hi", 1, argparse.Namespace(temperature=0, tokens=4))
        print("| clients | no draft, tokens/s | unhelpful draft, tokens/s | ratio (of each round) | the draft computed |\n"
              "| --- | --- | --- | --- | --- |")
        for clients in o.clients:
            rates, ratios, used = {False: [], True: []}, [], []
            for i in range(o.rounds):
                clusters[True].set_draft(None)
                clusters[True].set_draft(0)
                draft = clusters[True].draft
                before = processor_s(draft)
                seconds = {False: 0.0, True: 0.0}
                for turn in range(o.turns):
                    for with_draft in (turn % 2 == 0, turn % 2 == 1):
                        run = load(clusters[with_draft], clients, clients, 1000 * i + turn)
                        seconds[with_draft] += clients * TOKENS / run["output_tokens_per_s"]
                used.append((processor_s(draft) - before) / seconds[True])
                ratios.append(seconds[False] / seconds[True])
                for with_draft in rates:
                    rates[with_draft].append(o.turns * clients * TOKENS / seconds[with_draft])
            print(f"| {clients} | {statistics.median(rates[False]):.0f} | {statistics.median(rates[True]):.0f} | "
                  f"{statistics.median(ratios):.3f} ({', '.join(f'{r:.3f}' for r in ratios)}) | "
                  f"{100 * statistics.median(used):.0f} % of the time |", flush=True)
    finally:
        for cluster in clusters.values():
            cluster.stop()


if __name__ == "__main__":
    main()
