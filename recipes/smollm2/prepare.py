#!/usr/bin/env python3
"""Opening words of movie reviews as prompts, and a word list as a reward.

    python3 recipes/smollm2/prepare.py movie_reviews.zip opinion_lexicon.zip OUT

Both archives are NLTK's (packages/corpora of github.com/nltk/nltk_data; CC BY 4.0: Pang and Lee, Hu and Liu). Writes to
OUT: train.jsonl (folds 0 to 7), held-out.jsonl (fold 8), test.jsonl (fold 9), each row with a `prompt`, and lexicon.tsv
with weight 1 for positive and -1 for negative words. Needs nothing but Python.
"""

import json
import pathlib
import re
import sys
import zipfile

WORDS = 8  # of the review's first sentence that is longer


def opening(review: str) -> str | None:
    """The first words of the first sentence that goes on, with punctuation attached again."""
    for line in review.splitlines():
        words = line.split()
        if sum(word.isalpha() for word in words) > WORDS:
            text = " ".join(words[:WORDS])
            text = re.sub(r" ([,.;:?!)])", r"\1", text)
            text = re.sub(r"\( ", "(", text)
            text = re.sub(r'" ([^"]*?) ?"', r'"\1"', text)
            return text.strip().rstrip(' (')
    return None


def openings(archive: zipfile.ZipFile, folds: range) -> list[str]:
    found = []
    for name in sorted(archive.namelist()):
        place = re.fullmatch(r"movie_reviews/(?:neg|pos)/cv(\d)\d\d_\d+\.txt", name)
        if place and int(place[1]) in folds:
            text = opening(archive.read(name).decode("latin-1"))
            if text:
                found.append(text)
    return list(dict.fromkeys(found))


def words(archive: zipfile.ZipFile, sign: str) -> list[str]:
    text = archive.read(f"opinion_lexicon/{sign}-words.txt").decode("latin-1")
    # The reward reads whole words of letters; the list's hyphenated and starred entries are not such.
    return [word for word in text.splitlines() if re.fullmatch(r"[a-z]+", word)]


def main() -> None:
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    out = pathlib.Path(sys.argv[3])
    out.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(sys.argv[1]) as archive:
        seen: set[str] = set()
        # Test first: an opening that occurs twice stays where nothing is trained on it.
        for name, folds in (("test", range(9, 10)), ("held-out", range(8, 9)), ("train", range(8))):
            prompts = [text for text in openings(archive, folds) if text not in seen]
            seen.update(prompts)
            rows = "".join(json.dumps({"prompt": text}) + "\n" for text in prompts)
            (out / f"{name}.jsonl").write_text(rows)
            print(f"{out / name}.jsonl: {len(prompts)} prompts")
    with zipfile.ZipFile(sys.argv[2]) as archive:
        positive, negative = words(archive, "positive"), words(archive, "negative")
    both = set(positive) & set(negative)
    lines = [f"{word}\t{weight}" for words_, weight in ((positive, 1), (negative, -1)) for word in words_ if word not in both]
    (out / "lexicon.tsv").write_text("\n".join(dict.fromkeys(lines)) + "\n")
    print(f"{out / 'lexicon.tsv'}: {len(set(lines))} words")


if __name__ == "__main__":
    main()
