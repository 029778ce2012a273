"""llama.cpp's speed, in the virtual environment that llama_cpp_compare.py builds; prints one line of JSON.

    .venv-llama/bin/python tests/perf/llama_peer.py --model FILE --threads 2 [--prompt 512] [--generate 128]
        [--streams 1] [--depth 0]

pp: tokens per second of a prefill of --prompt; tg: of decoding --generate tokens in --streams sequences side
by side, with --depth tokens already in the cache of each.
"""
import argparse
import json
import time

import llama_cpp


def decode_streams(llm, tokens, streams, depth, generate):
    """Tokens per second over all sequences, one token of each in every call."""
    batch = llama_cpp.llama_batch_init(max(512, streams), 0, 1)

    def run(entries, logits):
        for i, (token, pos, seq) in enumerate(entries):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, pos, 1, logits
            batch.seq_id[i][0] = seq
        batch.n_tokens = len(entries)
        if llama_cpp.llama_decode(llm.ctx, batch) != 0:
            raise SystemExit("llama_decode failed")

    for s in range(streams):
        for first in range(0, depth, 512):
            run([(tokens[p], p, s) for p in range(first, min(depth, first + 512))], False)
    begin = max(1, depth)
    if depth == 0:
        run([(tokens[s], 0, s) for s in range(streams)], True)
    start = time.perf_counter()
    for i in range(generate):
        run([(tokens[(i + s) % len(tokens)], begin + i, s) for s in range(streams)], True)
        llama_cpp.llama_synchronize(llm.ctx)
    return streams * generate / (time.perf_counter() - start)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--model", required=True)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--prompt", type=int, default=512)
    p.add_argument("--generate", type=int, default=128)
    p.add_argument("--streams", type=int, default=1)
    p.add_argument("--depth", type=int, default=0)
    o = p.parse_args()
    each = max(o.prompt, o.depth + o.generate) + 8
    kwargs = dict(n_ctx=each * o.streams, n_batch=512, n_ubatch=512, n_threads=o.threads, n_threads_batch=o.threads,
                  verbose=False)
    plain = llama_cpp.llama_cpp.llama_context_default_params

    def with_sequences():  # the Python class has no argument for it
        params = plain()
        params.n_seq_max = o.streams
        return params

    llama_cpp.llama_cpp.llama_context_default_params = with_sequences
    llm = llama_cpp.Llama(o.model, **kwargs)
    tokens = [(i * 7919 + 13) % llm.n_vocab() for i in range(max(o.prompt, o.depth, o.generate) + 1)]
    out = {}
    if o.prompt:
        llm.eval(tokens[:16])  # warm
        llm.reset()
        start = time.perf_counter()
        llm.eval(tokens[: o.prompt])
        out["pp"] = o.prompt / (time.perf_counter() - start)
        llm.reset()
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(llm.ctx), True)
    if o.generate:
        out["tg"] = decode_streams(llm, tokens, o.streams, o.depth, o.generate)
    print(json.dumps(out))


if __name__ == "__main__":
    main()
