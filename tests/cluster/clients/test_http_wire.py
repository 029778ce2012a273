"""The gateway's HTTP as it is on the wire, and a router that dies under its clients."""
import json
import os
import re
import signal
import socket

import pytest
from conftest import MODEL, Cluster, tutti

HIDDEN = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


def exchange(address, data, half_close=False):
    """Statuses of the answers, and all bytes, until the server closes."""
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=60) as s:
        s.sendall(data)
        if half_close:
            s.shutdown(socket.SHUT_WR)
        got = b""
        while (x := s.recv(65536)):
            got += x
    return [int(x) for x in re.findall(rb"HTTP/1.1 (\d{3}) ", got)], got


@pytest.mark.parametrize("data, status", [
    (POST + b"Content-Length: 2\r\nContent-Length: 40\r\n\r\n{}", 400),
    (POST + b"Content-Length: abc\r\n\r\n", 400),
    (POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n", 400),
    (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n", 400),
    (b"FOO\r\n\r\n", 400),
    (b"GET /health HTTP/1.1\r\n\r\n", 400),
    (b"GET /health HTTP/1.1\r\nHost: x\nA: b\r\n\r\n", 400),
    (b"GET /health HTTP/2.0\r\nHost: x\r\n\r\n", 505),
    (POST + b"Content-Length: 99999999\r\n\r\n", 413),
    (POST + b"Expect: miracles\r\nContent-Length: 2\r\n\r\n{}", 417),
])
def test_one_error_in_openais_shape_and_nothing_behind_it_is_run(cluster, data, status):
    statuses, got = exchange(cluster.http, data + HIDDEN)
    assert statuses == [status], got
    assert set(json.loads(got.split(b"\r\n\r\n", 1)[1])["error"]) == {"message", "type", "param", "code"}
    assert b"\r\nDate: " in got


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS", b"POST"])
def test_a_body_is_no_request(cluster, method):
    data = method + b" /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(HIDDEN)
    assert len(exchange(cluster.http, data + HIDDEN)[0]) == 1


def test_a_half_closed_client_and_one_of_http_1_0_are_answered(cluster):
    body = b'{"prompt": "Hello", "max_tokens": 3, "stream": true}'
    head = b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    statuses, got = exchange(cluster.http, b"POST /v1/completions HTTP/1.0\r\n" + head + body, half_close=True)
    assert statuses == [200] and b"chunked" not in got and got.endswith(b"data: [DONE]\n\n")


def test_a_post_without_a_body_is_answered_at_once(cluster):
    assert exchange(cluster.http, POST + b"Connection: close\r\n\r\n")[0] == [400]


def test_a_name_that_a_stranger_owns_is_not_served_on_loopback(cluster, http):
    assert http.get("/v1/models", headers={"Host": "evil.example"}).status_code == 403
    assert http.get("/v1/models", headers={"Host": "localhost:1"}).status_code == 200


def test_the_routers_death_changes_no_bit_of_an_answer(tmp_path):
    """Killed before the first token of an answer, in a stream, and while a whole answer is made."""
    import httpx2 as httpx

    tutti("up", "--model", MODEL, "--threads", "1", "--http", "0", "--grpc", "0", "--state-dir", tmp_path, "--detach")
    try:
        cluster = Cluster(tmp_path)
        body = {"prompt": "Once upon a time", "max_tokens": 40, "seed": 5, "temperature": 0.8, "logprobs": 1,
                "return_token_ids": True}

        def kill_router():
            workers = json.loads(tutti("status", "--json", "--state-dir", tmp_path))["workers"]
            os.kill(next(w["pid"] for w in workers if w["kind"] == "router"), signal.SIGKILL)

        def choice(answer):
            assert answer.status_code == 200, answer.text
            c = answer.json()["choices"][0]
            return c["text"], c["token_ids"], c["logprobs"]["token_logprobs"], c["digest"]

        with httpx.Client(base_url=cluster.url, timeout=120) as http:
            calm = choice(http.post("/v1/completions", json=body))
            kill_router()
            assert choice(http.post("/v1/completions", json=body)) == calm
            text, ids, logprobs, digest = "", [], [], None
            with http.stream("POST", "/v1/completions", json={**body, "stream": True}) as r:
                events = 0
                for line in r.iter_lines():
                    if not line.startswith("data: {"):
                        continue
                    event = json.loads(line[6:])
                    assert "error" not in event, event
                    c = event["choices"][0]
                    text += c["text"]
                    ids += c.get("token_ids") or []
                    logprobs += (c.get("logprobs") or {}).get("token_logprobs", [])
                    digest = c.get("digest") or digest
                    events += 1
                    if events == 5:
                        kill_router()
            assert (text, ids, logprobs, digest) == calm
    finally:
        tutti("down", "--state-dir", tmp_path, check=False)


def test_https_is_served_with_a_certificate_and_plain_text_is_not(cluster, tmp_path):
    import ssl
    import subprocess

    from conftest import BIN

    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
                    "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", cert],
                   check=True, capture_output=True)
    gateway = subprocess.Popen([BIN / "tutti-gateway", "--http", "127.0.0.1:0", "--router", cluster.grpc, "--tls-cert", cert,
                                "--tls-key", key, "--log-json"], stderr=subprocess.PIPE, text=True)
    try:
        port = next(int(json.loads(line)["http"].rsplit(":", 1)[1]) for line in gateway.stderr if "gateway/ready" in line)
        context = ssl.create_default_context(cafile=cert)
        context.set_alpn_protocols(["h2", "http/1.1"])

        def ask(data):
            with socket.create_connection(("127.0.0.1", port), timeout=60) as plain:
                with context.wrap_socket(plain, server_hostname="localhost") as s:
                    assert s.selected_alpn_protocol() == "http/1.1"
                    s.sendall(data)
                    got = b""
                    while (x := s.recv(65536)):
                        got += x
                    return got

        # A body larger than any buffer, and a stream.
        body = json.dumps({"prompt": "a " * 500_000}).encode()
        head = b"POST /tokenize HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
        got = ask(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        assert got.startswith(b"HTTP/1.1 200 ") and len(json.loads(got.split(b"\r\n\r\n", 1)[1])["tokens"]) > 100_000
        body = b'{"prompt": "Hello", "max_tokens": 3, "stream": true}'
        got = ask(POST + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        assert b"data: [DONE]\n\n" in got
        with socket.create_connection(("127.0.0.1", port), timeout=60) as plain:
            plain.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            try:
                assert b"HTTP/1.1" not in plain.recv(65536)
            except ConnectionResetError:
                pass
    finally:
        gateway.kill()
        gateway.wait()
