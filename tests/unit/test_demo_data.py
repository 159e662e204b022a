"""The demo reviews: as many as promised, balanced, and no two alike."""

from __future__ import annotations

import csv
import re
from collections import Counter
from importlib.resources import files
from itertools import combinations

import pytest

REVIEWS = files("durabert.demo") / "reviews"
LARGEST_JACCARD = 0.7


def rows_of(split: str) -> list[tuple[str, str]]:
    with (REVIEWS / f"{split}.csv").open(newline="", encoding="utf-8") as file:
        return [(row["text"], row["label"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize(("split", "num_rows"), [("train", 1000), ("validation", 200)])
def test_the_splits_are_balanced_and_of_the_promised_size(split, num_rows):
    counts = Counter(label for _, label in rows_of(split))

    assert counts == {"negative": num_rows // 2, "positive": num_rows // 2}


def test_no_two_reviews_are_alike():
    texts = [text for split in ("train", "validation") for text, _ in rows_of(split)]
    words = [frozenset(re.findall(r"[a-z']+", text.lower())) for text in texts]

    alike = [
        (texts[one], texts[other])
        for one, other in combinations(range(len(texts)), 2)
        if len(words[one] & words[other]) >= LARGEST_JACCARD * len(words[one] | words[other])
    ]

    assert alike == []


def test_the_demo_reviews_raise_no_notice():
    from durabert.bert.data import load_training_data
    from durabert.specs import DataSpec

    with_notices = load_training_data(DataSpec(source=str(REVIEWS))).notices

    assert with_notices == ()
