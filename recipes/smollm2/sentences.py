#!/usr/bin/env python3
"""Sentences of film reviews as preference pairs, and the beginnings of others as prompts.

    python3 recipes/smollm2/sentences.py sentence_polarity.zip OUT

The archive is NLTK's (packages/corpora of github.com/nltk/nltk_data; CC BY 4.0: Pang and Lee, 5,331 sentences that praise
and as many that do not). Writes to OUT:

  pairs.jsonl     of each pair the praising sentence is the chosen one; both have the same number of words, so that
                  length says nothing
  held-out.jsonl  the same of other sentences
  train.jsonl     the first words of yet other sentences, each row with a `prompt`
  test.jsonl      the same of yet other sentences

Needs nothing but Python.
"""

import json
import pathlib
import random
import re
import sys
import zipfile
from collections import defaultdict

PROMPT = "Film review:"
WORDS = 4  # of a sentence that its beginning has
SHORT, LONG = 8, 30  # words of the sentences that are used


def text(words: list[str]) -> str:
    """Words of a tokenised sentence as they are written."""
    line = " ".join(words)
    line = re.sub(r" ([,.;:?!)])", r"\1", line)
    line = re.sub(r"\( ", "(", line)
    return re.sub(r'" ([^"]*?) ?"', r'"\1"', line)


def sentences(archive: zipfile.ZipFile, sign: str) -> list[list[str]]:
    lines = archive.read(f"sentence_polarity/rt-polarity.{sign}").decode("latin-1").splitlines()
    split = [line.split() for line in dict.fromkeys(lines)]
    return [words for words in split if SHORT <= len(words) <= LONG]


def pairs(praise: list[list[str]], blame: list[list[str]]) -> list[dict[str, str]]:
    by_length = defaultdict(list)
    for words in blame:
        by_length[len(words)].append(words)
    found = []
    for words in praise:
        if by_length[len(words)]:
            other = by_length[len(words)].pop()
            found.append({"prompt": PROMPT, "chosen": " " + text(words), "rejected": " " + text(other)})
    return found


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    out = pathlib.Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(sys.argv[1]) as archive:
        signs = {sign: sentences(archive, sign) for sign in ("pos", "neg")}
    mix = random.Random(0)
    for found in signs.values():
        mix.shuffle(found)
    part = {sign: {name: found[k::10] for k, name in enumerate(["test", "train", "held"])} for sign, found in signs.items()}
    rest = {sign: [words for k, words in enumerate(found) if k % 10 > 2] for sign, found in signs.items()}
    rows = {
        "pairs": pairs(rest["pos"], rest["neg"]),
        "held-out": pairs(part["pos"]["held"], part["neg"]["held"]),
    }
    seen: set[str] = set()
    # Test first: a beginning that occurs twice stays where nothing is trained on it.
    for name in ("test", "train"):
        both = [words for two in zip(part["pos"][name], part["neg"][name]) for words in two]
        beginnings = dict.fromkeys(f"{PROMPT} {text(words[:WORDS])}" for words in both if all(w.isalpha() for w in words[:WORDS]))
        rows[name] = [{"prompt": line} for line in beginnings if line not in seen]
        seen.update(beginnings)
    for name, found in rows.items():
        (out / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
        print(f"{out / name}.jsonl: {len(found)} rows")


if __name__ == "__main__":
    main()
