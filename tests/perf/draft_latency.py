#!/usr/bin/env python3
"""What a draft gains when its words take time: real processes, and a proxy between router and draft that holds every
byte back.

    tests/perf/draft_latency.py [--model FILE] [--draft FILE] [--step-ms 60] [--rtt 0 0.5 1 2 4] [--rounds 3]

The target's steps are stretched to `step-ms`, as those of a larger model (tutti-target --forward-us-min), so that a
draft of this machine is cheap beside them. `rtt` is in steps of the target, half of it each way. One stream; rounds
take turns, medians are printed as a table of markdown, with the speed-up over no draft. Answers must be the same.
"""
import argparse
import asyncio
import json
import os
import statistics
import subprocess
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BIN = os.path.join(ROOT, "build", "bin")


class DelayProxy:
    """Forwards connections of one unix socket to another, each byte `delay_s` later, in order."""

    def __init__(self, listen, to):
        self.listen, self.to, self.delay_s = listen, to, 0.0
        self.loop = asyncio.new_event_loop()
        ready = threading.Event()
        threading.Thread(target=self.run, args=(ready,), daemon=True).start()
        ready.wait()

    def run(self, ready):
        self.loop.run_until_complete(asyncio.start_unix_server(self.connected, self.listen))
        ready.set()
        self.loop.run_forever()

    async def connected(self, reader, writer):
        there_reader, there_writer = await asyncio.open_unix_connection(self.to)
        await asyncio.gather(self.carry(reader, there_writer), self.carry(there_reader, writer))

    async def carry(self, reader, writer):
        due = asyncio.Queue()

        async def deliver():
            while (item := await due.get()) is not None:
                await asyncio.sleep(max(0, item[0] - self.loop.time()))
                writer.write(item[1])
            writer.close()

        delivering = asyncio.ensure_future(deliver())
        while data := await reader.read(1 << 16):
            due.put_nowait((self.loop.time() + self.delay_s, data))
        due.put_nowait(None)
        await delivering


class Cluster:
    def __init__(self, o, threads=1, draft_flags=()):
        self.folder = tempfile.TemporaryDirectory(prefix="tutti-latency-")
        self.children = []
        d = self.folder.name
        self.router = f"unix:{d}/router"
        self.proxy = DelayProxy(f"{d}/slow", f"{d}/draft")
        self.cluster = f"unix:{d}/router-cluster"
        self.start("router", "--listen", self.router, "--cluster-listen", self.cluster)
        self.start("tokenizer", "--listen", f"unix:{d}/tokenizer", "--join", self.cluster, "--model", o.model)
        self.start("target", "--listen", f"unix:{d}/target", "--join", self.cluster, "--model", o.model, "--threads",
                   str(threads), "--forward-us-min", str(o.step_ms * 1000), *o.target_arg)
        self.draft_flags = ["--listen", f"unix:{d}/draft", "--advertise", f"unix:{d}/slow", "--join", self.cluster,
                            "--model", o.draft, "--for", o.model, "--threads", "1", *draft_flags]
        self.draft = None

    def start(self, name, *flags):
        log = open(os.path.join(self.folder.name, name + ".log"), "a")
        child = subprocess.Popen([f"{BIN}/tutti-{name}", *flags], stdout=log, stderr=log)
        self.children.append(child)
        return child

    def set_draft(self, rtt_s):
        if rtt_s is None:
            if self.draft:
                self.draft.terminate()
                self.draft.wait()
                self.draft = None
            return
        self.proxy.delay_s = rtt_s / 2
        if self.draft is None:
            self.draft = self.start("draft", *self.draft_flags)
            log = os.path.join(self.folder.name, "draft.log")
            while open(log).read().count("draft/ready") < open(log).read().count("draft/listen") or "draft/ready" not in open(
                    log).read():
                time.sleep(0.05)
            time.sleep(1.0)

    def ask(self, prompt, seed, o):
        for _ in range(100):
            r = subprocess.run([f"{BIN}/tutti", "generate", "--address", self.router, "--prompt", prompt, "--seed", str(seed),
                                "--temperature", str(o.temperature), "--max-tokens", str(o.tokens), "--ignore-eos", "--json"],
                               capture_output=True, text=True)
            if r.returncode == 0:
                return json.loads(r.stdout)
            time.sleep(0.2)
        raise SystemExit(r.stderr)

    def stop(self):
        for c in self.children:
            c.terminate()
        for c in self.children:
            c.wait()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", default=os.path.join(ROOT, "models", "SmolLM2-135M-Instruct.Q4_1.gguf"))
    p.add_argument("--draft", default=os.path.join(ROOT, "models", "SmolLM2-135M-Instruct.Q4_0.gguf"))
    p.add_argument("--step-ms", type=int, default=60)
    p.add_argument("--rtt", type=float, nargs="+", default=[0, 0.5, 1, 2, 4])
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--seed", type=int, default=1000, help="of the first round")
    p.add_argument("--tokens", type=int, default=96)
    p.add_argument("--temperature", type=float, default=0.7)
    p.add_argument("--target-arg", action="append", default=[])
    o = p.parse_args()
    prompts = ["Once upon a time, in a small village by the sea,", "The three most important inventions are",
               "def fibonacci(n):\n"]
    arms = [None] + o.rtt
    rates = {arm: [] for arm in arms}
    accepted = {arm: [0, 0] for arm in arms}
    cluster = Cluster(o)
    try:
        cluster.ask("Hi", 1, o)
        for i in range(o.rounds):
            answers = {}
            for arm in arms:
                cluster.set_draft(None if arm is None else arm * o.step_ms / 1000)
                seconds = tokens = 0
                for prompt in prompts:
                    a = cluster.ask(prompt, o.seed + i, o)
                    assert answers.setdefault(prompt, a["digest"]) == a["digest"], "the answers differ"
                    u = a["usage"]
                    seconds += a["times"]["total_s"] - a["times"]["first_token_s"]
                    tokens += u["output_tokens"] - 1
                    accepted[arm][0] += u["accepted_tokens"]
                    accepted[arm][1] += u["proposed_tokens"]
                rates[arm].append(tokens / seconds)
    finally:
        cluster.stop()
    off = statistics.median(rates[None])
    print("| rtt, target steps | tokens/s | speed-up | kept of that without latency | guesses right |\n"
          "| --- | --- | --- | --- | --- |")
    first = None
    for arm in arms:
        speedup = statistics.median(r / n for r, n in zip(rates[arm], rates[None]))
        if arm is not None and first is None:
            first = speedup
        kept = "" if arm is None else f"{speedup / first:.2f}"
        right = "" if arm is None else f"{accepted[arm][0]} of {accepted[arm][1]}"
        print(f"| {'no draft' if arm is None else arm} | {statistics.median(rates[arm]):.1f} | {speedup:.2f} | {kept} | {right} |")


if __name__ == "__main__":
    main()
