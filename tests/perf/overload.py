#!/usr/bin/env python3
"""What clients feel of a cluster that is asked for more than it can do.

  tests/perf/overload.py --model FILE [--times 5] [--seconds 20] [--rounds 3] [--target-arg=--start-within=0.5]

Measures how many requests a second the cluster can do (16 clients, one request after the other), then in turn, round by
round: arrivals at a fifth of that, and at --times of it (Poisson, seeded; each request a connection of its own). Prints the
time to the first token of what was served, and what was refused. Then: short requests beside one with 128 choices.
"""
import argparse, asyncio, json, pathlib, random, statistics, subprocess, sys, tempfile, time

ROOT = pathlib.Path(__file__).resolve().parents[2]
TUTTI = ROOT / "build/bin/tutti"


async def ask(host, port, body, deadline=120):
    """(HTTP status, seconds to the first token, seconds to the end, whether a refusal says when to come back)."""
    start = time.monotonic()
    reader, writer = await asyncio.open_connection(host, port)
    data = json.dumps({"stream": True, "temperature": 0, "ignore_eos": True, **body}).encode()
    writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
                 b"Content-Length: %d\r\n\r\n" % len(data) + data)
    try:
        async with asyncio.timeout(deadline):
            status = int((await reader.readline()).split()[1])
            first, retry = None, False
            while line := await reader.readline():
                retry = retry or line.lower().startswith(b"retry-after")
                if first is None and line.startswith(b'data: {"') and b'"error"' not in line:
                    first = time.monotonic() - start
                if b'data: {"error"' in line:
                    status = 599
    finally:
        writer.close()
    return status, first, time.monotonic() - start, retry


def prompt(rng):
    return " ".join(rng.choice("river stone light green bread wind winter letter hand sea".split()) for _ in range(24))


async def arrivals(address, rate, seconds, rng, tokens):
    host, port = address.rsplit(":", 1)
    tasks, end = [], time.monotonic() + seconds
    at = time.monotonic()
    while at < end:
        await asyncio.sleep(max(0, at - time.monotonic()))
        tasks.append(asyncio.create_task(ask(host, port, {"prompt": prompt(rng), "max_tokens": tokens})))
        at += rng.expovariate(rate)
    return await asyncio.gather(*tasks)


def share(values, q):
    return sorted(values)[min(len(values) - 1, int(q * len(values)))] if values else float("nan")


async def probes(address, rng, count):
    host, port = address.rsplit(":", 1)
    big = asyncio.create_task(ask(host, port, {"prompt": prompt(rng), "max_tokens": 64, "n": 128}, 600))
    await asyncio.sleep(0.3)
    times = []
    for _ in range(count):
        if big.done():
            break
        status, _, total, _ = await ask(host, port, {"prompt": prompt(rng), "max_tokens": 2, "user": "another"})
        assert status == 200, status
        times.append(total)
    status, _, total, _ = await big
    return times, status, total


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", default=ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf")
    p.add_argument("--times", type=float, default=5)
    p.add_argument("--seconds", type=float, default=20)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--tokens", type=int, default=32)
    p.add_argument("--threads", default="1")
    p.add_argument("--target-arg", action="append", default=[])
    args = p.parse_args()
    rng = random.Random(1)
    with tempfile.TemporaryDirectory(prefix="tutti-overload-") as state:
        run = lambda *a: subprocess.run([str(TUTTI), *map(str, a)], check=True, capture_output=True, text=True).stdout
        run("up", "--model", args.model, "--threads", args.threads, "--http", 0, "--grpc", 0, "--state-dir", state, "--detach",
            *[f"--target-arg={a}" for a in args.target_arg])
        try:
            http = json.loads(run("status", "--json", "--state-dir", state))["http"]
            report = json.loads(run("bench", "--address", f"http://{http}", "--clients", 16, "--requests", 96, "--prompt-words", 24,
                                    "--max-tokens", args.tokens, "--json"))
            can = report["requests_per_s"]
            print(f"can do {can:.1f} requests/s ({report['output_tokens_per_s']:.0f} tokens/s)")
            ratios = []
            for r in range(args.rounds):
                calm = asyncio.run(arrivals(http, can / 5, args.seconds, rng, args.tokens))
                storm = asyncio.run(arrivals(http, can * args.times, args.seconds, rng, args.tokens))
                firsts = [[f for s, f, _, _ in x if s == 200 and f is not None] for x in (calm, storm)]
                refused = [(s, retry) for s, _, _, retry in storm if s != 200]
                p99 = [share(f, .99) for f in firsts]
                ratios.append(p99[1] / p99[0])
                print(f"round {r + 1}: first token p50 {share(firsts[0], .5) * 1e3:.0f} -> {share(firsts[1], .5) * 1e3:.0f} ms, "
                      f"p99 {p99[0] * 1e3:.0f} -> {p99[1] * 1e3:.0f} ms ({ratios[-1]:.1f}x); at {args.times:g}x {len(firsts[1])} served, "
                      f"{len(refused)} refused ({sorted({s for s, _ in refused})}, {sum(t for _, t in refused)} with Retry-After)")
            print(f"p99 at {args.times:g}x / p99 unloaded: median {statistics.median(ratios):.2f}")
            times, status, total = asyncio.run(probes(http, rng, 20))
            print(f"{len(times)} requests of 2 tokens beside one with 128 choices ({status}, {total:.1f} s): "
                  f"median {statistics.median(times) * 1e3:.0f} ms, longest {max(times) * 1e3:.0f} ms")
        finally:
            subprocess.run([str(TUTTI), "down", "--state-dir", state], capture_output=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
