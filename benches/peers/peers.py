"""Plumb beside transformers on the same model, shapes and cores: the two alternate, and the ratio of their times is printed.

    python benches/peers/peers.py MODEL [--repeats 5] [--threads 2] [--only generate] [--work "train 32 128" ...] [--cold]

MODEL is a directory with a Hugging Face model. Needs torch and transformers (peft for `lora`), and cargo.
`best-of` draws samples of one prompt and scores them with a reward model of the policy's size; `qalign` runs chains of so many
steps, by transformers as the reference does: in step, every proposal generated from its whole prefix and scored as a whole.
`train-answers` and `lora-answers` train on rows of a prompt and an answer, so many answers to each prompt, which is not learned.
`decode` is what new tokens take behind the prompt and the first of them: the time of `generate` less that of the same with one new token.
`temperature`, `top-k`, `top-p` and `min-p` are `generate` at a temperature of 0.8, of the 50 likeliest tokens, of 0.95 of the law, of tokens a
twentieth as likely as the likeliest. Every row runs to its budget. Other sampling is at temperature 1 without filters. Loading is not timed.
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
    ("decode", 8, 64, 65),
    ("decode", 32, 64, 65),
    ("decode", 128, 64, 65),
    ("generate-bf16", 1, 64, 64),
    ("generate-bf16", 8, 64, 64),
    ("generate-bf16", 32, 64, 64),
    ("generate-bf16", 128, 64, 16),
    ("decode-bf16", 8, 64, 65),
    ("decode-bf16", 32, 64, 65),
    ("decode-bf16", 128, 64, 65),
    ("temperature", 32, 16, 32),
    ("top-k", 32, 16, 32),
    ("top-p", 32, 16, 32),
    ("min-p", 32, 16, 32),
    ("prefill", 8, 512),
    ("prefill-bf16", 8, 512),
    ("train", 8, 256),
    ("lora", 8, 256),
    ("lora-bf16", 8, 256),
    ("train-answers", 8, 128, 128, 2),
    ("train-answers", 8, 128, 128, 4),
    ("lora-answers", 8, 128, 128, 4),
    ("best-of", 64, 200, 64),
    ("qalign", 16, 200, 128, 8),
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


# What the speed example does under these names.
FILTERS = {
    "temperature": {"temperature": 0.8},
    "top-k": {"top_k": 50},
    "top-p": {"top_p": 0.95},
    "min-p": {"min_p": 0.05},
}


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

    def judge(self, ids, mask):
        if not hasattr(self, "reward"):
            import transformers

            load = transformers.AutoModelForSequenceClassification.from_pretrained
            self.reward = load(self.path, dtype=self.torch.float32, num_labels=1, pad_token_id=0).eval()
        # By its hidden states at the last token: padding is on the left.
        hidden = self.reward.model(ids, attention_mask=mask).last_hidden_state[:, -1]
        return self.reward.score(hidden)[:, 0]

    def draw(self, ids, mask, new, samples=1):
        return self.model.generate(
            ids, attention_mask=mask, do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
            min_new_tokens=new, max_new_tokens=new, pad_token_id=0, num_return_sequences=samples,
        )

    def best_of(self, n, prompt, new):
        ids = self.ids(1, prompt)
        texts = self.draw(ids, self.torch.ones_like(ids), new, n)
        rewards = [self.judge(part, self.torch.ones_like(part)) for part in texts.split(16)]
        return texts[self.torch.cat(rewards).argmax()]

    def qalign(self, chains, prompt, new, steps):
        torch = self.torch
        prompts = self.ids(chains, prompt)
        texts = self.draw(prompts, torch.ones_like(prompts), new)
        rewards = self.judge(texts, torch.ones_like(texts))
        for _ in range(steps):
            cuts = torch.randint(0, new, (chains,)).tolist()
            longest = prompt + max(cuts)
            ids = torch.zeros(chains, longest, dtype=torch.long)
            mask = torch.zeros_like(ids)
            for row, cut in enumerate(cuts):
                ids[row, longest - prompt - cut:] = texts[row, :prompt + cut]
                mask[row, longest - prompt - cut:] = 1
            drawn = self.draw(ids, mask, new - min(cuts))[:, longest:]
            proposals = torch.stack(
                [torch.cat([texts[row, :prompt + cut], drawn[row, :new - cut]]) for row, cut in enumerate(cuts)]
            )
            scored = self.judge(proposals, torch.ones_like(proposals))
            taken = torch.rand(chains) < torch.exp(scored - rewards)
            texts = torch.where(taken[:, None], proposals, texts)
            rewards = torch.where(taken, scored, rewards)
        return texts

    def run(self, work):
        torch = self.torch
        kind, rows = work[0], work[1]
        ids = self.ids(rows, work[2])
        if kind.startswith(("train", "lora")):
            # Beside weights in fewer bits as well, the peer is peft in f32.
            model, weights, optimizer = self.training(kind.split("-")[0])
        labels = ids.clone()
        if kind.endswith("answers"):
            prompt, new, each = work[2:]
            ids = torch.cat([self.ids(-(-rows // each), prompt).repeat_interleave(each, 0)[:rows], self.ids(rows, new)], 1)
            labels = ids.clone()
            labels[:, :prompt] = -100
        started = time.perf_counter()
        if kind.startswith("generate") or kind in FILTERS:
            model = self.narrow if kind.startswith("generate-") else self.model
            settings = {"temperature": 1.0, "top_k": 0, "top_p": 1.0} | FILTERS.get(kind, {})
            with torch.inference_mode():
                model.generate(
                    ids, attention_mask=torch.ones_like(ids), do_sample=True, pad_token_id=0,
                    min_new_tokens=work[3], max_new_tokens=work[3], **settings,
                )
        elif kind in ("best-of", "qalign"):
            with torch.inference_mode():
                (self.best_of if kind == "best-of" else self.qalign)(*work[1:])
        elif kind.startswith("prefill"):
            model = self.model if kind == "prefill" else self.narrow
            with torch.inference_mode():
                model(ids, logits_to_keep=1, use_cache=True)
        else:
            model(ids, labels=labels).loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            optimizer.zero_grad()
        return time.perf_counter() - started


def seconds(side, work):
    """What a side takes for some work."""
    kind, *numbers = work
    if not kind.startswith("decode"):
        return side.run(work)
    whole, rows, prompt = kind.replace("decode", "generate"), *numbers[:2]
    return side.run((whole, *numbers)) - side.run((whole, rows, prompt, 1))


def tokens_of(work):
    """What a rate counts: tokens of all rows, of QAlign steps, of decoding those behind the first."""
    if work[0].endswith("answers"):
        return work[1] * (work[2] + work[3])
    each = {3: work[2], 4: work[-1], 5: work[-1]}[len(work)]
    return work[1] * (each - work[0].startswith("decode"))


def row(name, seconds, tokens):
    rates = sorted(tokens / value for value in seconds)
    return f"{name} {rates[0]:.0f} / {statistics.median(rates):.0f} / {rates[-1]:.0f}"


def ratio(ours, theirs):
    ratios = sorted(b / a for a, b in zip(ours, theirs))
    return f"ratio {ratios[0]:.2f} / {statistics.median(ratios):.2f} / {ratios[-1]:.2f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", help="a kind of work, such as generate")
    parser.add_argument("--work", nargs="+", help="other work than the list's, each as the list has it: \"train 32 128\"")
    parser.add_argument("--cold", action="store_true", help="no run of each before those that are timed: for work of many minutes")
    arguments = parser.parse_args()
    chosen = [tuple(int(part) if part.isdigit() else part for part in text.split()) for text in arguments.work or []]
    plumb, peer = Plumb(arguments.model, arguments.threads), Transformers(arguments.model, arguments.threads)
    print("tokens (of qalign: steps) per second: minimum / median / maximum; then the ratio of the times of each pair of runs")
    for work in chosen or WORK:
        if arguments.only and work[0] != arguments.only:
            continue
        tokens = tokens_of(work)
        ours, theirs = [], []
        if not arguments.cold:
            for side in (plumb, peer):
                seconds(side, work)
        for _ in range(arguments.repeats):
            ours.append(seconds(plumb, work))
            theirs.append(seconds(peer, work))
        print(f"{' '.join(map(str, work)):22} {row('plumb', ours, tokens)}   {row('transformers', theirs, tokens)}   {ratio(ours, theirs)}", flush=True)


if __name__ == "__main__":
    main()
