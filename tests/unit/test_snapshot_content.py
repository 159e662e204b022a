"""What is in a snapshot is what its id says: the rule of the id, odd sources, and snapshots of snapshots."""

from __future__ import annotations

import hashlib
import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from durabert.bert.data import load_training_data
from durabert.bert.snapshot_values import canonical
from durabert.bert.snapshots import build_snapshot, check_content, open_snapshot
from durabert.errors import ArtifactDamaged, DataInvalid
from durabert.specs import DataSpec

TEXTS = [f"text number {number} here" for number in range(20)]
LABELS = ["ab"[number % 2] for number in range(20)]


def parquet(path, *, texts=TEXTS, labels=LABELS, **columns):
    pq.write_table(pa.table({"text": texts, "label": labels, **columns}), path)
    return path


def arrow(path, **columns):
    table = pa.table({"text": TEXTS, "label": LABELS, **columns})
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)
    return path


def taken(source, directory, *, base=None, **fields):
    directory.mkdir()
    return build_snapshot(DataSpec(source=str(source), **fields), directory, base=base)


def same_training(source, directory):
    taken(source, directory)
    spec = DataSpec(source=str(source))
    check_content(directory)
    return load_training_data(spec, snapshot=directory) == load_training_data(spec)


def test_the_id_is_computed_as_the_documentation_says(tmp_path):
    rows = [{"text": "é one", "label": 1, "w": 1.0}, {"text": "two", "label": 0, "w": None}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    lines = '["label","text","w"]\n["1","\\u00e9 one","1.0"]\n["0","two",null]\n'
    split = hashlib.sha256(lines.encode()).hexdigest()
    told = f'{{"class_names":{{}},"format":1,"splits":{{"train":"{split}"}}}}'

    found = taken(tmp_path / "a.jsonl", tmp_path / "s", text="text", label="label").id
    assert found == hashlib.sha256(told.encode()).hexdigest()


def test_what_trains_in_another_way_has_another_id(tmp_path):
    # A label that is not a number is refused, one that is null is left out.
    numbers = [float(number % 2) for number in range(19)]
    ids = {
        str(last): taken(
            parquet(tmp_path / f"{last}.parquet", labels=[*numbers, last]), tmp_path / str(last)
        ).id
        for last in (float("nan"), None, float("inf"))
    }

    assert len(set(ids.values())) == 3


@pytest.mark.parametrize(
    "column",
    [
        pa.array([5_000_000] * 20, pa.date32()),
        pa.array([10**15] * 20, pa.timestamp("s")),
        pa.array([1234567890123456789] * 20, pa.timestamp("ns")),
        pa.array([[5_000_000]] * 20, pa.list_(pa.date32())),
        pa.array([10**9] * 20, pa.duration("us")),
        pa.array([[("a", 1)]] * 20, pa.map_(pa.string(), pa.int64())),
        pa.array([b"\xff\x00"] * 20),
        pa.array(LABELS).dictionary_encode(),
        pa.array([{}] * 20, pa.struct([])),
        pa.nulls(20),
    ],
    ids=lambda column: str(column.type).split(",")[0],
)
def test_a_column_that_no_training_reads_can_be_anything(column, tmp_path):
    assert same_training(arrow(tmp_path / "a.arrow", more=column), tmp_path / "s")


@pytest.mark.parametrize("name", ["", "a.b", "durabert:record", "text.x", "\n", "über"])
def test_a_column_can_have_any_name(name, tmp_path):
    assert same_training(parquet(tmp_path / "a.parquet", **{name: list(range(20))}), tmp_path / "s")


@pytest.fixture
def hub(monkeypatch):
    """Splits of a hub data set, by name."""
    splits: dict[str, datasets.Dataset] = {}
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: datasets.DatasetDict(splits))
    monkeypatch.setattr("durabert.bert.hub_data._unreachable", lambda _: None)
    return splits


def hub_split(rows=20, **columns):
    values = {"text": TEXTS[:rows], "label": [number % 2 for number in range(rows)]}
    kinds = {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    values |= {name: [value] * rows for name, (value, _) in columns.items()}
    kinds |= {name: kind for name, (_, kind) in columns.items()}
    arrays = {
        name: pa.array(values[name], datasets.Features(kinds).arrow_schema.field(name).type) for name in kinds
    }
    return datasets.Dataset(pa.table(arrays), info=datasets.DatasetInfo(features=datasets.Features(kinds)))


@pytest.mark.parametrize("name", ["10k", "extra.part", "español", "train_2"])
def test_a_split_of_the_hub_can_have_any_name(name, hub, tmp_path):
    hub |= {"train": hub_split(), name: hub_split(4)}

    assert same_training("org/name", tmp_path / "s")
    assert [record.fields["text"] for record in open_snapshot(tmp_path / "s").others[name]] == TEXTS[:4]


def test_an_empty_split_that_no_training_uses_is_left_out(hub, tmp_path):
    hub |= {"train": hub_split(), "extra": hub_split(0)}

    assert same_training("org/name", tmp_path / "s")
    assert open_snapshot(tmp_path / "s").others == {}


def test_an_empty_validation_split_is_refused_as_by_a_training(hub, tmp_path):
    hub |= {"train": hub_split(), "validation": hub_split(0)}
    with pytest.raises(DataInvalid) as direct:
        load_training_data(DataSpec(source="org/name"))

    with pytest.raises(DataInvalid) as refused:
        taken("org/name", tmp_path / "s")

    assert str(refused.value) == str(direct.value)


def test_images_are_kept_as_bytes_and_need_no_decoder(hub, tmp_path):
    hub["train"] = hub_split(image=({"bytes": b"no image", "path": "a.png"}, datasets.Image()))

    assert same_training("org/name", tmp_path / "s")
    [first, *_] = open_snapshot(tmp_path / "s").train
    assert first.fields["image"] == {"bytes": b"no image".hex(), "path": "a.png"}


def test_files_that_are_named_beside_a_snapshot_replace_its_splits(tmp_path):
    whole = taken(
        parquet(tmp_path / "a.parquet"), tmp_path / "whole",
        validation=str(parquet(tmp_path / "v.parquet", texts=TEXTS[:2], labels=LABELS[:2])),
    )  # fmt: skip
    alone = taken(parquet(tmp_path / "a.parquet"), tmp_path / "alone")

    joined = taken(
        f"snapshot:{alone.id}", tmp_path / "joined",
        base=tmp_path / "alone", validation=str(tmp_path / "v.parquet"),
    )  # fmt: skip

    assert joined.rows == {"train": 20, "validation": 2}
    assert joined.id == whole.id


def test_rows_that_are_not_those_of_the_id_are_found(tmp_path):
    taken(parquet(tmp_path / "a.parquet"), tmp_path / "s")
    check_content(tmp_path / "s")
    file = tmp_path / "s" / "train.parquet"
    table = pq.read_table(file)
    swapped = table.set_column(table.schema.get_field_index("label"), "label", pa.array(LABELS[::-1]))
    pq.write_table(swapped, file)

    with pytest.raises(ArtifactDamaged, match="not those of its id"):
        check_content(tmp_path / "s")


@pytest.mark.parametrize(
    ("validation", "fields"),
    [({"other": [1] * 20}, {}), ({}, {"label": "more"})],
    ids=["the text is missing", "the label is missing"],
)
def test_a_column_that_another_split_lacks_is_told_when_the_snapshot_is_taken(validation, fields, tmp_path):
    parquet(tmp_path / "a.parquet", more=LABELS)
    columns = {"text": TEXTS, "label": LABELS} if fields else {"label": LABELS, **validation}
    pq.write_table(pa.table(columns), tmp_path / "v.parquet")
    fields = {"validation": str(tmp_path / "v.parquet"), "label": "label", "text": "text", **fields}
    with pytest.raises(Exception) as direct:
        load_training_data(DataSpec(source=str(tmp_path / "a.parquet"), **fields))

    with pytest.raises(type(direct.value)) as refused:
        taken(tmp_path / "a.parquet", tmp_path / "s", **fields)

    assert str(refused.value) == str(direct.value)
    assert [path.name for path in (tmp_path / "s").iterdir()] == []


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@given(columns=st.lists(st.lists(VALUES, min_size=4, max_size=4), min_size=1, max_size=3))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_snapshot_of_a_snapshot_is_the_same_one(columns, tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("drawn")
    rows = [
        {"text": f"text number {n}", "label": "ab"[n % 2], **{f"c{m}": c[n] for m, c in enumerate(columns)}}
        for n in range(4)
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    first = taken(tmp_path / "a.jsonl", tmp_path / "first", text="text", label="label")
    second = taken(
        f"snapshot:{first.id}", tmp_path / "second", base=tmp_path / "first", text="text", label="label"
    )

    assert second.id == first.id
    check_content(tmp_path / "first")
    kept = [dict(record.fields) for record in open_snapshot(tmp_path / "first").train]
    assert repr(kept) == repr(rows)


def test_the_text_of_a_value():
    texts = {
        "a": "a", "1": 1, "1.0": 1.0, "0.1": 0.1, "-0.0": -0.0, "nan": float("nan"), "inf": float("inf"),
        "true": True, "ff00": b"\xff\x00", '[1,"a",null]': [1, "a", None], '{"a":1}': {"b": None, "a": 1},
    }  # fmt: skip

    assert {canonical(value) for value in texts.values()} == set(texts)
    assert [canonical(value) for value in texts.values()] == list(texts)
    assert canonical(None) is canonical("") is None
