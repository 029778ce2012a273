#!/usr/bin/env python3
"""Impostors of each kind and manner beside the real processes of a cluster, while clients ask: no answer may change.

  tests/cluster/impostors/run                            on the clients' port, and inside, every kind and mode
  tests/cluster/impostors/run --where inside --kinds expert --modes wrong,garbage

Outside, an impostor knows what any client may ask for and the clients' port: it is not let in. Inside, it has what a
worker has (the cluster's socket or token), so that a process that was taken over, or computes wrong, is tried too. Every
answer is compared with the record of a calm run: ids, bits of logprobs, digests, texts, beams. An error is no other answer."""
import argparse
import collections
import pathlib
import sys
import tempfile
import threading

import grpc

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "kills"))
from impostor import KINDS, MODES, Impostor, Protos  # noqa: E402
from kill_matrix import Cluster, calm, expect_equal, wait_for  # noqa: E402
from questions import Client, requests  # noqa: E402

TOPOLOGY = ["--targets", "2", "--experts", "2", "--ffn-slices", "2", "--draft", "self"]


def ask_all(cluster, questions, record, clients, rounds, timeout):
    """Everything, `rounds` times, from several clients at once; Counter of what came, and what differs."""
    counts, different, errors, lock = collections.Counter(), [], collections.Counter(), threading.Lock()
    names = sorted(questions) * rounds

    def work():
        client = Client(cluster, timeout)
        while True:
            with lock:
                if not names:
                    return
                name = names.pop()
            answer = client.ask(*questions[name])
            difference = answer.difference(record[name], any_error=True)
            with lock:
                counts["same" if answer.is_whole() and not difference else "changed" if difference else "failed"] += 1
                counts["failovers"] += answer.failovers
                if answer.error:
                    errors[answer.error[:100]] += 1
                if difference:
                    different.append(f"{name}: {difference}")

    threads = [threading.Thread(target=work) for _ in range(clients)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return counts, different, errors


def run(args, protos, cluster, questions, record, where, kind, mode):
    """One impostor; what must not be, or ""."""
    fleet = cluster.grpc if where == "outside" else args.fleet or f"unix:{cluster.state_dir}/run/{args.socket}"
    impostor = Impostor(protos, cluster.grpc, fleet, kind, mode)
    try:
        if where == "outside":
            wait_for("a join on the clients' port has ended", lambda: len(impostor.ends) >= 2)
        counts, different, errors = ask_all(cluster, questions, record, args.clients, args.rounds, args.timeout)
        ends = collections.Counter(e.name for e in impostor.ends)
        print(f"{where} {kind} {mode}: {dict(counts)}, the impostor was asked {impostor.served} times, its joins ended "
              f"{dict(ends)}", *(f"\n    {n} {e}" for e, n in errors.most_common(3)), flush=True)
        if different:
            print(f"    CHANGED {different[0][:1500]}", flush=True)
        if where == "outside" and (set(impostor.ends) != {grpc.StatusCode.UNIMPLEMENTED} or impostor.served):
            return f"outside {kind} {mode}: let in: {dict(ends)}, asked {impostor.served} times"
        if counts["changed"]:
            return f"{where} {kind} {mode}: {counts['changed']} answers changed"
    finally:
        impostor.close()
    try:
        wait_for("the cluster is whole and idle without the impostor", cluster.is_whole)
        expect_equal(record, calm(cluster, questions), f"after {where} {kind} {mode}")
    except AssertionError as e:
        return str(e)[:3000]
    return ""


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--where", default="outside,inside", help="outside, inside (both)")
    p.add_argument("--kinds", default=",".join(KINDS))
    p.add_argument("--modes", default=",".join(MODES), help="also: vocabulary (tokenizers)")
    p.add_argument("--rounds", type=int, default=1, help="how often everything is asked beside each impostor (1)")
    p.add_argument("--clients", type=int, default=4)
    p.add_argument("--tokens", type=int, default=16)
    p.add_argument("--timeout", type=float, default=60, help="s after which a client gives a request up (60)")
    p.add_argument("--socket", default="router-cluster.sock", help="of the workers, in STATE_DIR/run")
    p.add_argument("--fleet", default="", help="instead: the address of the workers' listener")
    args = p.parse_args()
    protos, questions, wrong = Protos(), requests(args.tokens), []
    with tempfile.TemporaryDirectory(prefix="tutti-impostors-") as folder:
        cluster = Cluster(pathlib.Path(folder), TOPOLOGY)
        try:
            record = calm(cluster, questions)
            for where in args.where.split(","):
                for kind in args.kinds.split(","):
                    modes = args.modes.split(",") + (["vocabulary"] if kind == "tokenizer" else [])
                    for mode in dict.fromkeys(modes):
                        wrong += filter(None, [run(args, protos, cluster, questions, record, where, kind, mode)])
        finally:
            cluster.down()
    print(f"{len(wrong)} impostors did harm" + "".join(f"\n  {w}" for w in wrong))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
