"""Opens saved models in transformers and peft, and prints their last-position outputs as JSON.

    python3 open.py KIND DIRECTORY [BASE] < ids.json

KIND is `causal`, `score` or `adapter` (then BASE is the base model's directory); ids.json is a list of lists of token ids.
Prints a list with one list of numbers for each row. Exits with 3 where torch, transformers or peft are missing.
"""

import json
import sys

try:
    import torch
    import transformers

    if sys.argv[1] == "adapter":
        import peft
except ImportError as error:
    print(error, file=sys.stderr)
    sys.exit(3)

kind, directory = sys.argv[1:3]
if kind == "adapter":
    model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[3], dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(model, directory)
elif kind == "score":
    model, report = transformers.AutoModelForSequenceClassification.from_pretrained(
        directory, dtype=torch.float32, output_loading_info=True
    )
else:
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, output_loading_info=True
    )
if kind != "adapter":
    wrong = {key: sorted(report[key]) for key in ("missing_keys", "unexpected_keys", "mismatched_keys") if report[key]}
    assert not wrong, wrong
model.eval()
with torch.no_grad():
    rows = []
    for ids in json.load(sys.stdin):
        logits = model(torch.tensor([ids])).logits
        rows.append((logits[0] if kind == "score" else logits[0, -1]).tolist())
print(json.dumps(rows))
