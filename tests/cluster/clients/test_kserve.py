"""`tritonclient` against the Open Inference Protocol that the router speaks."""
import queue
import time

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException


@pytest.fixture(scope="module")
def kserve(cluster):
    with triton.InferenceServerClient(cluster.grpc) as c:
        yield c


def tensor(name, value, dtype):
    numpy_types = {"BYTES": np.object_, "BOOL": np.bool_, "INT32": np.int32, "UINT64": np.uint64, "FP32": np.float32}
    t = triton.InferInput(name, [1], dtype)
    data = value.encode() if isinstance(value, str) else value
    t.set_data_from_numpy(np.array([data], dtype=numpy_types[dtype]))
    return t


def inputs(prompt, seed=9, max_tokens=16, **more):
    out = [tensor("text_input", prompt, "BYTES"), tensor("max_tokens", max_tokens, "INT32"),
           tensor("seed", seed, "UINT64"), tensor("temperature", 0.8, "FP32")]
    return out + [tensor(n, v, "BOOL") for n, v in more.items()]


def outputs(*names):
    return [triton.InferRequestedOutput(n) for n in names]


def test_server_and_model_are_live_and_ready(kserve, model):
    assert kserve.is_server_live() and kserve.is_server_ready()
    assert kserve.is_model_ready(model)
    assert not kserve.is_model_ready("no-such-model")


def test_metadata_names_the_tensors(kserve, model):
    assert kserve.get_server_metadata().name
    m = kserve.get_model_metadata(model)
    assert {"text_input", "stream", "max_tokens"} <= {t.name for t in m.inputs}
    assert "text_output" in {t.name for t in m.outputs}


def test_infer_gives_text_and_how_it_was_made(kserve, model):
    r = kserve.infer(model, inputs("The sky is", exclude_input_in_output=True), request_id="infer-1",
                     outputs=outputs("text_output", "finish_reason", "num_input_tokens", "num_output_tokens", "token_ids", "seed", "digest"))
    assert r.get_response().id == "infer-1"
    assert r.as_numpy("text_output").shape == (1,) and r.as_numpy("text_output")[0].decode()
    assert r.as_numpy("seed")[0] == 9
    assert r.as_numpy("finish_reason")[0] in (b"length", b"stop")
    assert len(r.as_numpy("token_ids")) == r.as_numpy("num_output_tokens")[0] <= 16
    assert r.as_numpy("num_input_tokens")[0] == 3


def test_the_input_stands_before_the_output_unless_excluded(kserve, model):
    with_input = kserve.infer(model, inputs("The sky is", exclude_input_in_output=False)).as_numpy("text_output")[0]
    without = kserve.infer(model, inputs("The sky is", exclude_input_in_output=True)).as_numpy("text_output")[0]
    assert with_input == b"The sky is" + without


class Stream:
    def __init__(self, client):
        self.client, self.results = client, queue.Queue()

    def __enter__(self):
        self.client.start_stream(callback=lambda result, error: self.results.put((result, error)))
        return self

    def __exit__(self, *_):
        self.client.stop_stream()

    def until_final(self):
        out = []
        while True:
            result, error = self.results.get(timeout=120)
            if error is not None:
                raise error
            out.append(result)
            if result.get_response().parameters["triton_final_response"].bool_param:
                return out


def text(results):
    return b"".join(r.as_numpy("text_output")[0] for r in results if r.as_numpy("text_output") is not None)


def test_a_stream_joins_to_the_whole_answer_and_ends_with_the_final_flag(kserve, model):
    whole = kserve.infer(model, inputs("The sky is", exclude_input_in_output=True)).as_numpy("text_output")[0]
    with Stream(kserve) as s:
        kserve.async_stream_infer(model, inputs("The sky is", stream=True), enable_empty_final_response=True)
        results = s.until_final()
        assert len(results) > 4 and text(results) == whole
        # Without the empty final response, and again over the same stream.
        kserve.async_stream_infer(model, inputs("The sky is", stream=True))
        assert text(s.until_final()) == whole


def test_a_wrong_request_over_a_stream_is_its_error_alone(kserve, model):
    with Stream(kserve) as s:
        kserve.async_stream_infer(model, inputs("x") + [tensor("surprise", True, "BOOL")])
        with pytest.raises(InferenceServerException, match="surprise"):
            s.until_final()
        kserve.async_stream_infer(model, inputs("The sky is", stream=True))
        assert text(s.until_final())


@pytest.mark.parametrize("make, word", [
    (lambda: [tensor("max_tokens", 4, "INT32")], "text_input"),
    (lambda: inputs("x") + [tensor("surprise", True, "BOOL")], "surprise"),
    (lambda: inputs("x", stream=True), "ModelStreamInfer"),
    (lambda: [tensor("text_input", "x", "BYTES"), tensor("temperature", -1.0, "FP32")], "temperature"),
    (lambda: [tensor("text_input", 5, "INT32")], "text_input"),
])
def test_a_wrong_request_is_an_error_that_names_the_tensor(kserve, model, make, word):
    with pytest.raises(InferenceServerException, match=word):
        kserve.infer(model, make())


def test_an_unknown_model_is_not_found(kserve):
    with pytest.raises(InferenceServerException) as e:
        kserve.infer("no-such-model", inputs("x"))
    assert e.value.status() == "StatusCode.NOT_FOUND"


def test_a_batch_of_strings_is_the_answers_one_behind_the_other(kserve, model):
    prompts = ["The sky is", "Once upon a time", "Two plus two is"]
    names = ("text_output", "num_input_tokens", "num_output_tokens", "token_ids", "seed", "digest", "finish_reason")
    rest = inputs("", exclude_input_in_output=True)[1:]
    for shape in ([3], [3, 1]):
        batch = triton.InferInput("text_input", shape, "BYTES")
        batch.set_data_from_numpy(np.array([p.encode() for p in prompts], dtype=np.object_).reshape(shape))
        all_of_them = kserve.infer(model, [batch, *rest], outputs=outputs(*names))
        alone = [kserve.infer(model, inputs(p, exclude_input_in_output=True), outputs=outputs(*names)) for p in prompts]
        for name in names:
            assert list(all_of_them.as_numpy(name)) == [x for one in alone for x in one.as_numpy(name)], name
    with Stream(kserve) as s:
        kserve.async_stream_infer(model, [batch, *rest])
        with pytest.raises(InferenceServerException, match="text_input: must be one string in a stream"):
            s.until_final()
    many = triton.InferInput("text_input", [65], "BYTES")
    many.set_data_from_numpy(np.array([b"x"] * 65, dtype=np.object_))
    with pytest.raises(InferenceServerException, match="text_input: must be 1 to 64 strings, not 65"):
        kserve.infer(model, [many])


def test_all_arguments_of_infer(kserve, model):
    plain = kserve.infer(model, inputs("The sky is")).as_numpy("text_output")[0]
    for compression in ("gzip", "deflate"):
        r = kserve.infer(model, inputs("The sky is"), model_version="1", request_id="all", sequence_id=7, sequence_start=True,
                         sequence_end=True, priority=1, timeout=60_000_000, client_timeout=60, headers={"x-test": "1"},
                         compression_algorithm=compression, parameters={"top_k": 0})
        assert r.as_numpy("text_output")[0] == plain
    # In µs: what came until then is the answer; when nothing had come, the call's deadline.
    try:
        r = kserve.infer(model, inputs("The sky is", max_tokens=4000, ignore_eos=True), timeout=300_000,
                         outputs=outputs("finish_reason", "num_output_tokens"))
        assert r.as_numpy("finish_reason")[0] == b"deadline" and r.as_numpy("num_output_tokens")[0] < 4000
    except InferenceServerException as e:
        assert e.status() == "StatusCode.DEADLINE_EXCEEDED"


def test_config_statistics_and_index(kserve, model):
    config = kserve.get_model_config(model, as_json=True)["config"]
    assert config["name"] == model and config["model_transaction_policy"]["decoupled"]
    types = {t["name"]: t["data_type"] for t in config["input"]}
    assert types["text_input"] == "TYPE_STRING" and types["seed"] == "TYPE_UINT64"
    assert {t["name"] for t in config["output"]} >= {"text_output", "digest"}

    def stats(name=model):
        (one,) = kserve.get_inference_statistics(name).model_stats
        return one

    before = stats()
    kserve.infer(model, inputs("The sky is"))
    with pytest.raises(InferenceServerException):
        kserve.infer(model, inputs("x " * 20000))  # longer than the context
    after = stats("")
    assert after.name == model and after.inference_count == before.inference_count + 1
    assert after.inference_stats.fail.count == before.inference_stats.fail.count + 1
    assert after.execution_count == before.execution_count + 1
    assert after.inference_stats.success.ns > before.inference_stats.success.ns
    assert after.inference_stats.compute_infer.ns > before.inference_stats.compute_infer.ns
    assert abs(after.last_inference / 1000 - time.time()) < 60

    (index,) = kserve.get_model_repository_index(as_json=True)["models"]
    assert index == {"name": model, "version": "1", "state": "READY"}
    for call in (lambda: kserve.load_model(model), lambda: kserve.unload_model(model)):
        with pytest.raises(InferenceServerException, match="tutti-target --model FILE --join ROUTER") as e:
            call()
        assert e.value.status() == "StatusCode.UNIMPLEMENTED"
    with pytest.raises(InferenceServerException) as e:
        kserve.get_model_config("no-such-model")
    assert e.value.status() == "StatusCode.NOT_FOUND"
