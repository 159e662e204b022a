"""What differs between two snapshots: every row counts once, duplicates included."""

from __future__ import annotations

import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from durabert.bert.snapshot_diff import compare
from durabert.bert.snapshots import build_snapshot
from durabert.specs import DataSpec

SPEC = DataSpec(source="snapshot:any", text="text", label="label")


def counts(directory, old, new):
    """Compare two tables: rows of split, text, label and weight, by name or as tuples."""
    found = []
    for name, rows in (("old", old), ("new", new)):
        (directory / name).mkdir()
        for split in ("train", "validation"):
            lines = [
                dict(zip(("text", "label", "weight"), row[1:], strict=True))
                for row in rows
                if row[0] == split
            ]
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (directory / f"{name}-{split}.jsonl").write_text(text)
        named = {"validation": str(directory / f"{name}-validation.jsonl")}
        spec = SPEC.model_copy(update={"source": str(directory / f"{name}-train.jsonl"), **named})
        build_snapshot(spec, directory / name)
        found.append(directory / name)
    difference = compare(*found, SPEC)
    return {kind: change.count for kind, change in vars(difference).items() if change.count}, difference


BASE = [("train", f"text {number}", "ab"[number % 2], number) for number in range(6)] + [
    ("validation", "held out", "a", 0)
]


def changed(tmp_path, **rows):
    new = [rows.pop(f"r{number}", row) for number, row in enumerate(BASE)]
    return counts(tmp_path, BASE, [row for row in new if row is not None] + list(rows.values()))


def test_nothing_differs(tmp_path):
    assert changed(tmp_path)[0] == {}


def test_every_kind_of_change_is_told_from_the_others(tmp_path):
    found, difference = changed(
        tmp_path,
        r0=None,
        r1=("train", "text 1", "a", 1),
        r2=("train", "text 2", "a", 99),
        r3=("validation", "text 3", "b", 3),
        more=("train", "a new text", "a", 0),
    )

    assert found == {"added": 1, "removed": 1, "relabelled": 1, "changed": 1, "moved": 1}
    assert difference.relabelled.examples == ["train, line 2: text 1 (b) -> train, line 1: text 1 (a)"]
    assert difference.moved.examples == ["train, line 4: text 3 (b) -> validation, line 1: text 3 (b)"]


def test_the_order_of_rows_is_no_difference_of_rows(tmp_path):
    assert counts(tmp_path, BASE, BASE[::-1])[0] == {}


def test_duplicates_count_each(tmp_path):
    old = [*BASE, BASE[0], BASE[0]]

    assert counts(tmp_path, old, [*BASE, ("train", "text 0", "b", 0)])[0] == {"relabelled": 1, "removed": 1}


ROWS = st.lists(
    st.tuples(
        st.just("train"), st.sampled_from(["one", "two"]), st.sampled_from(["a", "b"]), st.integers(0, 1)
    ),
    max_size=6,
)


@given(old=ROWS, new=ROWS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_row_is_lost_or_counted_twice(old, new, tmp_path_factory):
    found, _ = counts(tmp_path_factory.mktemp("drawn"), [*BASE, *old], [*BASE, *new])
    back, _ = counts(tmp_path_factory.mktemp("drawn"), [*BASE, *new], [*BASE, *old])

    assert found.get("added", 0) - found.get("removed", 0) == len(new) - len(old)
    assert (found == {}) == (sorted(old) == sorted(new))
    turned = {"added": "removed", "removed": "added"}
    assert back == {turned.get(kind, kind): count for kind, count in found.items()}
