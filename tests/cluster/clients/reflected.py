"""gRPC without generated code: methods and messages come from the server's own reflection."""
import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase


class Reflected:
    def __init__(self, address, options=()):
        self.channel = grpc.insecure_channel(address, options=list(options))
        self.database = ProtoReflectionDescriptorDatabase(self.channel)
        self.pool = DescriptorPool(self.database)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.channel.close()

    def services(self):
        return sorted(self.database.get_services())

    def message(self, name, **fields):
        return GetMessageClass(self.pool.FindMessageTypeByName(name))(**fields)

    def call(self, service, method, /, timeout=120, **fields):
        """One request; the response, or an iterator over a stream of them."""
        m = self.pool.FindServiceByName(service).FindMethodByName(method)
        request, response = GetMessageClass(m.input_type), GetMessageClass(m.output_type)
        kind = self.channel.unary_stream if m.server_streaming else self.channel.unary_unary
        f = kind(f"/{service}/{method}", request_serializer=request.SerializeToString,
                 response_deserializer=response.FromString)
        return f(request(**fields), timeout=timeout)


GENERATION = "tutti.generation.v1.GenerationService"


class Answer:
    """What the messages of one Generate or Resume say, per choice."""

    def __init__(self, messages):
        self.started, self.text, self.ids, self.finished, self.logprobs = None, {}, {}, {}, {}
        for m in messages:
            self.request_id = m.request_id
            kind = m.WhichOneof("message")
            if kind == "started":
                self.started = m.started
            elif kind == "delta":
                i = m.delta.index
                ids = self.ids.setdefault(i, [])
                if m.delta.tokens:
                    assert m.delta.offset == len(ids) + self.ids_before(i), "offsets run on without a gap"
                ids += [t.token_id for t in m.delta.tokens]
                self.logprobs.setdefault(i, []).extend(t.logprob for t in m.delta.tokens)
                self.text[i] = self.text.get(i, "") + m.delta.text
            else:
                self.finished[m.finished.index] = m.finished

    def ids_before(self, _):
        return 0


class Resumed(Answer):
    """The same after some tokens were already had."""

    def __init__(self, messages, before):
        self.before = before
        super().__init__(messages)

    def ids_before(self, _):
        return self.before


def hex64(n):
    return f"{n:016x}"
