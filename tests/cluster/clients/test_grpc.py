"""grpcio against the router: health, reflection, and the generation service found by reflection."""
import itertools
import json

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


def test_health_lists_all_names(api):
    statuses = api.call("grpc.health.v1.Health", "List").statuses
    assert {"", GENERATION, "inference.GRPCInferenceService"} <= set(statuses)
    assert all(s.status == health_pb2.HealthCheckResponse.SERVING for s in statuses.values())


def test_reflection_v1_says_what_v1alpha_says(api):
    from grpc_reflection.v1alpha import reflection_pb2 as pb  # v1 has the same messages

    ask = api.channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
                                    request_serializer=pb.ServerReflectionRequest.SerializeToString,
                                    response_deserializer=pb.ServerReflectionResponse.FromString)
    requests = [pb.ServerReflectionRequest(list_services=""), pb.ServerReflectionRequest(file_containing_symbol=GENERATION),
                pb.ServerReflectionRequest(file_by_filename="tutti/common/v1/sampling.proto"),
                pb.ServerReflectionRequest(file_containing_symbol="no.such.Thing"), pb.ServerReflectionRequest()]
    answers = list(ask(iter(requests), timeout=60))
    assert sorted(s.name for s in answers[0].list_services_response.service) == api.services()
    assert "grpc.reflection.v1.ServerReflection" in api.services()
    files = answers[1].file_descriptor_response.file_descriptor_proto
    assert len(files) >= 2 and any(b"GenerationService" in f for f in files)
    assert len(answers[2].file_descriptor_response.file_descriptor_proto) == 1
    assert answers[3].error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
    assert answers[4].error_response.error_code == grpc.StatusCode.INVALID_ARGUMENT.value[0]


@pytest.mark.parametrize("service, method, fields, reason", [
    (GENERATION, "Generate", {}, "INVALID_ARGUMENT"),
    (GENERATION, "Generate", {"text": "x", "model": "no-such-model"}, "NOT_FOUND"),
    (GENERATION, "Generate", {"text": "x " * 20000}, "CONTEXT_LENGTH_EXCEEDED"),
    (GENERATION, "Tokenize", {}, "INVALID_ARGUMENT"),
    (GENERATION, "Detokenize", {"ids": [10**8]}, "INVALID_ARGUMENT"),
    (GENERATION, "Abort", {"request_id": "never-seen"}, "NOT_FOUND"),
    ("grpc.health.v1.Health", "Check", {"service": "no.such.Service"}, "NOT_FOUND"),
    ("inference.GRPCInferenceService", "ModelInfer", {}, "INVALID_ARGUMENT"),
    ("inference.GRPCInferenceService", "ModelConfig", {"name": "no-such-model"}, "NOT_FOUND"),
    ("inference.GRPCInferenceService", "RepositoryModelLoad", {}, "UNIMPLEMENTED"),
])
def test_every_error_has_details_that_a_program_can_read(api, service, method, fields, reason):
    with pytest.raises(grpc.RpcError) as e:
        list(api.call(service, method, **fields))
    trailers = dict(e.value.trailing_metadata())
    status = api.message("google.rpc.Status")
    status.ParseFromString(trailers["grpc-status-details-bin"])
    assert status.code == e.value.code().value[0] and status.message == e.value.details()
    info = api.message("google.rpc.ErrorInfo")
    assert status.details[0].Unpack(info) and (info.domain, info.reason) == ("tutti", reason)


def test_channelz_is_for_the_cluster_alone(cluster, api):
    """gRPC's own figures show peers: operators have them on the cluster's listener, clients have none."""
    from reflected import Reflected

    assert "grpc.channelz.v1.Channelz" not in api.services()
    with Reflected(json.loads((cluster.state_dir / "cluster.json").read_text())["cluster"]) as inside:
        servers = inside.call("grpc.channelz.v1.Channelz", "GetServers").server
        assert servers and sum(s.data.calls_succeeded for s in servers) > 0
        sockets = [s for server in servers for s in inside.call("grpc.channelz.v1.Channelz", "GetServerSockets",
                                                                server_id=server.ref.server_id).socket_ref]
        socket = inside.call("grpc.channelz.v1.Channelz", "GetSocket", socket_id=sockets[0].socket_id).socket
        assert socket.data.streams_started > 0
        (channels := inside.call("grpc.channelz.v1.Channelz", "GetTopChannels").channel)
        assert any(c.data.target.startswith("unix:") for c in channels)  # towards workers
        with pytest.raises(grpc.RpcError) as e:
            inside.call("grpc.channelz.v1.Channelz", "GetSocket", socket_id=10**9)
        assert e.value.code() == grpc.StatusCode.NOT_FOUND
