# requires: litellm==1.110.2
"""LiteLLM's router: a deployment that is not there falls back to this one, and a prompt that is too long is an overflow of
the context, which LiteLLM knows by our words."""
import os
import sys

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # asks nobody on the internet
import litellm
from litellm import Router

name = os.environ["MODEL_NAME"]
here = {"model": f"openai/{name}", "api_base": sys.argv[1] + "/v1", "api_key": "unused"}
nowhere = dict(here, api_base="http://127.0.0.1:9/v1")
router = Router(model_list=[{"model_name": "first", "litellm_params": nowhere}, {"model_name": "second", "litellm_params": here}],
                fallbacks=[{"first": ["second"]}], num_retries=0, timeout=300)
messages = [{"role": "user", "content": "Name three birds."}]
answer = router.completion("first", messages=messages, max_tokens=16, temperature=0, seed=1)
again = litellm.completion(messages=messages, max_tokens=16, temperature=0, seed=1, **here)
assert answer.choices[0].message.content == again.choices[0].message.content != "", (answer, again)
streamed = "".join(c.choices[0].delta.content or "" for c in
                   litellm.completion(messages=messages, max_tokens=16, temperature=0, seed=1, stream=True, **here))
assert streamed == again.choices[0].message.content, streamed
try:
    litellm.completion(messages=[{"role": "user", "content": "word " * 20_000}], **here)
    raise AssertionError("a prompt beyond the context was taken")
except litellm.ContextWindowExceededError:
    pass
print("litellm: ok")
