"""grpcio against the router: health, reflection, and the generation service found by reflection."""
import itertools

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from reflected import GENERATION, Answer, Resumed


def test_health_says_serving_for_the_whole_and_for_each_service(cluster):
    with grpc.insecure_channel(cluster.grpc) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for service in ("", GENERATION):
            reply = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=120)
            assert reply.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as e:
            stub.Check(health_pb2.HealthCheckRequest(service="no.such.Service"), timeout=120)
        assert e.value.code() == grpc.StatusCode.NOT_FOUND


def test_reflection_lists_the_services(api):
    services = api.services()
    for name in (GENERATION, "inference.GRPCInferenceService", "grpc.health.v1.Health"):
        assert name in services


def test_models_say_what_they_are(api):
    (m,) = api.call(GENERATION, "ListModels").models
    assert m.architecture == "llama" and m.vocab_size == 49152 and m.ready_decoders >= 1 and m.has_chat_template


def generate(api, **fields):
    fields.setdefault("sampling", {"seed": 21, "max_tokens": 24, "ignore_eos": True})
    return api.call(GENERATION, "Generate", **fields)


def test_generate_streams_tokens_and_resume_gives_the_rest_from_another_connection(cluster, api):
    whole = Answer(generate(api, text="Once upon a time", request_id="resume-me"))
    assert whole.request_id == "resume-me" and whole.started.seed == 21
    assert len(whole.ids[0]) == 24 and whole.finished[0].output_tokens == 24
    from reflected import Reflected

    with Reflected(cluster.grpc) as other:
        mine = {"request_id": "resume-me", "resume_token": whole.started.resume_token}
        again = Answer(other.call(GENERATION, "Resume", **mine))
        rest = Resumed(other.call(GENERATION, "Resume", **mine, after_index=9), 10)
    assert again.ids == whole.ids and again.text == whole.text
    assert rest.ids[0] == whole.ids[0][10:]
    assert rest.finished[0].digest == again.finished[0].digest == whole.finished[0].digest


def test_logprob_bits_are_the_same_alone_and_in_company(api):
    sampling = {"seed": 4, "max_tokens": 16, "ignore_eos": True, "logprobs": 2}
    alone = Answer(generate(api, text="The sea", sampling=sampling))
    streams = [generate(api, text="The sea", sampling=sampling)] + [generate(api, text=f"Story {i}:") for i in range(5)]
    answers = [None] * len(streams)
    pending = [(i, iter(s), []) for i, s in enumerate(streams)]
    for i, stream, got in pending:  # all run at once; reading one after the other does not stop them
        got.extend(stream)
        answers[i] = Answer(got)
    assert answers[0].logprobs == alone.logprobs and answers[0].finished[0].digest == alone.finished[0].digest


def test_abort_ends_a_running_request(api):
    stream = generate(api, text="Forever", request_id="abort-me", sampling={"max_tokens": 4000, "ignore_eos": True})
    head = list(itertools.islice(stream, 3))
    assert head
    with pytest.raises(grpc.RpcError) as e:  # anybody may know the id; the token is the request's own
        api.call(GENERATION, "Abort", request_id="abort-me")
    assert e.value.code() == grpc.StatusCode.NOT_FOUND
    api.call(GENERATION, "Abort", request_id="abort-me", resume_token=head[0].started.resume_token)
    answer = Answer(head + list(stream))
    reasons = api.pool.FindEnumTypeByName("tutti.common.v1.FinishReason").values_by_name
    assert answer.finished[0].reason == reasons["FINISH_REASON_CANCELLED"].number
    with pytest.raises(grpc.RpcError) as e:
        api.call(GENERATION, "Abort", request_id="never-seen")
    assert e.value.code() == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("fields, word", [
    ({}, "prompt"),
    ({"text": "x", "n": 10**6}, "n"),
    ({"text": "x", "sampling": {"temperature": -1.0}}, "temperature"),
    ({"text": "x", "sampling": {"logit_bias": [{"token_id": i, "bias": 1.0} for i in range(2000)]}}, "logit_bias"),
    ({"text": "x", "sampling": {"logprobs": 21}}, "logprobs"),
    ({"text": "x", "stop": ["y"] * 17}, "stop"),
    ({"token_ids": {"ids": [1, 99999999]}}, "99999999"),
    ({"token_ids": {"ids": [5] * 20000}}, "20000"),
    ({"chat": {"messages_json": "["}}, "messages"),
])
def test_a_wrong_request_is_invalid_and_the_message_names_the_field(api, fields, word):
    with pytest.raises(grpc.RpcError) as e:
        list(api.call(GENERATION, "Generate", **fields))
    assert e.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert word in e.value.details()


def test_a_request_id_in_use_is_refused(api):
    list(generate(api, text="Hi", request_id="only-once", sampling={"max_tokens": 2, "seed": 1}))
    with pytest.raises(grpc.RpcError) as e:
        list(generate(api, text="Hi", request_id="only-once", sampling={"max_tokens": 2, "seed": 1}))
    assert e.value.code() == grpc.StatusCode.ALREADY_EXISTS


def test_tokenize_gives_ids_bytes_and_offsets(api):
    r = api.call(GENERATION, "Tokenize", text="Hello 世界")
    assert b"".join(r.token_bytes).decode() == "Hello 世界"
    pairs = list(zip(r.offsets[::2], r.offsets[1::2]))
    assert len(pairs) == len(r.ids) and pairs[0][0] == 0 and pairs[-1][1] == len("Hello 世界".encode())
    assert api.call(GENERATION, "Detokenize", ids=r.ids).text == "Hello 世界"
