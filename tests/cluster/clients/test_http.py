"""Errors in OpenAI's shape, /tokenize, /detokenize, /health, /metrics, request ids."""
import pytest

GOOD = {"prompt": "Hello", "max_tokens": 2}


def check(answer, status, param=None, word=""):
    code, body = answer
    assert code == status, body
    error = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert param is None or error["param"] == param, error
    assert word in error["message"], error
    return error


@pytest.mark.parametrize("change, param", [
    ({"surprise": 1}, "surprise"),
    ({"n": 10**6}, "n"),
    ({"n": "two"}, "n"),
    ({"temperature": -1}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_p": 2}, "top_p"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"seed": "lucky"}, "seed"),
    ({"stop": ["x"] * 17}, "stop"),
    ({"stop": ""}, "stop"),
    ({"logit_bias": {str(i): 1 for i in range(5000)}}, "logit_bias"),
    ({"logit_bias": {"x": 1}}, "logit_bias"),
    ({"logit_bias": {"5": 1e9}}, "logit_bias.5"),
    ({"logprobs": 1000}, "logprobs"),
    ({"prompt": 7}, "prompt"),
    ({"prompt": ""}, "prompt"),
    ({"prompt": [1, "x"]}, "prompt[1]"),
    ({"prompt": [1, -5]}, "prompt[1]"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"suffix": "x"}, "suffix"),
])
def test_a_wrong_field_is_an_error_that_names_it(post, change, param):
    check(post("/v1/completions", {**GOOD, **change}), 400, param)


def test_an_unknown_token_id_is_an_error_that_says_which(post):
    check(post("/v1/completions", {**GOOD, "prompt": [1, 10**6]}), 400, word="1000000")
    check(post("/v1/completions", {**GOOD, "logit_bias": {"1000000": 1}}), 400, word="1000000")


def test_a_prompt_longer_than_the_context_is_an_error_with_both_lengths(post):
    check(post("/v1/completions", {**GOOD, "prompt": [5] * 20000}), 400, word="20000")


def test_an_unknown_model_is_404(post):
    error = check(post("/v1/completions", {**GOOD, "model": "no-such-model"}), 404)
    assert error["code"] == "model_not_found"


@pytest.mark.parametrize("body", [
    b"", b"{", b"[]", b"null", b'{"prompt": "\xff\xfe"}', b'{"prompt": "a", "prompt": "b"}' + b"x",
    b'{"prompt": ' + b"[" * 100000, b'{"prompt": "\\ud800"}',
])
def test_a_body_that_is_no_json_object_in_utf8_is_an_error(post, body):
    check(post("/v1/completions", body), 400)


@pytest.mark.parametrize("messages", [
    [], "hi", [{"role": "user"}], [{"content": "hi"}], [{"role": "user", "content": 5}], [{"role": "user", "content": "hi", "colour": "red"}],
])
def test_wrong_messages_are_an_error(post, messages):
    check(post("/v1/chat/completions", {"messages": messages, "max_tokens": 2}), 400)


def test_a_wrong_path_method_or_type_is_an_error_in_the_same_shape(http):
    assert "error" in http.get("/v1/nothing").json()
    assert http.get("/v1/nothing").status_code == 404
    r = http.post("/v1/completions", content=b'{"prompt":"a"}', headers={"Content-Type": "text/plain"})
    assert r.status_code == 400 and r.json()["error"]["param"] == "Content-Type"


def test_after_all_that_the_cluster_still_answers(post):
    code, body = post("/v1/completions", GOOD)
    assert code == 200 and body["choices"][0]["finish_reason"] in ("length", "stop")


@pytest.mark.parametrize("text", ["Hello, world! 123", "中文 and 😀", "  spaces\n\n", "<|im_start|>user"])
def test_tokenize_and_detokenize_are_inverse(post, text):
    code, body = post("/tokenize", {"prompt": text, "return_token_strs": True})
    assert code == 200 and body["count"] == len(body["tokens"]) == len(body["token_strs"])
    assert post("/detokenize", {"tokens": body["tokens"]}) == (200, {"prompt": text})


def test_special_text_is_a_token_only_when_asked(post):
    plain = post("/tokenize", {"prompt": "<|im_start|>"})[1]["tokens"]
    special = post("/tokenize", {"prompt": "<|im_start|>", "parse_special": True})[1]["tokens"]
    assert len(plain) > 1 and special == [1]


def test_tokenize_applies_the_chat_template(post):
    tokens = post("/tokenize", {"messages": [{"role": "user", "content": "Hi"}]})[1]["tokens"]
    text = post("/detokenize", {"tokens": tokens})[1]["prompt"]
    assert "<|im_start|>user\nHi<|im_end|>" in text and text.endswith("<|im_start|>assistant\n")


def test_detokenize_of_an_unknown_id_is_an_error(post):
    check(post("/detokenize", {"tokens": [10**6]}), 400)


def test_health_and_metrics(cluster, http, post):
    r = http.get("/health")
    assert (r.status_code, r.json()) == (200, {"status": "ok"})
    post("/v1/completions", GOOD)
    text = http.get("/metrics").text
    assert "# TYPE" in text and "tutti_gateway_" in text
    # Every worker has its own, with health.
    for w in cluster.workers:
        assert w["healthy"], w
        if w.get("metrics"):
            address = w["metrics"].removeprefix("http://").removesuffix("/metrics")
            assert "tutti_" in http.get(f"http://{address}/metrics").text, w


def test_the_request_id_is_taken_or_made_and_returned(http):
    def ask(**headers):
        return http.post("/v1/completions", json=GOOD, headers=headers).headers["X-Request-Id"]

    assert ask(**{"X-Request-Id": "my-id-17"}) == "my-id-17"
    assert ask() and ask() != ask()
