"""The journal: order, fence and chain, whatever is done to its objects."""

from __future__ import annotations

import json
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from durabert.errors import AttemptSuperseded
from durabert.store.journal import Journal
from durabert.store.objects import open_store


@pytest.fixture
def objects(tmp_path):
    return open_store(str(tmp_path / "store"), home=tmp_path)


def filled(objects, run="run", count=5):
    journal = Journal(objects, run)
    previous = None
    for number in range(1, count + 1):
        entry = journal.append(number, "ended", attempt=1, previous=previous, body={"error": f"E{number}"})
        previous = entry.sha256
    return journal


def path_of(tmp_path, number):
    return tmp_path / "store" / "runs" / "run" / "journal" / f"{number:08}.json"


def test_entries_are_read_back_in_order_and_chained(objects):
    record = filled(objects).read()

    assert [entry.number for entry in record.entries] == [1, 2, 3, 4, 5]
    assert [entry.previous for entry in record.entries[1:]] == [entry.sha256 for entry in record.entries[:-1]]
    assert record.next_number == 6
    assert record.damages == []


def test_of_two_who_add_an_entry_one_is_superseded(objects):
    journal = filled(objects)
    tip = journal.read().entries[-1].sha256
    outcomes = []

    def add(attempt):
        try:
            journal.append(6, "ended", attempt=attempt, previous=tip, body={"error": str(attempt)})
            outcomes.append("added")
        except AttemptSuperseded:
            outcomes.append("superseded")

    threads = [threading.Thread(target=add, args=(attempt,)) for attempt in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(outcomes) == ["added"] + 7 * ["superseded"]
    assert journal.read().damages == []


def test_adding_the_same_entry_again_after_a_lost_answer_is_no_conflict(objects):
    journal = filled(objects)
    tip = journal.read().entries[-1].sha256
    first = journal.append(6, "ended", attempt=2, previous=tip, body={"error": "x"})

    again = journal.append(6, "ended", attempt=2, previous=tip, body={"error": "x"})

    assert again == first


def flipped(data: bytes, position: int) -> bytes:
    return bytes(byte ^ (1 if index == position else 0) for index, byte in enumerate(data))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(number=st.integers(1, 5), position=st.integers(0, 10_000))
def test_any_flipped_bit_is_found_and_named(objects, tmp_path, number, position):
    journal = filled(objects) if not path_of(tmp_path, 1).exists() else Journal(objects, "run")
    file = path_of(tmp_path, number)
    whole = file.read_bytes()
    file.write_bytes(flipped(whole, position % len(whole)))

    record = journal.read()
    file.write_bytes(whole)

    assert [damage.number for damage in record.damages] == [number]
    assert [entry.number for entry in record.entries] == [n for n in range(1, 6) if n != number]


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"null", b"\x80\x04pickle", b'{"sha256": 1}', b"0" * 99]
)
def test_what_is_no_entry_is_damage_and_nothing_else(objects, tmp_path, content):
    journal = filled(objects)
    path_of(tmp_path, 3).write_bytes(content)

    assert [damage.number for damage in journal.read().damages] == [3]


def test_a_missing_entry_is_named(objects, tmp_path):
    journal = filled(objects)
    path_of(tmp_path, 2).unlink()

    record = journal.read()

    assert [(damage.number, damage.reason) for damage in record.damages] == [(2, "is missing")]


def test_an_entry_of_another_history_is_named(objects, tmp_path):
    journal = filled(objects)
    other = filled(objects, run="other", count=2)
    other.append(3, "ended", attempt=9, previous=other.read().entries[-1].sha256, body={"error": "other"})
    path_of(tmp_path, 3).write_bytes((tmp_path / "store/runs/other/journal/00000003.json").read_bytes())

    assert [damage.number for damage in journal.read().damages] == [3]


def test_who_goes_on_after_a_damaged_last_entry_is_believed(objects, tmp_path):
    journal = filled(objects)
    path_of(tmp_path, 5).write_bytes(b"torn")
    record = journal.read()

    journal.append(record.next_number, "ended", attempt=2, previous=record.entries[-1].sha256, body={})

    again = journal.read()
    assert [entry.number for entry in again.entries] == [1, 2, 3, 4, 6]
    assert [damage.number for damage in again.damages] == [5]


def test_an_entry_is_json_that_people_can_read(objects, tmp_path):
    filled(objects)

    fields = json.loads(path_of(tmp_path, 2).read_text())

    assert fields["kind"] == "ended"
    assert fields["body"] == {"error": "E2"}
