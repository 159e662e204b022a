"""Snapshots: ids by content, the same data as the source, and damage that is named."""

from __future__ import annotations

import csv
import json
import multiprocessing
from datetime import date
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from durabert.activities.dataset_jobs import take_snapshot
from durabert.bert.data import load_training_data
from durabert.bert.progress import Reporter
from durabert.bert.snapshot_manifest import MANIFEST, content_id, file_of, read_manifest
from durabert.bert.snapshot_values import canonical
from durabert.bert.snapshots import build_snapshot, open_snapshot, read_snapshot
from durabert.bert.sources import find_sources
from durabert.errors import ArtifactDamaged, DurabertError, SnapshotNotFound
from durabert.specs import DataSpec
from durabert.store.blobs import blob_path
from durabert.store.objects import open_store
from durabert.store.snapshots import SnapshotStore

ROWS = [
    {"id": number, "text": f"text {number}, with a comma", "label": "ab"[number % 2], "weight": number / 4}
    for number in range(40)
]


def write(path, rows):
    match path.suffix:
        case ".csv" | ".tsv":
            with path.open("w", encoding="utf-8", newline="") as file:
                delimiter = "," if path.suffix == ".csv" else "\t"
                writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
                writer.writeheader()
                writer.writerows(rows)
        case ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        case ".json":
            path.write_text(json.dumps(rows), encoding="utf-8")
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=7)
        case ".arrow":
            table = pa.Table.from_pylist(rows)
            with pa.ipc.new_file(path, table.schema) as writer:
                writer.write_table(table)
    return path


def snapshot_of(path, directory, **fields):
    directory.mkdir(parents=True)
    return build_snapshot(DataSpec(source=str(path), **fields), directory)


SUFFIXES = [".csv", ".tsv", ".jsonl", ".json", ".parquet", ".arrow"]


def test_a_table_has_one_id_in_every_format(tmp_path):
    ids = {snapshot_of(write(tmp_path / f"data{s}", ROWS), tmp_path / f"s{s}").id for s in SUFFIXES}

    assert len(ids) == 1


VALUES = {
    "strings": st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8),
    "ints": st.integers(-(2**62), 2**62),
    "floats": st.floats(allow_nan=False, width=64),
}


@given(data=st.data(), kind=st.sampled_from(sorted(VALUES)))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_id_knows_neither_format_nor_column_order(data, kind, tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("drawn")
    values = data.draw(st.lists(st.none() | VALUES[kind], min_size=2, max_size=6))
    rows = [{"text": f"t{n}", "label": "ab"[n % 2], "more": value} for n, value in enumerate(values)]
    turned = [dict(reversed(row.items())) for row in rows]

    ids = {
        suffix: snapshot_of(write(tmp_path / f"{n}{suffix}", one), tmp_path / f"s{n}{suffix}").id
        for n, one in enumerate([rows, turned])
        for suffix in (".csv", ".jsonl", ".parquet")
    }

    assert len(set(ids.values())) == 1, ids


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows[3].update(weight=9.5),
        lambda rows: rows[3].update(label=rows[4]["label"]),
        lambda rows: rows.insert(0, rows.pop()),
        lambda rows: rows.append(rows[-1]),
        lambda rows: [row.update(other=row.pop("weight")) for row in rows],
    ],
    ids=["value", "label", "order", "row", "column name"],
)
def test_the_id_changes_with_the_content(change, tmp_path):
    changed = [dict(row) for row in ROWS]
    change(changed)

    before = snapshot_of(write(tmp_path / "a.jsonl", ROWS), tmp_path / "before")
    after = snapshot_of(write(tmp_path / "b.jsonl", changed), tmp_path / "after")

    assert before.id != after.id


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_training_reads_the_same_from_a_snapshot_as_from_its_source(suffix, tmp_path):
    rows = [*ROWS, {**ROWS[0], "text": ""}, {**ROWS[1], "label": None}, ROWS[2]]
    source = write(tmp_path / f"data{suffix}", rows)
    if suffix in {".csv", ".jsonl"}:
        source.write_text(source.read_text() + "\n\n")
    test = write(tmp_path / f"heldout{suffix}", ROWS[:5])
    spec = DataSpec(source=str(source), test=str(test), text="text", label="label")
    directory = tmp_path / "snapshot"
    snapshot_of(source, directory, test=str(test), text="text", label="label")

    kept = load_training_data(spec, snapshot=directory)

    assert kept == load_training_data(spec)
    direct, again = find_sources(spec).train, open_snapshot(directory).train
    assert [(one.name, one.unit, one.typed, one.columns) for one in (again, direct)] == [
        (str(source), direct.unit, direct.typed, direct.columns)
    ] * 2
    assert any("dropped" in notice for notice in kept.notices)


def test_an_error_of_a_training_on_a_snapshot_names_the_line_of_the_source(tmp_path):
    source = tmp_path / "data.jsonl"
    write(source, [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}, {"text": 3, "label": "x"}])
    spec = DataSpec(source=str(source), text="text", label="label")
    snapshot_of(source, tmp_path / "snapshot", text="text", label="label")

    with pytest.raises(DurabertError) as direct:
        load_training_data(spec)
    with pytest.raises(DurabertError) as kept:
        load_training_data(spec, snapshot=tmp_path / "snapshot")

    assert str(kept.value) == str(direct.value)
    assert "line 3" in str(kept.value)


@pytest.mark.parametrize("fields", [{"label": "absent"}, {"text": "absent"}])
def test_what_is_wrong_with_the_columns_is_said_when_the_snapshot_is_taken(fields, tmp_path):
    source = write(tmp_path / "data.csv", ROWS)
    with pytest.raises(DurabertError) as direct:
        load_training_data(DataSpec(source=str(source), **fields))

    with pytest.raises(DurabertError) as taken:
        snapshot_of(source, tmp_path / "snapshot", **fields)

    assert str(taken.value) == str(direct.value)


ODD = [
    {"n": 1, "m": [1, 2.0], "o": {"a": None, "b": 1}, "s": "\ud800", "a.b": 1, "durabert:record": 5},
    {"n": 1.0, "m": [], "o": {"c": [True]}, "s": "x", "a.b": "1", "\ud800": 2},
    {"n": float("nan"), "m": None, "o": {}, "s": None, "a.b": 2**70},
    {"n": float("-inf"), "m": "1", "o": 1, "s": "", "a.b": True},
]


def test_odd_values_are_kept_as_they_are(tmp_path):
    rows = [{"text": f"t{n}", "label": "ab"[n % 2], **odd} for n, odd in enumerate(ODD)]
    source = write(tmp_path / "data.jsonl", rows)

    first = snapshot_of(source, tmp_path / "first")
    kept = [record.fields for record in open_snapshot(tmp_path / "first").train]

    assert repr([{name: row[name] for name in kept[0] if name in row} for row in rows]) == repr(
        [{name: row[name] for name in row if name in rows[n]} for n, row in enumerate(kept)]
    )
    assert first.id == snapshot_of(source, tmp_path / "second").id


def test_typed_values_of_columnar_files_are_kept_as_they_are(tmp_path):
    rows = [
        {
            "text": f"t{n}",
            "label": "ab"[n % 2],
            "day": date(2024, 1, 1 + n),
            "price": Decimal(10**n) / 4,
            "raw": bytes([n]),
        }
        for n in range(6)
    ]
    source = write(tmp_path / "data.parquet", rows)
    snapshot_of(source, tmp_path / "snapshot")

    kept = list(open_snapshot(tmp_path / "snapshot").train)

    assert [record.fields for record in kept] == pq.read_table(source).to_pylist()


@pytest.fixture
def stored(tmp_path):
    """A store, its snapshots and a snapshot in it."""
    snapshot = snapshot_of(write(tmp_path / "data.csv", ROWS), tmp_path / "built")
    objects = open_store(str(tmp_path / "store"), home=tmp_path)
    snapshots = SnapshotStore(objects, tmp_path / "cache")
    assert snapshots.commit(snapshot.id, tmp_path / "built")
    return objects, snapshots, snapshot.id


def test_the_same_content_is_stored_once(stored, tmp_path):
    _, snapshots, found = stored

    assert not snapshots.commit(found, tmp_path / "built")
    assert snapshots.ids() == [found]


def test_a_snapshot_is_found_by_its_first_digits(stored):
    _, snapshots, found = stored

    assert snapshots.resolve(found[:8]) == snapshots.resolve(found) == found
    for wrong in (found[:7], "0" * 8, "", "../" * 4, found[:8] + "g", "f" * 64):
        with pytest.raises(SnapshotNotFound):
            snapshots.resolve(wrong)


def _commit(url, directory, found, barrier, results):
    objects = open_store(str(url), home=directory)
    barrier.wait(30)
    results.put(SnapshotStore(objects, directory).commit(found, directory))


def test_two_processes_that_commit_at_once_both_succeed(tmp_path):
    snapshot = snapshot_of(write(tmp_path / "data.csv", ROWS), tmp_path / "built")
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    arguments = (tmp_path / "store", tmp_path / "built", snapshot.id, barrier, results)
    processes = [context.Process(target=_commit, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()

    created = sorted(results.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(30)

    assert [process.exitcode for process in processes] == [0, 0]
    assert created[-1]
    snapshots = SnapshotStore(open_store(str(tmp_path / "store"), home=tmp_path), tmp_path / "cache")
    assert snapshots.ids() == [snapshot.id]
    assert snapshots.verify(snapshot.id).id == snapshot.id


def test_a_damaged_file_in_the_cache_is_fetched_anew(stored):
    _, snapshots, found = stored
    file = snapshots.fetch(found) / "train.parquet"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))

    assert (snapshots.fetch(found) / "train.parquet").read_bytes() == whole
    assert read_snapshot(snapshots.fetch(found)).id == found


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"\0" + data[1:], lambda _: None])
def test_a_damaged_file_in_the_store_is_named(damage, stored):
    objects, snapshots, found = stored
    path = blob_path(snapshots.stored(found).files["train.parquet"].sha256)
    data = damage(objects.read(path))
    objects.delete([path]) if data is None else objects.write(path, data)

    for act in (snapshots.fetch, snapshots.verify):
        with pytest.raises(ArtifactDamaged, match=rf"{found[:12]}.*train"):
            act(found)


def damage_of(act):
    """Return what was said of damage, None if there was none; any other error is one of ours."""
    try:
        act()
    except ArtifactDamaged as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", ["train.parquet", "manifest.json"])
@pytest.mark.parametrize("lost", [True, False])
def test_the_same_data_again_puts_back_what_the_store_has_lost(name, lost, stored, tmp_path):
    objects, snapshots, found = stored
    path = blob_path(snapshots.stored(found).files[name].sha256)
    objects.delete([path]) if lost else objects.write(path, objects.read(path)[:-1])

    assert not snapshots.commit(found, tmp_path / "built")
    assert snapshots.verify(found).id == found


def test_what_is_only_known_by_its_place_in_memory_is_told_by_its_content():
    class Image:
        def __init__(self, content):
            self.tobytes = lambda: content

    assert canonical(Image(b"a")) == canonical(Image(b"a")) != canonical(Image(b"b"))


def source_of(stored, tmp_path, digits):
    objects, _, found = stored
    spec = DataSpec(source=f"snapshot:{digits(found)}")
    return take_snapshot(spec, objects, tmp_path / "home", Reporter(lambda _: None, lambda: False))


@pytest.mark.parametrize("digits", [lambda found: found, lambda found: found[:8]])
def test_a_snapshot_that_is_named_as_the_source_is_found_and_not_taken(digits, stored, tmp_path):
    result = source_of(stored, tmp_path, digits)

    assert (result.snapshot, result.created, result.rows) == (stored[2], False, {"train": 40})
    assert stored[1].ids() == [stored[2]]


def test_a_snapshot_that_is_not_there_is_a_mistake(stored, tmp_path):
    with pytest.raises(SnapshotNotFound, match="00000000"):
        source_of(stored, tmp_path, lambda _: "0" * 8)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def _mutated(document, data):
    """Replace or rename one thing somewhere in a document."""
    if isinstance(document, dict) and document and data.draw(st.integers(0, 3)):
        name = data.draw(st.sampled_from(sorted(document)))
        value = document.pop(name)
        if data.draw(st.booleans()):
            name = data.draw(st.sampled_from(["../../x", "/etc/x", "", ".", "train", "a\0b"]))
        return {**document, name: _mutated(value, data)}
    if isinstance(document, list) and document and data.draw(st.booleans()):
        return [_mutated(document[0], data), *document[1:]]
    return data.draw(JSON)


@pytest.mark.parametrize("name", ["../../x", "..", ".x", "/x", "a/b", "", "a\0b", "x" * 300])
def test_a_file_of_a_snapshot_cannot_lie_outside_of_it(name, stored):
    objects, snapshots, found = stored
    path = f"snapshots/{found}/manifest.json"
    manifest = json.loads(objects.read(path))
    manifest["files"][name] = manifest["files"]["train.parquet"]
    objects.write(path, json.dumps(manifest).encode())

    with pytest.raises(ArtifactDamaged, match=f"{found[:12]} is damaged: .* is no name of a file"):
        snapshots.fetch(found)


@pytest.mark.parametrize("name", ["../train", "/train", "a/b", ""])
def test_a_split_of_a_snapshot_cannot_lie_outside_of_it(name, stored, tmp_path):
    path = tmp_path / "built" / MANIFEST
    manifest = json.loads(path.read_bytes())
    manifest["splits"][name] = manifest["splits"]["train"]
    manifest["id"] = content_id({}, {split: told["sha256"] for split, told in manifest["splits"].items()})
    path.write_text(json.dumps(manifest))

    assert (tmp_path / "built" / file_of(name)).resolve().parent == tmp_path / "built"
    with pytest.raises(ArtifactDamaged, match=r"split-\w+.parquet"):
        list(open_snapshot(tmp_path / "built").others[name])


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_hostile_manifest_in_the_store_is_damage_in_one_sentence(data, stored, tmp_path):
    objects, snapshots, found = stored
    path = f"snapshots/{found}/manifest.json"
    whole = objects.read(path)
    objects.write(path, json.dumps(_mutated(json.loads(whole), data)).encode())
    before = sorted(tmp_path.iterdir())

    try:
        said = damage_of(lambda: snapshots.fetch(found))
    finally:
        objects.write(path, whole)

    assert said is None or found[:12] in said
    assert sorted({*tmp_path.iterdir()} - {tmp_path / "cache"}) == [p for p in before if p.name != "cache"]


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_hostile_manifest_on_this_machine_is_damage_in_one_sentence(data, stored, tmp_path):
    manifest = tmp_path / "built" / MANIFEST
    whole = manifest.read_bytes()
    manifest.write_text(json.dumps(_mutated(json.loads(whole), data)))

    try:
        said = damage_of(
            lambda: [list(split) for split in open_snapshot(tmp_path / "built").splits().values()]
        )
    finally:
        manifest.write_bytes(whole)

    assert said is None or "\n" not in said


def test_the_manifest_is_canonical(tmp_path):
    snapshot_of(write(tmp_path / "data.csv", ROWS), tmp_path / "built")
    text = (tmp_path / "built" / MANIFEST).read_bytes()

    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":")).encode()
    assert list(read_manifest(tmp_path / "built").splits) == ["train"]
