"""The `openai` client against /v1: what its users call, with the fields of ours beside."""
import math

import pytest

PROMPT = "The capital of France is"
GREEDY = {"temperature": 0, "max_tokens": 12, "extra_body": {"ignore_eos": True}}


def counts(r):
    """Tokens in and out; how much of the prompt was found in a cache may differ."""
    return r.usage.prompt_tokens, r.usage.completion_tokens, r.usage.total_tokens


def test_models_are_listed_and_found_by_name(client, model):
    import openai

    assert client.models.retrieve(model).id == model
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no-such-model")


def test_a_completion_has_text_usage_seed_digest_and_fingerprint(client, model):
    r = client.completions.create(model=model, prompt=PROMPT, **GREEDY)
    assert r.object == "text_completion" and r.model == model and len(r.system_fingerprint) == 16
    choice = r.choices[0]
    assert "Paris" in choice.text and choice.finish_reason == "length"
    assert r.usage.completion_tokens == 12 and r.usage.total_tokens == r.usage.prompt_tokens + 12
    assert isinstance(choice.seed, int) and len(choice.digest) == 16


def test_greedy_answers_are_equal_and_a_reported_seed_replays_a_sampled_one(client, model):
    first, again = (client.completions.create(model=model, prompt=PROMPT, **GREEDY).choices[0] for _ in range(2))
    assert (first.text, first.digest) == (again.text, again.digest)
    drawn = client.completions.create(model=model, prompt=PROMPT, temperature=1.2, max_tokens=16).choices[0]
    replay = client.completions.create(model=model, prompt=PROMPT, temperature=1.2, max_tokens=16, seed=drawn.seed).choices[0]
    assert (replay.text, replay.digest, replay.seed) == (drawn.text, drawn.digest, drawn.seed)


def test_a_streamed_completion_joins_to_the_whole_one_and_ends_with_usage(client, model):
    whole = client.completions.create(model=model, prompt=PROMPT, seed=7, max_tokens=20)
    chunks = list(client.completions.create(model=model, prompt=PROMPT, seed=7, max_tokens=20, stream=True,
                                            stream_options={"include_usage": True}))
    assert "".join(c.choices[0].text for c in chunks if c.choices) == whole.choices[0].text
    assert chunks[-1].choices == [] and counts(chunks[-1]) == counts(whole)
    assert len(chunks) > 5, "text came piece by piece"
    ends = [c.choices[0] for c in chunks if c.choices and c.choices[0].finish_reason]
    assert len(ends) == 1 and ends[0].digest == whole.choices[0].digest


def test_a_chat_answers_and_its_stream_joins_to_the_same(client, model):
    ask = {"model": model, "messages": [{"role": "system", "content": "You are terse."},
                                        {"role": "user", "content": "Say hello."}], "seed": 3, "max_tokens": 24}
    whole = client.chat.completions.create(**ask)
    message = whole.choices[0].message
    assert message.role == "assistant" and message.content
    chunks = list(client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == message.content
    assert counts(chunks[-1]) == counts(whole)


def test_chat_logprobs_are_of_the_tokens_that_make_up_the_text(client, model):
    r = client.chat.completions.create(model=model, messages=[{"role": "user", "content": "Count to three."}],
                                       temperature=0, max_tokens=8, logprobs=True, top_logprobs=3)
    content = r.choices[0].logprobs.content
    assert len(content) == r.usage.completion_tokens
    joined = b"".join(bytes(t.bytes) for t in content)
    assert joined.decode().startswith(r.choices[0].message.content)
    for t in content:
        assert len(t.top_logprobs) == 3 and t.logprob <= 0
        assert t.top_logprobs[0].token == t.token, "greedy takes the likeliest"
        assert sorted((a.logprob for a in t.top_logprobs), reverse=True) == [a.logprob for a in t.top_logprobs]
        assert sum(math.exp(a.logprob) for a in t.top_logprobs) <= 1.0001


def test_echo_with_no_output_scores_the_prompt_as_generation_would_have(client, model):
    made = client.completions.create(model=model, prompt=PROMPT, temperature=0, max_tokens=6, logprobs=2,
                                     extra_body={"return_token_ids": True}).choices[0]
    whole = made.prompt_token_ids + made.token_ids
    scored = client.completions.create(model=model, prompt=whole, max_tokens=0, echo=True, logprobs=2).choices[0]
    assert scored.text == PROMPT + made.text
    assert scored.logprobs.token_logprobs[0] is None
    assert len(scored.logprobs.tokens) == len(whole)
    assert scored.logprobs.token_logprobs[-len(made.token_ids):] == made.logprobs.token_logprobs, "the same bits"
    assert scored.logprobs.text_offset[0] == 0 and scored.logprobs.text_offset == sorted(scored.logprobs.text_offset)


def test_n_choices_are_in_order_different_and_repeatable(client, model):
    ask = {"model": model, "prompt": PROMPT, "n": 3, "temperature": 1.0, "max_tokens": 16, "seed": 11}
    first, again = (client.completions.create(**ask) for _ in range(2))
    assert [c.index for c in first.choices] == [0, 1, 2]
    assert len({c.text for c in first.choices}) == 3
    assert [c.digest for c in first.choices] == [c.digest for c in again.choices]
    assert first.usage.completion_tokens <= 48
    alone = client.completions.create(**{**ask, "n": 1})
    assert alone.choices[0].digest == first.choices[0].digest


def test_several_prompts_give_their_choices_in_order(client, model):
    prompts = [PROMPT, "One, two, three,"]
    both = client.completions.create(model=model, prompt=prompts, **GREEDY)
    alone = [client.completions.create(model=model, prompt=p, **GREEDY).choices[0].text for p in prompts]
    assert [c.text for c in both.choices] == alone


def test_a_stop_string_ends_the_text_before_it(client, model):
    free = client.completions.create(model=model, prompt="1, 2, 3, 4,", temperature=0, max_tokens=24).choices[0]
    assert ", 8" in free.text
    stopped = client.completions.create(model=model, prompt="1, 2, 3, 4,", temperature=0, max_tokens=24, stop=[", 8", "zzz"])
    choice = stopped.choices[0]
    assert choice.finish_reason == "stop" and choice.stop_reason == ", 8"
    assert choice.text == free.text[: free.text.index(", 8")]
    streamed = client.completions.create(model=model, prompt="1, 2, 3, 4,", temperature=0, max_tokens=24, stop=", 8", stream=True)
    assert "".join(c.choices[0].text for c in streamed if c.choices) == choice.text


def test_logit_bias_forbids_and_forces_tokens(client, model):
    free = client.completions.create(model=model, prompt=PROMPT, temperature=0, max_tokens=1,
                                     extra_body={"return_token_ids": True}).choices[0]
    token = free.token_ids[0]
    other = client.completions.create(model=model, prompt=PROMPT, temperature=0, max_tokens=1,
                                      logit_bias={str(token): -100}, extra_body={"return_token_ids": True}).choices[0]
    assert other.token_ids[0] != token
    forced = client.completions.create(model=model, prompt=PROMPT, temperature=0, max_tokens=1,
                                       logit_bias={"500": 100}, extra_body={"return_token_ids": True}).choices[0]
    assert forced.token_ids == [500]


def test_text_that_is_cut_inside_of_a_character_still_streams_as_utf8(client, model):
    ask = {"model": model, "prompt": "Emoji: 😀🎉🚀 中文字符 ", "temperature": 1.5, "seed": 5, "max_tokens": 40}
    whole = client.completions.create(**ask).choices[0].text
    assert "".join(c.choices[0].text for c in client.completions.create(**ask, stream=True) if c.choices) == whole


def test_a_client_that_leaves_a_stream_does_not_disturb_the_next(client, model):
    stream = client.completions.create(model=model, prompt=PROMPT, max_tokens=500, stream=True, extra_body={"ignore_eos": True})
    for _, _chunk in zip(range(3), stream):
        pass
    stream.close()
    assert "Paris" in client.completions.create(model=model, prompt=PROMPT, **GREEDY).choices[0].text
