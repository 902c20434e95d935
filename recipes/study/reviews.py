"""Writes the data of training.toml: short restaurant reviews from a small grammar, and their 32 prompts.

    python3 recipes/study/reviews.py recipes/study

The grammar is made so that sentiment is graded: adjectives of many strengths, adverbs that weaken and strengthen, and a second
clause that agrees or turns against the first.
"""

import json
import pathlib
import random
import sys

DISHES = ["soup", "bread", "salad", "coffee", "curry", "cake", "rice", "pie"]
PARTS = ["staff", "room", "music", "price", "menu", "service"]
GOOD = ["good", "great", "nice", "lovely", "fresh", "perfect", "wonderful", "pleasant"]
BAD = ["bad", "awful", "sad", "horrible", "poor", "boring", "terrible", "dirty"]
PLAIN = ["warm", "simple", "large", "quiet", "plain", "new"]
ADVERBS = ["very", "really", "rather", "slightly", "quite", "not"]
OPENINGS = ["A review of the", "On the", "What I thought of the", "My note on the"]


def quality(rng):
    words = rng.choices([GOOD, BAD, PLAIN], weights=[4, 4, 3])[0]
    adverb = rng.choice(ADVERBS) + " " if rng.random() < 0.4 else ""
    return adverb + rng.choice(words)


def review(rng):
    text = f" it was {quality(rng)}"
    if rng.random() < 0.7:
        text += f"{rng.choice([' and', ', but'])} the {rng.choice(PARTS)} was {quality(rng)}"
    return text + "."


def main(folder):
    rng = random.Random(0)
    prompts = [f"{opening} {dish}:" for opening in OPENINGS for dish in DISHES]
    with open(folder / "reviews.jsonl", "w") as file:
        for _ in range(2000):
            row = {"prompt": rng.choice(prompts), "completion": review(rng)}
            file.write(json.dumps(row) + "\n")
    with open(folder / "prompts.jsonl", "w") as file:
        file.writelines(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts)


main(pathlib.Path(sys.argv[1]))
