"""A real cluster for the tests of this folder: `tutti up` on free ports, once for all of them."""
import json
import os
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
BIN = pathlib.Path(os.environ.get("TUTTI_BIN_DIR", ROOT / "build/bin"))
MODEL = pathlib.Path(os.environ.get("TUTTI_MODEL", ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf"))


def tutti(*args, check=True, timeout=180):
    """Runs `tutti ARGS...`; its stdout."""
    r = subprocess.run([str(BIN / "tutti"), *map(str, args)], capture_output=True, text=True, timeout=timeout,
                       stdin=subprocess.DEVNULL)
    if check and r.returncode != 0:
        raise AssertionError(f"tutti {' '.join(map(str, args))}: exit {r.returncode}\n{r.stdout}{r.stderr}")
    return r.stdout


class Cluster:
    def __init__(self, state_dir):
        self.state_dir = state_dir
        status = json.loads(tutti("status", "--json", "--state-dir", state_dir))
        self.http, self.grpc = status["http"], status["grpc"]
        self.url = f"http://{self.http}"
        self.workers = status["workers"]

    def one_process(self, prompt, **flags):
        """What `tutti generate` gives without any service."""
        args = ["generate", "--model", MODEL, "--prompt", prompt, "--json", "--threads", "1"]
        for name, value in flags.items():
            args += ["--" + name.replace("_", "-")] + ([] if value is True else [value])
        return json.loads(tutti(*args))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    assert MODEL.exists(), f"no model at {MODEL}: run tools/quickstart, or set TUTTI_MODEL"
    assert (BIN / "tutti").exists(), f"no {BIN}/tutti: build it first"
    state = tmp_path_factory.mktemp("cluster")
    tutti("up", "--model", MODEL, "--threads", "1", "--http", "0", "--grpc", "0", "--state-dir", state, "--detach")
    try:
        yield Cluster(state)
    finally:
        tutti("down", "--state-dir", state, check=False)


@pytest.fixture(scope="session")
def client(cluster):
    import openai

    return openai.OpenAI(base_url=cluster.url + "/v1", api_key="unused", max_retries=0, timeout=120)


@pytest.fixture(scope="session")
def model(client):
    return client.models.list().data[0].id


@pytest.fixture(scope="session")
def http(cluster):
    import httpx2 as httpx

    with httpx.Client(base_url=cluster.url, timeout=120) as c:
        yield c


@pytest.fixture(scope="session")
def post(http):
    """Posts any bytes or JSON value; (HTTP status, parsed body)."""

    def send(path, body):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        r = http.post(path, content=data, headers={"Content-Type": "application/json"})
        return r.status_code, r.json()

    return send


@pytest.fixture(scope="session")
def api(cluster):
    """The cluster's gRPC services as server reflection describes them; nothing is generated before."""
    from reflected import Reflected

    with Reflected(cluster.grpc) as r:
        yield r
