"""The promise: a request with a seed has one answer, whichever door it came in by."""
import pytest
import tritonclient.grpc as triton

from reflected import GENERATION, Answer, hex64
from test_kserve import inputs, outputs, tensor

CASES = {
    "greedy": ("The capital of France is", {"temperature": 0.0, "max_tokens": 24, "seed": 1}),
    "sampled": ("Once upon a time", {"temperature": 0.9, "top_p": 0.9, "top_k": 50, "max_tokens": 32, "seed": 2**63 + 5}),
    "utf8": ("Ein Gedicht über das Meer: 😀", {"temperature": 1.3, "max_tokens": 24, "seed": 77}),
}


@pytest.mark.parametrize("name", CASES)
def test_http_grpc_kserve_and_one_process_agree_to_the_bit(cluster, client, model, api, name):
    prompt, p = CASES[name]
    here = cluster.one_process(prompt, ignore_eos=True, **p)

    p_http = {k: v for k, v in p.items() if k != "top_k"}
    extra = {"ignore_eos": True, "return_token_ids": True, **({"top_k": p["top_k"]} if "top_k" in p else {})}
    r = client.completions.create(model=model, prompt=prompt, extra_body=extra, **p_http)
    http = r.choices[0]
    assert (http.token_ids, http.text, http.digest, http.seed) == (here["token_ids"], here["text"], here["digest"], here["seed"])
    assert r.system_fingerprint == here["fingerprint"] and http.prompt_token_ids == here["prompt_token_ids"]
    assert r.usage.completion_tokens == here["usage"]["output_tokens"]

    grpc = Answer(api.call(GENERATION, "Generate", text=prompt, sampling={**p, "ignore_eos": True}))
    assert (grpc.ids[0], grpc.text[0], hex64(grpc.finished[0].digest)) == (here["token_ids"], here["text"], here["digest"])
    assert hex64(grpc.started.fingerprint) == here["fingerprint"] and grpc.finished[0].seed == here["seed"]

    with triton.InferenceServerClient(cluster.grpc) as kserve:
        ask = [tensor("text_input", prompt, "BYTES"), tensor("exclude_input_in_output", True, "BOOL"), tensor("ignore_eos", True, "BOOL"),
               tensor("max_tokens", p["max_tokens"], "INT32"), tensor("seed", p["seed"], "UINT64"),
               tensor("temperature", p["temperature"], "FP32")]
        if "top_k" in p:
            ask += [tensor("top_k", p["top_k"], "INT32"), tensor("top_p", p["top_p"], "FP32")]
        k = kserve.infer(model, ask, outputs=outputs("text_output", "token_ids", "digest", "seed"))
        assert k.as_numpy("token_ids").tolist() == here["token_ids"]
        assert k.as_numpy("text_output")[0].decode() == here["text"]
        assert hex64(int(k.as_numpy("digest")[0])) == here["digest"] and int(k.as_numpy("seed")[0]) == here["seed"]


def test_another_seed_gives_another_digest(cluster):
    a = cluster.one_process("Once upon a time", temperature=1, max_tokens=16, seed=1, ignore_eos=True)
    b = cluster.one_process("Once upon a time", temperature=1, max_tokens=16, seed=2, ignore_eos=True)
    assert a["token_ids"] != b["token_ids"] and a["digest"] != b["digest"]
