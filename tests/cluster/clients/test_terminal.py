"""The command line as a person and a script use it: a pseudo-terminal, and every kind of address."""
import json
import os
import pty
import re
import select
import signal
import stat
import subprocess
import time

import pytest
from conftest import BIN, MODEL, tutti

ENDLESS = ["--ignore-eos", "--max-tokens", "5000"]


class Terminal:
    """`tutti ARGS...` on a pseudo-terminal of its own."""

    def __init__(self, *args, **env):
        self.text = ""
        pid, self.fd = pty.fork()
        if pid == 0:
            os.environ.update({"TERM": "xterm-256color", "LC_ALL": "C.UTF-8", **env})
            os.execv(str(BIN / "tutti"), ["tutti", *map(str, args)])
        self.pid = pid

    def type(self, text):
        os.write(self.fd, text.encode())

    def see(self, pattern, timeout=120):
        """Waits until `pattern` stands in what was printed since the last call; what came before it."""
        end = time.monotonic() + timeout
        while not (found := re.search(pattern, self.text, re.S)):
            assert time.monotonic() < end, f"no {pattern!r} in {self.text!r}"
            if not select.select([self.fd], [], [], 1)[0]:
                continue
            try:
                data = os.read(self.fd, 65536)
            except OSError:
                data = b""
            assert data, f"it ended without {pattern!r}: {self.text!r}"
            self.text += data.decode(errors="replace")
        before, self.text = self.text[: found.start()], self.text[found.end() :]
        return before

    def say(self, text, pattern):
        """Types at the prompt, waits for `pattern` and for the next prompt (keys typed before it would reach no editor)."""
        self.type(text)
        self.see(pattern)
        self.see("> ")

    def end(self):
        self.type("\x04")
        end = time.monotonic() + 60
        while not (status := os.waitpid(self.pid, os.WNOHANG))[0]:
            assert time.monotonic() < end, "Ctrl-D did not end the chat"
            try:
                if select.select([self.fd], [], [], 0.1)[0]:
                    os.read(self.fd, 65536)
            except OSError:  # the other side is closed
                time.sleep(0.1)
        os.close(self.fd)
        return os.waitstatus_to_exitcode(status[1])


@pytest.fixture
def chat(cluster, tmp_path):
    terminals = []

    def start(*args):
        t = Terminal("chat", "--state-dir", cluster.state_dir, "--seed", "7", *args, XDG_STATE_HOME=str(tmp_path))
        terminals.append(t)
        t.see("A chat.")
        t.see("> ")
        return t

    yield start
    for t in terminals:
        try:
            os.kill(t.pid, signal.SIGKILL)
            os.waitpid(t.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass


def test_ctrl_c_stops_an_answer_and_the_chat_goes_on(chat):
    t = chat(*ENDLESS)
    t.type("Tell me everything about the sea.\r")
    t.see(r"sea\.\r*\n")
    t.see(r"[a-z]{3,} [a-z]{2,}.* [a-z]{2,}")  # the answer has begun
    t.say("\x03", r"tokens.*, stopped\]")
    t.say("\x03", "leaves")  # at the prompt: a fresh line
    t.say("/undo\r", "the last message is forgotten")
    assert t.end() == 0


def test_lines_are_edited_and_kept(chat, tmp_path):
    first = chat("--max-tokens", "8")
    first.say("/sxxstem Be brief.\x01" + "\x1b[C" * 2 + "\x1b[3~" * 2 + "y\r", "the system message is set")  # Ctrl-A, right, Delete
    first.say("Grüße, 世界\r", r"\[8 tokens.*\]")
    assert first.end() == 0
    kept = tmp_path / "tutti/chat_history"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    second = chat("--max-tokens", "8")
    second.say("\x1b[A\x1b[A\r", "the system message is set")  # two up: the system message again
    second.say("/sa\t" + str(tmp_path / "saved.json") + "\r", "1 messages written")  # Tab completes /save
    assert json.loads((tmp_path / "saved.json").read_text()) == [{"role": "system", "content": "Be brief."}]
    assert second.end() == 0


def test_a_paste_of_several_lines_is_one_message(chat, tmp_path):
    t = chat("--max-tokens", "4")
    t.type("\x1b[200~one\rtwo\x1b[201~")
    t.say("\x1b\rthree\r", r"\[4 tokens.*\]")  # Alt-Enter
    t.say("/again\r", r"\[4 tokens.*\]")
    t.say(f"/save {tmp_path}/saved.json\r", "2 messages written")
    messages = json.loads((tmp_path / "saved.json").read_text())
    assert messages[0] == {"role": "user", "content": "one\ntwo\nthree"}
    assert t.end() == 0


@pytest.mark.parametrize("flags", [
    ["--temperature", "0.8", "--top-k", "40", "--logprobs", "3"],
    ["--prompt-logprobs", "2", "--logit-bias", "28:-5"],
    ["--num-beams", "3", "--num-return", "2", "--temperature", "0"],
    ["--chat", "--stop", " the", "--logprobs", "2"],
    ["--choice", "2", "--seed", "-3"],
])
def test_an_http_address_gives_what_grpc_gives(cluster, flags):
    args = ["generate", "The sea is", "--max-tokens", "12", "--json", *([] if "--seed" in flags else ["--seed", "7"]), *flags]
    grpc, http = (json.loads(tutti(*args, "--address", a)) for a in (cluster.grpc, cluster.url + "/v1"))
    for answer in (grpc, http):
        for name in ("times", "request_id"):
            answer.pop(name, None)
        for name in ("cached_tokens", "proposed_tokens", "accepted_tokens"):
            answer["usage"].pop(name)
    assert http == grpc


def test_tokenize_asks_the_cluster(cluster):
    text = "Grüße <|im_start|>世界 \U0001f600"
    here = json.loads(tutti("tokenize", "--model", MODEL, text, "--json"))
    assert here["decoded"] == text
    for where in (["--state-dir", cluster.state_dir], ["--address", cluster.grpc]):
        assert json.loads(tutti("tokenize", *where, text, "--json")) == here
    over_http = json.loads(tutti("tokenize", "--address", cluster.url, text, "--json"))
    for name in ("ids", "offsets", "decoded"):
        assert over_http[name] == here[name]
    ids = " ".join(map(str, here["ids"]))
    for where in (["--model", MODEL], ["--address", cluster.grpc], ["--address", cluster.url]):
        assert tutti("tokenize", "--ids", ids, *where) == text + "\n"


def test_bench_counts_tokens_whatever_the_messages(cluster):
    args = ["bench", "--clients", "2", "--requests", "4", "--prompt-words", "8", "--max-tokens", "16", "--json"]
    for address in (cluster.grpc, cluster.url):
        report = json.loads(tutti(*args, "--address", address))
        assert report["completed"] == 4 and report["output_tokens"] == 64
        assert report["inter_token_s"]["mean"] > 0


def test_errors_of_an_http_address_say_what_the_server_said(cluster):
    r = subprocess.run([str(BIN / "tutti"), "generate", "x", "--address", cluster.url, "--top-p", "3"],
                       capture_output=True, text=True, timeout=60)
    assert r.returncode != 0 and "error: top_p: 3.0, must be in (0, 1]" in r.stderr


def test_tls_towards_the_router_and_the_gateway(cluster, tmp_path):
    """An authority, a server's certificate and a client's; a router and a gateway that want TLS."""

    def openssl(*args):
        subprocess.run(["openssl", *map(str, args)], check=True, capture_output=True, cwd=tmp_path)

    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl("req", "-x509", *curve, "-days", 2, "-subj", "/CN=test", "-keyout", "ca.key", "-out", "ca.pem")
    for name in ("server", "client"):
        openssl("req", *curve, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        (tmp_path / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                "-days", 2, "-extfile", "names", "-out", f"{name}.pem")
    server = ["--tls-cert", tmp_path / "server.pem", "--tls-key", tmp_path / "server.key"]
    processes = []

    def serve(binary, *args, port):
        """Starts a service on a free port; the port as its log has it."""
        p = subprocess.Popen([str(BIN / binary), *map(str, args)], stderr=subprocess.PIPE, text=True)
        processes.append(p)
        for line in p.stderr:
            if found := re.search(port, line):
                return int(found.group(1))
        raise AssertionError(f"{binary} ended")

    try:
        https = serve("tutti-gateway", "--http", "127.0.0.1:0", "--router", cluster.grpc, *server, port=r"127\.0\.0\.1:(\d+)")
        url = f"https://localhost:{https}"
        ask = ["generate", "The sea is", "--seed", "7", "--max-tokens", "4"]
        plain = tutti(*ask, "--address", cluster.grpc)
        assert tutti(*ask, "--address", url, "--tls-ca", tmp_path / "ca.pem") == plain
        refused = subprocess.run([str(BIN / "tutti"), *ask, "--address", url], capture_output=True, text=True, timeout=60)
        assert refused.returncode != 0 and "not trusted" in refused.stderr

        grpcs = serve("tutti-router", "--listen", "127.0.0.1:0", "--cluster-listen", f"unix:{tmp_path}/cluster.sock", *server,
                      "--tls-ca", tmp_path / "ca.pem", port=r"127\.0\.0\.1:(\d+)")
        mine = ["--tls-ca", tmp_path / "ca.pem", "--tls-cert", tmp_path / "client.pem", "--tls-key", tmp_path / "client.key"]
        nobody = subprocess.run([str(BIN / "tutti"), "tokenize", "x", "--address", f"localhost:{grpcs}", *map(str, mine)],
                                capture_output=True, text=True, timeout=60)
        assert "no target has joined" in nobody.stderr, nobody.stderr  # so the router answered
        stranger = subprocess.run([str(BIN / "tutti"), "tokenize", "x", "--address", f"localhost:{grpcs}", *map(str, mine[:2])],
                                  capture_output=True, text=True, timeout=120)
        assert stranger.returncode != 0 and "no target" not in stranger.stderr
    finally:
        for p in processes:
            p.terminate()
            p.wait(timeout=30)
