"""The requests of the kill matrix, and what came of one: everything that must be the same each time, as plain values."""
import http.client
import json
import os
import struct
import sys

import grpc

sys.path.append(os.path.join(os.path.dirname(__file__), "..", "clients"))
from reflected import Reflected  # noqa: E402

GENERATION = "tutti.generation.v1.GenerationService"
SAGA = " ".join(f"In the year {1500 + i} the harbour of the old town saw {i * 7 % 31} ships and as many storms."
                for i in range(40))
# What an overloaded, draining or restarting cluster may answer. Anything else is a fault of ours.
ALLOWED_CODES = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED}
ALLOWED_STATUS = {429, 503}


def bits(x):
    return struct.pack("<f", x).hex()


def requests(tokens):
    """{name: (kind, fields)}: one of each thing that a client can ask for. `tokens`: how long answers are."""
    def grpc_request(text, n=1, stop=(), **sampling):
        return "grpc", dict(text=text, n=n, stop=list(stop), sampling=dict({"max_tokens": tokens, "ignore_eos": True}, **sampling))

    out = {
        "greedy": grpc_request("The sea is", temperature=0, seed=1),
        "sampled": grpc_request("Once upon a time", temperature=1.0, top_p=0.95, seed=2),
        "logprobs": grpc_request("A list of animals:", temperature=0.8, top_k=40, seed=3, logprobs=5),
        "choices": grpc_request("My favourite colour", n=3, temperature=1.2, seed=4, logprobs=1),
        "min_p": grpc_request("The king said", n=2, temperature=0.9, min_p=0.05, seed=5),
        "typical": grpc_request("Music is", temperature=1.1, typical_p=0.8, seed=6),
        "stops": grpc_request("1, 2, 3, 4,", stop=["12", "nine"], temperature=0, seed=7),
        "beams": grpc_request("The weather today", num_beams=3, num_return=2, seed=8),
        "penalties": grpc_request("Row, row, row", temperature=0.8, repetition_penalty=1.2, presence_penalty=0.4,
                                  frequency_penalty=0.3, no_repeat_ngram_size=3, seed=9),
        "bias": grpc_request("Yes or no?", temperature=1.0, seed=10,
                             logit_bias=[dict(token_id=i, bias=-5.0 + i % 9) for i in range(100, 160)]),
        "long prompt": grpc_request("Read: " + SAGA + " So", temperature=0.6, seed=11, logprobs=0),
        "longer prompt": grpc_request("Read: " + SAGA + SAGA + " So", temperature=0, seed=12),
        "prompt logprobs": grpc_request("Scored text, and then", temperature=1.0, seed=13, prompt_logprobs=2, logprobs=2),
        "chat": ("grpc", dict(chat=dict(messages_json=json.dumps([{"role": "user", "content": "Tell me about bees"}])),
                              sampling=dict(temperature=0.7, max_tokens=tokens, seed=14))),
        "http stream": ("/v1/completions", dict(prompt="The river runs", temperature=0.9, seed=21, max_tokens=tokens,
                                                stream=True, logprobs=2, return_token_ids=True)),
        "http chat": ("/v1/chat/completions", dict(messages=[{"role": "user", "content": "Name three birds"}],
                                                   temperature=0.8, seed=22, max_tokens=tokens, stream=True,
                                                   logprobs=True, top_logprobs=2)),
        "http whole": ("/v1/completions", dict(prompt="The hill was", temperature=1.0, seed=23, max_tokens=tokens, n=2)),
        "http stop": ("/v1/completions", dict(prompt="a b c d e", temperature=0, seed=24, max_tokens=tokens,
                                              stop=["z", "\n\n"], stream=True)),
    }
    return out


class Choice:
    """tokens: one value a token (gRPC: with its bits and digest; HTTP: its id); logprobs: those of HTTP, one a token; end:
    None, or what the last message said."""

    def __init__(self):
        self.prompt, self.tokens, self.logprobs, self.text, self.end = (), [], [], "", None

    def whole(self):
        return self.prompt, tuple(self.tokens), tuple(self.logprobs), self.text, self.end

    def is_beginning_of(self, other):
        """Whether all that came is what `other` began with."""
        return (self.prompt in ((), other.prompt) and self.tokens == other.tokens[:len(self.tokens)] and
                self.logprobs == other.logprobs[:len(self.logprobs)] and other.text.startswith(self.text) and self.end in (None, other.end))


class Answer:
    """error: None, or what the client was told. strange: that error, if the cluster may not say so of a good request.
    wrong: what no error excuses (gaps, a second end)."""

    def __init__(self):
        self.head, self.choices, self.error, self.strange, self.wrong, self.failovers = None, {}, None, None, None, 0

    def choice(self, index):
        return self.choices.setdefault(index, Choice())

    def is_whole(self):
        return self.error is None and bool(self.choices) and all(c.end for c in self.choices.values())

    def difference(self, record, any_error=False):
        """"" when this is the record, or the beginning of it that an error cut; else what differs."""
        if self.wrong or (self.strange and not any_error):
            return self.wrong or self.strange
        if self.head is not None and self.head != record.head:
            return f"head {self.head}, not {record.head}"
        for index, choice in self.choices.items():
            want = record.choices.get(index)
            if want is None:
                return f"choice {index} is not in the record"
            if not choice.is_beginning_of(want):
                return f"choice {index}: {choice.whole()}, not {want.whole()}"
        if self.error is None and {i: c.whole() for i, c in self.choices.items()} != {
                i: c.whole() for i, c in record.choices.items()}:
            return "no error, and not all of it"
        return ""


class Client:
    """One client of a cluster: asks by gRPC or by HTTP. Not thread-safe."""

    def __init__(self, cluster, timeout):
        self.cluster, self.timeout = cluster, timeout
        self.api = Reflected(cluster.grpc, options=[("grpc.initial_reconnect_backoff_ms", 100),
                                                    ("grpc.max_reconnect_backoff_ms", 300),
                                                    ("grpc.use_local_subchannel_pool", 1)])
        self.api.call(GENERATION, "ListModels")  # the descriptors are here before any fault

    def ask(self, kind, fields):
        answer = Answer()
        (self._ask_grpc if kind == "grpc" else self._ask_http)(answer, kind, fields)
        return answer

    def _ask_grpc(self, answer, _, fields):
        try:
            for m in self.api.call(GENERATION, "Generate", timeout=self.timeout, **fields):
                self._take(answer, m)
        except grpc.RpcError as e:
            answer.error = f"{e.code().name}: {e.details()}"
            if e.code() not in ALLOWED_CODES:
                answer.strange = answer.error

    @staticmethod
    def _take(answer, m):
        def token(t):
            return (t.token_id, bits(t.logprob) if t.HasField("logprob") else None,
                    tuple((a.token_id, bits(a.logprob)) for a in t.top), t.digest)

        kind = m.WhichOneof("message")
        if kind == "started":
            s = m.started
            answer.head = (s.seed, s.fingerprint, tuple(s.prompt_ids), s.prompt_text)
        elif kind == "delta":
            c = answer.choice(m.delta.index)
            if m.delta.prompt_tokens:
                c.prompt = tuple(map(token, m.delta.prompt_tokens))
            if m.delta.tokens and m.delta.offset != len(c.tokens):
                answer.wrong = f"offset {m.delta.offset} after {len(c.tokens)} tokens"
            c.tokens += map(token, m.delta.tokens)
            c.text += m.delta.text
        elif kind == "finished":
            f = m.finished
            c = answer.choice(f.index)
            if c.end:
                answer.wrong = f"choice {f.index} finished twice"
            c.end = (f.reason, f.matched_stop, f.digest, f.seed, f.output_tokens,
                     tuple((tuple(b.token_ids), bits(b.score), b.text) for b in f.beams))
            answer.failovers += f.failovers

    def _ask_http(self, answer, path, body):
        try:
            host, port = self.cluster.http.rsplit(":", 1)
            connection = http.client.HTTPConnection(host, int(port), timeout=self.timeout)
            try:
                connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
                response = connection.getresponse()
                if response.status != 200:
                    answer.error = f"HTTP {response.status}: {response.read(500)!r}"
                    if response.status not in ALLOWED_STATUS:
                        answer.strange = answer.error
                elif body.get("stream"):
                    self._read_events(answer, response)
                else:
                    self._take_object(answer, json.loads(response.read()))
            finally:
                connection.close()
        except TimeoutError as e:
            answer.error = answer.strange = f"silent for {self.timeout} s: {e}"
        except (OSError, http.client.HTTPException) as e:
            answer.error = repr(e)

    def _read_events(self, answer, response):
        for line in response:
            if not line.startswith(b"data: "):
                continue
            data = line[6:].strip()
            if data == b"[DONE]":
                return
            event = json.loads(data)
            if "error" in event:
                answer.error = str(event["error"])
                return
            self._take_object(answer, event)
        answer.error = "the stream ended without [DONE]"

    @staticmethod
    def _take_object(answer, event):
        answer.head = (event["model"], event["system_fingerprint"])
        for part in event["choices"]:
            c = answer.choice(part["index"])
            logprobs = part.get("logprobs")
            c.text += part.get("text") or (part.get("delta") or part.get("message") or {}).get("content") or ""
            c.tokens += part.get("token_ids") or []
            if logprobs:  # floats are printed so that they read back as the same bits
                c.logprobs += [json.dumps(x, sort_keys=True) for x in logprobs.get("content") or []]
                c.logprobs += list(zip(logprobs.get("tokens") or [], logprobs.get("token_logprobs") or []))
            if part.get("finish_reason"):
                c.end = (part["finish_reason"], part.get("seed"), part.get("digest"))
