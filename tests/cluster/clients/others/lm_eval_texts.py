# requires: lm_eval[api]==0.4.13
"""lm-evaluation-harness with text prompts: its own tasks run unmodified, with the server's tokenizer, and the likelihood of a
text is the reference's (transformers, f32), whether it is sent as text or as token ids."""
import json
import os
import pathlib
import sys
import tempfile
import urllib.request

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"  # asks nobody on the internet
import lm_eval
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager
from lm_eval.models.openai_completions import LocalCompletionsAPI

url, name = sys.argv[1], os.environ["MODEL_NAME"]
data = pathlib.Path(__file__).resolve().parents[3] / "data/models/smollm2/perplexity.json"


def model(as_ids):
    return LocalCompletionsAPI(base_url=url + "/v1/completions", model=name, tokenizer_backend="remote", tokenized_requests=as_ids,
                               batch_size=4, max_length=4096, max_retries=1)


def text_of(ids):
    request = urllib.request.Request(url + "/detokenize", json.dumps({"tokens": ids}).encode(), {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request, timeout=300))["prompt"]


# 1. The reference's first window: the mean over all tokens but the first.
golden = json.loads(data.read_text())
window = golden["windows"][0]
ids = golden["ids"][: golden["window"]]
pair = (text_of(ids[:1]), text_of(ids[1:]))
for as_ids in (False, True):
    (score, _), = model(as_ids).loglikelihood([Instance("loglikelihood", {}, pair, 0)])
    nll = -score / (len(ids) - 1)
    print(f"mean NLL, sent as {'ids' if as_ids else 'text'}: {nll:.4f}, transformers {window['mean_nll']:.4f}")
    assert abs(nll / window["mean_nll"] - 1) < 0.01, nll

# 2. Its own kinds of tasks, from files.
with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    rows = [{"question": "The capital of France is", "choices": [" Paris", " Berlin", " bread"], "answer": 0, "text": text_of(ids[:200])},
            {"question": "Two plus two is", "choices": [" four", " a cow", " seven"], "answer": 0, "text": text_of(ids[200:400])}]
    (folder / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    shared = f"""
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/rows.jsonl}}}}
test_split: test
metadata: {{version: 1}}
"""
    (folder / "choice.yaml").write_text(shared + """
task: tutti_choice
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
target_delimiter: ""
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
""")
    (folder / "rolling.yaml").write_text(shared + """
task: tutti_rolling
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]
""")
    (folder / "greedy.yaml").write_text(shared + """
task: tutti_greedy
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[0]}}"
generation_kwargs: {until: ["."], max_gen_toks: 12, temperature: 0, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
""")
    tasks = TaskManager(include_path=str(folder), include_defaults=False)
    results = {as_ids: lm_eval.simple_evaluate(model(as_ids), tasks=["tutti_choice", "tutti_rolling", "tutti_greedy"], task_manager=tasks,
                                               bootstrap_iters=0)["results"] for as_ids in (False, True)}
print(json.dumps(results[False], indent=1, default=str))
assert results[False]["tutti_choice"]["acc,none"] == 1.0
for metric in ("word_perplexity,none", "bits_per_byte,none"):
    as_text, as_ids = (results[k]["tutti_rolling"][metric] for k in (False, True))
    assert abs(as_text / as_ids - 1) < 0.001, (metric, as_text, as_ids)
print("lm-eval: ok")
