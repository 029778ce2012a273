# requires: aiperf==0.13.0 gguf
"""aiperf's own command against the streaming chat API, with the model's tokenizer as a folder made from its file."""
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import gguf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

file = os.environ.get("TUTTI_MODEL", "models/SmolLM2-135M-Instruct.Q4_1.gguf")
fields = gguf.GGUFReader(file).fields
texts = lambda name: [bytes(fields[name].parts[i]).decode() for i in fields[name].data]
tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(texts("tokenizer.ggml.tokens"))},
                                 [tuple(m.split(" ")) for m in texts("tokenizer.ggml.merges")]))
tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(False)])
tokenizer.decoder = decoders.ByteLevel()
with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>").save_pretrained(folder / "tokenizer")
    (folder / "tokenizer/config.json").write_text('{"model_type": "llama"}')
    subprocess.run([str(pathlib.Path(sys.executable).parent / "aiperf"), "profile", "--model", os.environ["MODEL_NAME"],
                    "--url", sys.argv[1], "--endpoint-type", "chat", "--streaming", "--concurrency", "2", "--request-count", "6",
                    "--isl", "40", "--osl", "16", "--tokenizer", str(folder / "tokenizer"), "--ui", "none", "--artifact-dir", str(folder / "out")],
                   check=True, timeout=300, stdout=subprocess.DEVNULL)
    report = json.loads((folder / "out/profile_export_aiperf.json").read_text())
assert report["request_count"]["avg"] == 6 and not report["error_summary"], report["error_summary"]
assert report["output_sequence_length"]["avg"] > 1 and report["time_to_first_token"]["avg"] > 0
print("aiperf: ok")
