# requires: guidellm==0.8.1
"""guidellm's own command against the chat API, two streams at a time: it asks for continuous_usage_stats."""
import json
import os
import pathlib
import subprocess
import sys
import tempfile

with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    prompts = ["Tell me of the sea.", "What is gravity?", "Name three birds.", "Count to five."]
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": p, "output_tokens_count": 16}) + "\n" for p in prompts))
    subprocess.run([str(pathlib.Path(sys.executable).parent / "guidellm"), "run", "--disable-progress",
                    "--backend", f"kind=openai_http,target={sys.argv[1]},model={os.environ['MODEL_NAME']}",
                    "--profile", "kind=concurrent,streams=2", "--constraint", "kind=max_requests,count=4",
                    "--data", f"kind=json_file,path={folder}/prompts.jsonl", "--output", f"kind=json,path={folder}/out.json"],
                   check=True, timeout=300)
    requests = json.loads((folder / "out.json").read_text())["benchmarks"][0]["requests"]
counts = {k: len(v) for k, v in requests.items() if v}
assert counts == {"successful": 4}, (counts, [r.get("info") for r in requests["errored"]])
assert all(r["output"] for r in requests["successful"])
print("guidellm: ok")
