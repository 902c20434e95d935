"""Plumb beside transformers on the same model, shapes and cores: the two alternate, and the ratio of their times is printed.

    python benches/peers/peers.py MODEL [--repeats 5] [--threads 2] [--only generate]

MODEL is a directory with a Hugging Face model. Needs torch and transformers (peft for `lora`), and cargo.
Every row runs to its budget. Sampling is at temperature 1 without filters. Loading is not timed.
"""

import argparse
import os
import statistics
import subprocess
import time

WORK = [
    ("generate", 1, 64, 64),
    ("generate", 8, 64, 64),
    ("generate", 32, 64, 64),
    ("generate", 128, 64, 64),
    ("generate-bf16", 1, 64, 64),
    ("generate-bf16", 8, 64, 64),
    ("generate-bf16", 32, 64, 64),
    ("prefill", 8, 512),
    ("train", 8, 256),
    ("lora", 8, 256),
]


class Plumb:
    def __init__(self, model, threads):
        build = ["cargo", "build", "--profile", "dev", "-p", "train", "--example", "speed"]
        subprocess.run(build, check=True)
        target = os.environ.get("CARGO_TARGET_DIR", "target")
        environment = dict(os.environ, PLUMB_BENCH_MODEL=model, RAYON_NUM_THREADS=str(threads))
        self.process = subprocess.Popen(
            [os.path.join(target, "debug", "examples", "speed")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )
        self.process.stdout.readline()

    def run(self, work):
        self.process.stdin.write(" ".join(map(str, work)) + "\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())


class Transformers:
    def __init__(self, model, threads):
        import torch
        import transformers

        torch.set_num_threads(threads)
        self.torch = torch
        self.path = model
        self.load = lambda dtype: transformers.AutoModelForCausalLM.from_pretrained(model, dtype=dtype)
        self.model = self.load(torch.float32).eval()
        self.narrow = self.load(torch.bfloat16).eval()
        self.trained = {}
        self.vocab = self.model.config.vocab_size

    def ids(self, rows, tokens):
        generator = self.torch.Generator().manual_seed(1)
        return self.torch.randint(0, self.vocab, (rows, tokens), generator=generator)

    def training(self, kind):
        if kind not in self.trained:
            model = self.load(self.torch.float32)
            if kind == "lora":
                import peft

                maps = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
                model = peft.get_peft_model(model, peft.LoraConfig(r=16, lora_alpha=32, target_modules=maps))
            weights = [weight for weight in model.parameters() if weight.requires_grad]
            self.trained[kind] = (model.train(), weights, self.torch.optim.AdamW(weights, lr=1e-6, weight_decay=0.0))
        return self.trained[kind]

    def run(self, work):
        torch = self.torch
        kind, rows = work[0], work[1]
        ids = self.ids(rows, work[2])
        if kind in ("train", "lora"):
            model, weights, optimizer = self.training(kind)
        started = time.perf_counter()
        if kind.startswith("generate"):
            model = self.model if kind == "generate" else self.narrow
            with torch.inference_mode():
                model.generate(
                    ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
                    min_new_tokens=work[3], max_new_tokens=work[3], pad_token_id=0,
                )
        elif kind == "prefill":
            with torch.inference_mode():
                self.model(ids, logits_to_keep=1, use_cache=True)
        else:
            model(ids, labels=ids).loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            optimizer.zero_grad()
        return time.perf_counter() - started


def row(name, seconds, tokens):
    rates = sorted(tokens / value for value in seconds)
    return f"{name} {rates[0]:.0f} / {statistics.median(rates):.0f} / {rates[-1]:.0f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", help="a kind of work, such as generate")
    arguments = parser.parse_args()
    plumb, peer = Plumb(arguments.model, arguments.threads), Transformers(arguments.model, arguments.threads)
    print("tokens per second: minimum / median / maximum; then the ratio of the times of each pair of runs")
    for work in WORK:
        if arguments.only and work[0] != arguments.only:
            continue
        tokens = work[1] * (work[3] if len(work) == 4 else work[2])
        ours, theirs = [], []
        for side in (plumb, peer):
            side.run(work)
        for _ in range(arguments.repeats):
            ours.append(plumb.run(work))
            theirs.append(peer.run(work))
        ratios = sorted(b / a for a, b in zip(ours, theirs))
        ratio = f"{ratios[0]:.2f} / {statistics.median(ratios):.2f} / {ratios[-1]:.2f}"
        print(f"{' '.join(map(str, work)):22} {row('plumb', ours, tokens)}   {row('transformers', theirs, tokens)}   ratio {ratio}", flush=True)


if __name__ == "__main__":
    main()
