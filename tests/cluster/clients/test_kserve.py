"""`tritonclient` against the Open Inference Protocol that the router speaks."""
import queue

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
