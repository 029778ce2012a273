#!/usr/bin/env python3
"""Kills, freezes and ends processes of a real cluster while clients ask, and compares every answer with the record.

  tests/cluster/kills/run                              what the tests run: a dozen faults
  tests/cluster/kills/run --topology all --faults 125  four topologies, 500 faults
  tests/cluster/kills/run --topology experts --faults 100 --supervisor-kills 3 --seed 7

A calm run, made twice, is the record: token ids, the bits of logprobs and alternatives, digests, texts, beams.
Then clients ask in turn, and a fault comes whenever a few answers have come since the last one. An answer must be
the record; or a beginning of it and an error that says that the cluster is busy or not there. At the end
the cluster must be whole again, its KV pages free, and a calm run the record. The seed chooses faults and order, not
the instants: a run does not repeat exactly, but no run may show a difference."""
import argparse
import collections
import itertools
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time

from questions import Client, requests

ROOT = pathlib.Path(__file__).resolve().parents[3]
BIN = pathlib.Path(os.environ.get("TUTTI_BIN_DIR", ROOT / "build/bin"))
MODEL = pathlib.Path(os.environ.get("TUTTI_MODEL", ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf"))
TOPOLOGIES = {
    "targets": ["--targets", "2"],
    "experts": ["--targets", "2", "--experts", "3", "--ffn-slices", "3"],
    "self": ["--targets", "2", "--draft", "self"],
    "ngram": ["--targets", "2", "--draft", "ngram"],
    # Every kind of process at once.
    "mixed": ["--targets", "2", "--experts", "2", "--ffn-slices", "2", "--draft", "self"],
}
SIGNALS = {"kill": (signal.SIGKILL, 5), "freeze": (signal.SIGSTOP, 3), "end": (signal.SIGTERM, 2)}


def wait_for(what, condition, seconds=180):
    """Until condition() is true; what it gave. A generous bound: nothing is measured here."""
    until = time.monotonic() + seconds
    while True:
        got = condition()
        if got:
            return got
        if time.monotonic() > until:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.1)


class Cluster:
    """`tutti up` of one topology, on the same ports however often it is started."""

    def __init__(self, state_dir, flags):
        self.state_dir, self.flags, self.http, self.grpc = state_dir, flags, "127.0.0.1:0", "127.0.0.1:0"
        self.up()
        status = self.status()
        self.http, self.grpc = status["http"], status["grpc"]
        self.kinds = collections.Counter(w["kind"] for w in status["workers"])

    def _tutti(self, *args):
        return subprocess.run([str(BIN / "tutti"), *map(str, args), "--state-dir", str(self.state_dir)],
                              capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL)

    def up(self):
        p = self._tutti("up", "--model", MODEL, "--threads", "1", *self.flags, "--http", self.http.rsplit(":")[-1],
                        "--grpc", self.grpc.rsplit(":")[-1], "--detach")
        if p.returncode != 0:
            raise AssertionError(f"tutti up: exit {p.returncode}\n{p.stdout}{p.stderr}")

    def down(self):
        self._tutti("down")

    def status(self):
        """What `tutti status` says; None while it has no answer."""
        p = self._tutti("status", "--json")
        return json.loads(p.stdout) if p.returncode == 0 and p.stdout else None

    def file(self):
        """The supervisor's own list, which is there while no service is."""
        return json.loads((self.state_dir / "cluster.json").read_text())

    def is_whole(self):
        """All of the first processes are there, healthy and idle, and all KV pages are free."""
        s = self.status()
        if s is None or collections.Counter(w["kind"] for w in s["workers"]) != self.kinds:
            return False
        loads = [w.get("load") or {} for w in s["workers"] if w["kind"] == "target"]
        return (all(w["healthy"] for w in s["workers"]) and not any(x.get("running") for x in loads) and
                all(x.get("free_pages") == x.get("pages") for x in loads))

    def logs(self, lines=15):
        """The last warnings and errors of every process."""
        out = []
        for path in sorted((self.state_dir / "logs").glob("*.log")):
            kept = [line for line in path.read_text(errors="replace").splitlines() if '"level":"info"' not in line]
            out += [f"--- {path.name}"] + kept[-lines:]
        return "\n".join(out)


class Faults:
    """Draws faults from a seed and commits them."""

    def __init__(self, cluster, rng, kinds):
        self.cluster, self.rng, self.kinds = cluster, rng, kinds
        self.counts, self.thaws = collections.Counter(), []

    def _victims(self):
        return [p for p in self.cluster.file()["processes"]
                if p.get("pid") and (not self.kinds or p["kind"] in self.kinds) and pathlib.Path(f"/proc/{p['pid']}").exists()]

    def strike(self):
        """One fault, or two at once; how many."""
        victims = self._victims()
        if not victims:
            return 0
        chosen = self.rng.sample(victims, min(len(victims), 2 if self.rng.random() < 0.25 else 1))
        for p in chosen:
            name = self.rng.choices(list(SIGNALS), [weight for _, weight in SIGNALS.values()])[0]
            try:
                os.kill(p["pid"], SIGNALS[name][0])
            except ProcessLookupError:
                continue
            self.counts[f"{name} {p['kind']}"] += 1
            if name == "freeze":
                thaw = threading.Timer(self.rng.uniform(0.2, 5), self._thaw, [p["pid"]])
                thaw.start()
                self.thaws.append(thaw)
        return len(chosen)

    @staticmethod
    def _thaw(pid):
        try:
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            pass

    def kill_supervisor(self):
        """Everything dies with the supervisor; the same command brings it back."""
        children = [p["pid"] for p in self.cluster.file()["processes"] if p.get("pid")]
        os.kill(self.cluster.file()["supervisor_pid"], signal.SIGKILL)
        wait_for("the processes end with their supervisor", lambda: not any(self._lives(pid) for pid in children))
        self.cluster.up()
        self.counts["kill supervisor"] += 1

    @staticmethod
    def _lives(pid):
        try:
            return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
        except OSError:
            return False

    def join(self):
        for t in self.thaws:
            t.join()


class Clients:
    """Threads that ask one request after the other, and what came of it."""

    def __init__(self, cluster, questions, record, count, timeout):
        self.stop, self.lock = threading.Event(), threading.Lock()
        self.counts, self.errors, self.different = collections.Counter(), collections.Counter(), []
        names = sorted(questions)

        def work(k):
            client = Client(cluster, timeout)
            for i in itertools.count(k * 5):
                if self.stop.is_set():
                    return
                name = names[i % len(names)]
                answer = client.ask(*questions[name])
                difference = answer.difference(record[name])
                with self.lock:
                    self.counts["whole" if answer.is_whole() else "cut" if answer.choices else "refused"] += 1
                    self.counts["failovers"] += answer.failovers
                    if answer.error:
                        self.errors["".join("#" if c.isdigit() else c for c in answer.error)[:150]] += 1
                    if difference:
                        self.different.append(f"{name}: {difference} (error: {answer.error})")
                if answer.error:
                    self.stop.wait(0.1)

        self.threads = [threading.Thread(target=work, args=(k,), daemon=True) for k in range(count)]
        for t in self.threads:
            t.start()

    def answers(self):
        """Whole ones and cut ones."""
        with self.lock:
            return self.counts["whole"] + self.counts["cut"]

    def join(self):
        self.stop.set()
        for t in self.threads:
            t.join()


def calm(cluster, questions):
    """{name: Answer}, one after the other; every answer is whole."""
    client = Client(cluster, 300)
    out = {name: client.ask(*q) for name, q in questions.items()}
    for name, answer in out.items():
        if not answer.is_whole() or answer.wrong:
            raise AssertionError(f"{name}, with no fault: {answer.error or answer.wrong or 'not whole'}\n{cluster.logs()}")
    return out


def expect_equal(record, again, when):
    for name, answer in again.items():
        difference = answer.difference(record[name])
        if difference:
            raise AssertionError(f"{name}, {when}: {difference}")


def run(topology, args):
    """One topology; True when nothing differed."""
    rng = random.Random(f"{args.seed} {topology}")
    questions = requests(args.tokens)
    with tempfile.TemporaryDirectory(prefix="tutti-kills-") as folder:
        cluster = Cluster(pathlib.Path(folder), TOPOLOGIES[topology])
        try:
            record = calm(cluster, questions)
            expect_equal(record, calm(cluster, questions), "asked again")
            faults = Faults(cluster, rng, set(args.kinds.split(",")) if args.kinds else None)
            supervisor_at = set(rng.sample(range(args.faults), args.supervisor_kills))
            clients = Clients(cluster, questions, record, args.clients, args.timeout)
            started = time.monotonic()
            done = 0
            while done < args.faults and not clients.different:
                wanted = clients.answers() + rng.randint(1, args.answers)
                until = time.monotonic() + rng.uniform(1, 10)  # errors and long waits must not stop the faults
                while clients.answers() < wanted and time.monotonic() < until:
                    time.sleep(0.02)
                if done in supervisor_at:
                    supervisor_at.discard(done)
                    faults.kill_supervisor()
                    done += 1
                else:
                    done += faults.strike()
            faults.join()
            wait_for("an answer after the last fault", lambda n=clients.answers(): clients.answers() > n + 2)
            clients.join()
            try:
                wait_for("the cluster is whole, idle and its pages are free", cluster.is_whole)
                expect_equal(record, calm(cluster, questions), "after the faults")
            except AssertionError as e:
                clients.different.append(f"{e}\n{json.dumps(cluster.status(), indent=1)[:6000]}")
            print(f"{topology}: {sum(faults.counts.values())} faults in {time.monotonic() - started:.0f} s "
                  f"({', '.join(f'{v} {k}' for k, v in sorted(faults.counts.items()))})\n"
                  f"  answers {dict(clients.counts)}, different {len(clients.different)}")
            for error, count in clients.errors.most_common(12):
                print(f"  {count:4} {error}")
            for d in clients.different[:5]:
                print(f"  DIFFERENT {d[:4000]}")
            if clients.different:
                print(cluster.logs())
            sys.stdout.flush()
            return not clients.different
        finally:
            cluster.down()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--topology", default="mixed", help=f"{', '.join(TOPOLOGIES)}; several by commas; all: the first four")
    p.add_argument("--faults", type=int, default=12, help="for each topology (12)")
    p.add_argument("--supervisor-kills", type=int, default=0, help="how many of the faults are the supervisor's death")
    p.add_argument("--kinds", default="", help="only these processes, by commas: router,gateway,tokenizer,target,draft,expert")
    p.add_argument("--answers", type=int, default=6, help="at most that many answers between two faults (6)")
    p.add_argument("--clients", type=int, default=6, help="requests at a time (6)")
    p.add_argument("--tokens", type=int, default=24, help="of each answer (24)")
    p.add_argument("--timeout", type=float, default=180, help="s after which a silent request counts as different (180)")
    p.add_argument("--seed", type=int, default=1)
    args = p.parse_args()
    names = list(TOPOLOGIES)[:4] if args.topology == "all" else args.topology.split(",")
    for name in names:
        if name not in TOPOLOGIES:
            p.error(f"--topology: {name!r}; one of {', '.join(TOPOLOGIES)}")
    if not MODEL.exists():
        sys.exit(f"no model at {MODEL}: run tools/quickstart, or set TUTTI_MODEL")
    sys.exit(0 if all([run(name, args) for name in names]) else 1)


if __name__ == "__main__":
    main()
