#!/usr/bin/env python3
"""How far BOND's policies are from best-of-n's law, in both directions: the figure of arXiv 2407.14622 for part one.

    cargo build -p inference
    python3 recipes/study/bond_divergences.py checkpoints/training target/debug/inference

Needs a finished part one of training.toml, and nothing but Python. With M samples of the base for each prompt, best-of-n's law has on
sample i the weight w_i that its rank gives it, and the divergences of a policy from it are

  forward    KL(pi_n | pi) = sum_i w_i [ln(M w_i) + ln ref(y_i) - ln pi(y_i)]            on the base's samples
  backward   KL(pi | pi_n) = KL(pi | ref) - E_pi ln(pi_n / ref)                          on the policy's samples, with
                             pi_n / ref = n F^(n-1), F the base's share of lower rewards, ties one half

Both are estimates: F of 128 samples says little below one percent. Prints means over prompts, and ± their deviation between seeds.
"""

import json
import math
import pathlib
import statistics
import subprocess
import sys
import tempfile

SERIES = {"bond-b0": "0", "bond": "1/2", "bond-b1": "1"}


def pools(folder: pathlib.Path) -> dict[str, list[dict]]:
    """The pools of 128 samples, by policy."""
    found = {}
    for path in folder.glob("pools/*-128.jsonl"):
        with path.open() as lines:
            head = json.loads(next(lines))
            found[head["key"]["policy"]] = [json.loads(line) for line in lines]
    return found


def rewards(row: dict) -> list[float]:
    return next(iter(row["rewards"].values()))


def weights(scores: list[float], n: int) -> list[float]:
    """What best-of-n gives each of the samples: its law on them, drawn with replacement, ties shared."""
    size = len(scores)
    at_most = {score: sum(other <= score for other in scores) for score in set(scores)}
    below = {score: sum(other < score for other in scores) for score in set(scores)}
    share = lambda s: ((at_most[s] / size) ** n - (below[s] / size) ** n) / (at_most[s] - below[s])
    return [share(score) for score in scores]


def log_probs(inference: str, model: pathlib.Path, rows: list[dict]) -> list[list[float]]:
    with tempfile.TemporaryDirectory() as place:
        texts, scored = pathlib.Path(place, "texts.jsonl"), pathlib.Path(place, "scored.jsonl")
        asks = [{"prompt_ids": row["prompt"], "completion_ids": sample["ids"]} for row in rows for sample in row["samples"]]
        texts.write_text("".join(json.dumps(ask) + "\n" for ask in asks))
        command = [inference, "score", "--model", str(model), "--input", str(texts), "--output", str(scored)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        sums = iter(json.loads(line)["log_prob"] for line in scored.read_text().splitlines())
    return [[next(sums) for _ in row["samples"]] for row in rows]


def forward(base: list[dict], policy: list[list[float]], n: int) -> float:
    total = 0.0
    for row, logs in zip(base, policy):
        law = weights(rewards(row), n)
        parts = zip(law, row["samples"], logs)
        total += sum(w * (math.log(w * len(law)) + sample["raw_log_prob"] - log) for w, sample, log in parts if w > 0)
    return total / len(base)


def backward(base: list[dict], own: list[dict], n: int) -> float:
    total = 0.0
    for row, drawn in zip(base, own):
        scores = rewards(row)
        lower = lambda r: sum((other < r) + 0.5 * (other == r) for other in scores)
        log_ratio = lambda r: math.log(n) + (n - 1) * math.log((lower(r) + 0.5) / (len(scores) + 1))
        kl = statistics.fmean(sample["kl"] for sample in drawn["samples"])
        total += kl - statistics.fmean(map(log_ratio, rewards(drawn)))
    return total / len(base)


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    folder, inference = pathlib.Path(sys.argv[1]), sys.argv[2]
    settings = json.loads((folder / "reviews/report/report.json").read_text())["settings"]
    found = pools(folder)
    base = found[settings["policy base"]]
    print("| n | b | forward KL, nats | backward KL, nats | both halves |\n|---|---|---|---|---|")
    for n in (2, 4, 16):
        for series, b in SERIES.items():
            values = []
            for seed in range(3):
                name = f"{series}-n{n}-seed{seed}"
                logs = log_probs(inference, folder / name / "latest", base)
                values.append((forward(base, logs, n), backward(base, found[settings[f"policy {name}"]], n)))
            values = [(f, r, (f + r) / 2) for f, r in values]
            cells = [f"{statistics.fmean(v):.3f} ±{statistics.stdev(v):.3f}" for v in zip(*values)]
            print(f"| {n} | {b} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
