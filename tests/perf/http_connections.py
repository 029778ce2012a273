#!/usr/bin/env python3
"""Connections at the gateway: many idle ones and many running streams, and how others fare meanwhile.

Prints a JSON line per server and load: resident memory, latency of /health and of the first event of a short
stream. A scripted router stands behind the gateway, so that the figures are the gateway's: its streams say
something every --every seconds until they are cancelled. Two gateways are compared in turn in one run:

    tests/perf/http_connections.py --idle 10000 --streams 1000 build/bin/tutti-gateway [OTHER-GATEWAY]

Needs grpcio and grpcio-tools (pip), and `ulimit -n` of twice the connections.
"""
import argparse
import concurrent.futures
import json
import os
import pathlib
import resource
import selectors
import socket
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]


def protos():
    """Python modules of the protos, made in a temporary folder."""
    from grpc_tools import protoc
    out = tempfile.mkdtemp(prefix="tutti-protos-")
    base = ROOT / "protos"
    files = [str(p.relative_to(base)) for p in base.rglob("*.proto")]
    import grpc_tools
    include = pathlib.Path(grpc_tools.__file__).parent / "_proto"
    if protoc.main(["", f"-I{base}", f"-I{include}", f"--python_out={out}", f"--grpc_python_out={out}", *files]):
        raise SystemExit("protoc failed")
    sys.path.insert(0, out)


def serve_router(every):
    """A router on asyncio: a stream costs it a task, no thread. Runs in a process of its own."""
    import asyncio

    import grpc
    protos()
    from tutti.generation.v1 import generation_pb2 as pb, generation_pb2_grpc as pb_grpc

    class Router(pb_grpc.GenerationServiceServicer):
        async def Generate(self, request, context):
            yield pb.GenerateResponse(started=pb.Started(model="scripted", seed=request.sampling.seed))
            forever = request.text == "forever"
            n = 0
            while forever or n < 3:
                d = pb.Delta(text=f"t{n} ", offset=n)
                d.tokens.add(token_id=n)
                yield pb.GenerateResponse(delta=d)
                n += 1
                if forever:
                    await asyncio.sleep(every)
            yield pb.GenerateResponse(finished=pb.Finished(reason=1, output_tokens=n))

        async def ListModels(self, request, context):
            r = pb.ListModelsResponse()
            r.models.add(name="scripted", context_tokens=100, ready_decoders=1)
            return r

    async def main():
        server = grpc.aio.server(options=[("grpc.max_concurrent_streams", 1 << 20)])
        port = server.add_insecure_port("127.0.0.1:0")
        pb_grpc.add_GenerationServiceServicer_to_server(Router(), server)
        await server.start()
        print(port, flush=True)
        await server.wait_for_termination()

    asyncio.run(main())


def post(body):
    data = json.dumps(body).encode()
    return (b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % len(data)) + data


class Gateway:
    def __init__(self, binary, router_port, args):
        self.process = subprocess.Popen([binary, "--http", "127.0.0.1:0", "--router", f"127.0.0.1:{router_port}", "--log-json", *args],
                                        stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if "gateway/ready" in line:
                self.port = int(json.loads(line)["http"].rsplit(":", 1)[1])
                break
        else:
            raise SystemExit(f"{binary} did not start")
        threading.Thread(target=lambda: [None for _ in self.process.stderr], daemon=True).start()

    def rss_mb(self):
        for line in open(f"/proc/{self.process.pid}/status"):
            if line.startswith("VmRSS"):
                return round(int(line.split()[1]) / 1024, 1)

    def threads(self):
        return len(os.listdir(f"/proc/{self.process.pid}/task"))

    def connect(self, timeout=60):
        return socket.create_connection(("127.0.0.1", self.port), timeout=timeout)

    def stop(self):
        self.process.kill()
        self.process.wait()


def health(gateway, timeout):
    start = time.perf_counter()
    try:
        s = gateway.connect(timeout)
        s.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        got = b""
        while (x := s.recv(65536)):
            got += x
        s.close()
        ok = b" 200 " in got[:16]
    except OSError:
        ok = False
    return (time.perf_counter() - start) * 1000 if ok else float("inf")


def first_event(gateway, timeout):
    """ms to the first `data:` of a short stream."""
    start = time.perf_counter()
    try:
        s = gateway.connect(timeout)
        s.sendall(post({"prompt": "short", "stream": True, "max_tokens": 3}))
        got = b""
        while b"data: " not in got and (x := s.recv(65536)):
            got += x
        ms = (time.perf_counter() - start) * 1000
        s.close()
        return ms if b"data: " in got else float("inf")
    except OSError:
        return float("inf")


def quantiles(values):
    v = sorted(values)
    at = lambda q: None if v[min(int(q * len(v)), len(v) - 1)] == float("inf") else round(v[min(int(q * len(v)), len(v) - 1)], 1)
    return {"p50": at(0.5), "p99": at(0.99), "max": at(1), "failed": sum(x == float("inf") for x in v)}


def measure(gateway, probes, timeout):
    return {"rss_mb": gateway.rss_mb(), "threads": gateway.threads(),
            "health_ms": quantiles([health(gateway, timeout) for _ in range(probes)]),
            "first_event_ms": quantiles([first_event(gateway, timeout) for _ in range(probes)])}


def open_streams(gateway, count, open_sockets):
    """Starts them, and reads them in a thread; returns how many have had an event within 60 s."""
    began = set()
    selector = selectors.DefaultSelector()
    for _ in range(count):
        s = gateway.connect()
        s.sendall(post({"prompt": "forever", "stream": True}))
        s.setblocking(False)
        selector.register(s, selectors.EVENT_READ)
        open_sockets.append(s)

    def read():
        while True:
            for key, _ in selector.select(0.5):
                try:
                    data = key.fileobj.recv(65536)
                except OSError:
                    continue
                if not data:
                    try:
                        selector.unregister(key.fileobj)
                    except (KeyError, ValueError):
                        pass
                elif b"data: " in data:
                    began.add(key.fd)

    threading.Thread(target=read, daemon=True).start()
    until = time.time() + 60
    while len(began) < count and time.time() < until:
        time.sleep(0.1)
    return len(began)


def run(binary, router_port, o, args):
    gateway = Gateway(binary, router_port, args)
    name = pathlib.Path(binary).name
    sockets = []
    report = lambda load, **more: print(json.dumps({"gateway": name, "load": load, **more}), flush=True)
    try:
        health(gateway, 60)
        report("none", **measure(gateway, o.probes, o.timeout))
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            sockets += list(pool.map(lambda _: gateway.connect(), range(o.idle)))
        time.sleep(1)
        report(f"{o.idle} idle", **measure(gateway, o.probes, o.timeout))
        began = open_streams(gateway, o.streams, sockets)
        report(f"{o.idle} idle, {o.streams} streams", streams_that_began=began, **measure(gateway, o.probes, o.timeout))
        for s in sockets:
            s.close()
        time.sleep(8)
        report("after", rss_mb=gateway.rss_mb(), threads=gateway.threads())
    finally:
        gateway.stop()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("gateways", nargs="*", help="gateway binaries")
    p.add_argument("--idle", type=int, default=10000)
    p.add_argument("--streams", type=int, default=1000)
    p.add_argument("--every", type=float, default=2.0, help="seconds between two events of a stream")
    p.add_argument("--probes", type=int, default=100)
    p.add_argument("--timeout", type=float, default=5.0, help="seconds that a probe waits")
    p.add_argument("--turns", type=int, default=1)
    p.add_argument("--args", default="", help="more flags of the gateways")
    p.add_argument("--router", action="store_true", help=argparse.SUPPRESS)
    o = p.parse_args()
    if o.router:
        return serve_router(o.every)
    if not o.gateways:
        p.error("which gateway?")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    router = subprocess.Popen([sys.executable, __file__, "--router", "--every", str(o.every)], stdout=subprocess.PIPE, text=True)
    try:
        port = int(router.stdout.readline())
        for _ in range(o.turns):
            for binary in o.gateways:
                run(binary, port, o, o.args.split())
    finally:
        router.kill()


if __name__ == "__main__":
    main()
