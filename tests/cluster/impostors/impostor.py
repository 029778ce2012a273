"""A worker that is none: it joins a router under what the router itself tells it, and answers in a way of its choice.

An Impostor knows nothing that a worker of the cluster does not know: fingerprints, names and sizes come from ListModels and
GetFleet, a vocabulary from the real tokenizer. Messages are those of protos/, as protoc describes them; nothing is
generated."""
import pathlib
import queue
import random
import struct
import subprocess
import tempfile
import threading
import time
from concurrent import futures

import grpc
import xxhash
from google.protobuf import descriptor_pb2, message_factory
from google.protobuf.descriptor_pool import DescriptorPool

ROOT = pathlib.Path(__file__).resolve().parents[3]
KINDS = {"tokenizer": 1, "target": 2, "draft": 3, "expert": 4}
# wrong: plausible values; garbage: impossible ones; silent: no answer; stalling: a part of one, or a late one; refusing: an
# error in the client's name. vocabulary: a table of its own under the model's fingerprint.
MODES = ["wrong", "garbage", "silent", "stalling", "refusing"]


class Protos:
    """Messages and methods of the cluster's own services."""

    def __init__(self):
        with tempfile.NamedTemporaryFile() as out:
            files = [str(p.relative_to(ROOT / "protos")) for p in sorted((ROOT / "protos/tutti").rglob("*.proto"))]
            subprocess.run(["protoc", f"-I{ROOT / 'protos'}", "--include_imports", f"--descriptor_set_out={out.name}", *files],
                           check=True)
            described = descriptor_pb2.FileDescriptorSet.FromString(pathlib.Path(out.name).read_bytes())
        self.pool = DescriptorPool()
        for f in described.file:
            self.pool.Add(f)

    def message(self, name, **fields):
        return message_factory.GetMessageClass(self.pool.FindMessageTypeByName(name))(**fields)

    def call(self, channel, service, method, requests, timeout=60):
        """`requests`: a message, or an iterator of them."""
        m = self.pool.FindServiceByName(service).FindMethodByName(method)
        reply = message_factory.GetMessageClass(m.output_type)
        kind = ("stream" if m.client_streaming else "unary") + "_" + ("stream" if m.server_streaming else "unary")
        f = getattr(channel, kind)(f"/{service}/{method}", request_serializer=lambda r: r.SerializeToString(),
                                   response_deserializer=reply.FromString)
        return f(requests, timeout=timeout)

    def handlers(self, service, functions):
        """A generic handler of a service: {method: function(request or iterator, context)}."""
        descriptor, out = self.pool.FindServiceByName(service), {}
        for name, function in functions.items():
            m = descriptor.FindMethodByName(name)
            kind = ("stream" if m.client_streaming else "unary") + "_" + ("stream" if m.server_streaming else "unary")
            out[name] = getattr(grpc, f"{kind}_rpc_method_handler")(
                function, request_deserializer=message_factory.GetMessageClass(m.input_type).FromString,
                response_serializer=lambda r: r.SerializeToString())
        return grpc.method_handlers_generic_handler(service, out)


class Impostor:
    """Joins at `fleet_address` as one of `kind` and serves in `mode` until closed. `served`: what it was asked; `ends`: how
    its joins ended; `opening` of targets and drafts, of tokenizers and of experts are below."""

    def __init__(self, protos, clients_address, fleet_address, kind, mode):
        self.protos, self.kind, self.mode = protos, kind, mode
        self.rng, self.served, self.ends, self.closed = random.Random(f"{kind} {mode}"), 0, [], threading.Event()
        self.fleet = grpc.insecure_channel(fleet_address)
        with grpc.insecure_channel(clients_address) as clients:
            models = protos.call(clients, "tutti.generation.v1.GenerationService", "ListModels",
                                 protos.message("tutti.generation.v1.ListModelsRequest"))
        self.model = models.models[0]
        self.workers = []
        try:
            view = protos.call(self.fleet, "tutti.fleet.v1.FleetService", "GetFleet",
                               protos.message("tutti.fleet.v1.GetFleetRequest", with_experts=True))
            self.workers = list(view.workers)
        except grpc.RpcError as e:
            self.ends.append(e.code())
        self.folder = tempfile.TemporaryDirectory(prefix="tutti-impostor-")
        self.address = f"unix:{self.folder.name}/s"
        self.server = grpc.server(futures.ThreadPoolExecutor(32))
        self.server.add_generic_rpc_handlers((
            protos.handlers("tutti.decoder.v1.DecoderService",
                            {"GetModel": self._get_model, "DecodeMany": self._decode_many}),
            protos.handlers("tutti.tokenizer.v1.TokenizerService",
                            {"Encode": self._encode, "GetVocabulary": self._get_vocabulary}),
            protos.handlers("tutti.expert.v1.ExpertService", {"Exchange": self._exchange})))
        self.server.add_insecure_port(self.address)
        self.server.start()
        self.thread = threading.Thread(target=self._join_again_and_again, daemon=True)
        self.thread.start()

    def close(self):
        self.closed.set()
        self.server.stop(0)
        self.thread.join(30)
        self.fleet.close()
        self.folder.cleanup()

    def _worker(self, kind):
        return next((w for w in self.workers if w.kind == KINDS[kind]), None)

    # Reports.
    def _report(self):
        honest = self._worker(self.kind) or self._worker("target")
        r = self.protos.message("tutti.fleet.v1.WorkerReport")
        if honest is not None:
            r.CopyFrom(honest)
        else:
            r.fingerprint, r.model = self.model.fingerprint, self.model.name
        r.worker_id, r.address, r.pid, r.kind, r.state = f"impostor-{self.kind}", self.address, 1, KINDS[self.kind], 2
        r.load.running = r.load.waiting = 0
        r.load.pages = r.load.free_pages = 1024
        if self.kind == "draft" and self._worker("draft") is None:
            r.ClearField("vocabulary_digest") if "vocabulary_digest" in r.DESCRIPTOR.fields_by_name else None
        if self.kind == "expert":
            x = r.experts
            x.memory_budget_bytes = 0
            n = x.num_layers * x.experts_per_layer
            for column in ("gaps", "flags", "rows", "queue_us", "run_us"):
                x.ClearField(column)
            x.gaps.extend([0] + [1] * (n - 1))
            x.flags.extend([1] * n)
            for column in (x.rows, x.queue_us, x.run_us):
                column.extend([1] * n)
        return r

    def _join_again_and_again(self):
        def reports():
            while not self.closed.is_set():
                yield self._report()
                self.closed.wait(0.3)

        while not self.closed.is_set():
            try:
                for _ in self.protos.call(self.fleet, "tutti.fleet.v1.FleetService", "Join", reports(), timeout=None):
                    pass
            except grpc.RpcError as e:
                self.ends.append(e.code())
            self.closed.wait(0.3)

    # A target or a draft.
    def _get_model(self, request, context):
        m = self.protos.message("tutti.decoder.v1.GetModelResponse")
        target = self._worker("target")
        if target is not None:
            with grpc.insecure_channel(target.address) as channel:
                m = self.protos.call(channel, "tutti.decoder.v1.DecoderService", "GetModel", request)
        return m

    def _token(self):
        if self.mode == "garbage":
            return self.rng.choice([-1, 2**31 - 1, self.model.vocab_size])
        return self.rng.randrange(5, self.model.vocab_size)

    def _decode_many(self, requests, context):
        replies = queue.Queue()

        def reply(sequence, **fields):
            replies.put(self.protos.message("tutti.decoder.v1.DecodeManyReply", parts=[dict(sequence=sequence, **fields)]))

        def read():
            try:
                for m in requests:
                    if m.request.WhichOneof("message") == "open":
                        self.served += 1
                        self._open(reply, m.sequence, m.request.open)
            except Exception:  # the stream ended
                pass
            replies.put(None)

        threading.Thread(target=read, daemon=True).start()
        yield from iter(replies.get, None)

    def _open(self, reply, sequence, opened):
        if self.mode == "silent":
            return
        if self.mode == "refusing":
            reply(sequence, status=dict(code=3, message="open.prompt_ids: not with me"))
            return
        have = len(opened.generated_ids)
        until = opened.sampling.max_tokens if self.kind == "target" else have + 8
        if self.mode == "stalling":
            until = min(until, have + 3)
        for position in range(have, until):
            token = dict(token_id=self._token(), digest=self.rng.getrandbits(64))
            if opened.sampling.HasField("logprobs"):
                token["logprob"] = -1.0
            reply(sequence, reply=dict(tokens=dict(position=position, tokens=[token])))
        if self.kind == "target" and self.mode != "stalling":
            reply(sequence, reply=dict(finished=dict(reason=3, usage=dict(prompt_tokens=len(opened.prompt_ids),
                                                                         output_tokens=until))))
            reply(sequence, status=dict(code=0))

    # A tokenizer.
    def _encode(self, request, context):
        self.served += 1
        if self.mode == "silent":
            self.closed.wait(600)
        if self.mode == "stalling":
            self.closed.wait(3)
        if self.mode == "refusing":
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "text: not with me")
        ids = [self._token() for _ in range(5)]
        return self.protos.message("tutti.tokenizer.v1.EncodeResponse", ids=ids, rendered="you were had")

    def _get_vocabulary(self, request, context):
        if self.mode in ("silent", "stalling"):
            self.closed.wait(600 if self.mode == "silent" else 3)
        honest = self._worker("tokenizer")
        if self.mode != "vocabulary" and honest is not None:
            with grpc.insecure_channel(honest.address) as channel:
                yield from self.protos.call(channel, "tutti.tokenizer.v1.TokenizerService", "GetVocabulary", request)
            return
        n = self.model.vocab_size
        for first in range(0, n, 10_000):
            count = min(10_000, n - first)
            yield self.protos.message("tutti.tokenizer.v1.GetVocabularyResponse",
                                      fingerprint=honest.tokenizer_fingerprint if honest else 0, vocab_size=n,
                                      first_id=first, token_bytes=[b"PWNED "] * count, special=[False] * count, bos_id=1,
                                      eos_id=2, has_chat_template=True)

    # An expert shard.
    def _exchange(self, requests, context):
        for m in requests:
            self.served += 1
            if self.mode == "silent":
                continue
            if self.mode == "refusing":
                yield self.protos.message("tutti.expert.v1.CombineReply", dispatch_id=m.dispatch_id,
                                          status=dict(code=8, message="not with me"))
                continue
            if self.mode == "stalling":
                self.closed.wait(0.5)
            rows = len(m.row_offsets) - 1
            hidden = len(m.rows) // max(1, rows) // 4 if m.format == 2 else len(m.rows) * 32 // (36 * max(1, rows))
            value = float("nan") if self.mode == "garbage" else 0.01
            out = struct.pack("<f", value) * (len(m.expert_ids) * hidden)
            yield self.protos.message("tutti.expert.v1.CombineReply", dispatch_id=m.dispatch_id, rows=out, run_us=1,
                                      checksum=xxhash.xxh3_64_intdigest(out, seed=m.dispatch_id))
