"""The cache of tokens: equal, read-only, believed only if whole, and never in the way."""

from __future__ import annotations

import errno
import os
import time

import numpy as np
import pytest

from durabert.bert import token_cache
from durabert.bert.data import Split, TrainingData
from durabert.bert.loop import fine_tune
from durabert.bert.token_cache import cached_tokens, tokenizer_sha256
from durabert.bert.tokens import Tokens
from durabert.specs import FineTuneConfig
from tests import tiny

KEY = {"data": "a" * 64, "split": "train", "max_length": 12, "types": True}


def tokens_of(seed=0, *, types=True):
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 1000, 90, dtype=np.int32)
    kinds = rng.integers(0, 2, 90).astype(np.int8) if types else None
    return Tokens(ids, np.arange(0, 91, 9, dtype=np.int64), kinds, num_truncated=3)


def never():
    raise AssertionError("the tokens were made anew")


def same(one, other):
    return (
        np.array_equal(one.ids, other.ids)
        and np.array_equal(one.offsets, other.offsets)
        and (one.types is None) == (other.types is None)
        and (one.types is None or np.array_equal(one.types, other.types))
        and one.num_truncated == other.num_truncated
    )


def entry_of(cache):
    (entry,) = [path for path in cache.iterdir() if not path.name.startswith(".")]
    return entry


@pytest.mark.parametrize("types", [True, False])
def test_the_second_one_maps_what_the_first_one_made(types, tmp_path):
    made = cached_tokens(tmp_path / "c", key=KEY, make=lambda: tokens_of(types=types))

    mapped = cached_tokens(tmp_path / "c", key=KEY, make=never)

    assert same(mapped, made)
    assert not mapped.ids.flags.writeable
    assert [path.name for path in (tmp_path / "c").iterdir()] == [entry_of(tmp_path / "c").name]


@pytest.mark.parametrize("field", sorted(KEY))
def test_another_key_is_another_entry(field, tmp_path):
    cached_tokens(tmp_path, key=KEY, make=tokens_of)

    other = cached_tokens(tmp_path, key={**KEY, field: "other"}, make=lambda: tokens_of(1))

    assert same(other, tokens_of(1))


@pytest.mark.parametrize("name", ["ids.npy", "offsets.npy", "types.npy", "meta.json"])
@pytest.mark.parametrize(
    "damage",
    [lambda data: data[:-2], lambda data: data[:-2] + bytes([data[-2] ^ 1]) + data[-1:], lambda _: None],
)
def test_a_damaged_entry_is_made_anew(name, damage, tmp_path):
    cached_tokens(tmp_path, key=KEY, make=tokens_of)
    file = entry_of(tmp_path) / name
    data = damage(file.read_bytes())
    file.unlink() if data is None else file.write_bytes(data)
    made = []

    again = cached_tokens(tmp_path, key=KEY, make=lambda: made.append(1) or tokens_of())

    assert same(again, tokens_of())
    assert made
    assert same(cached_tokens(tmp_path, key=KEY, make=never), tokens_of())


def test_a_full_disk_costs_the_cache_and_nothing_else(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(token_cache.np, "save", full)

    assert same(cached_tokens(tmp_path, key=KEY, make=tokens_of), tokens_of())
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_made_costs_nothing_else(tmp_path):
    (tmp_path / "file").write_text("")

    assert same(cached_tokens(tmp_path / "file" / "cache", key=KEY, make=tokens_of), tokens_of())


def test_what_is_not_used_for_long_is_removed(tmp_path):
    cached_tokens(tmp_path, key=KEY, make=tokens_of)
    old = entry_of(tmp_path)
    long_ago = time.time() - 31 * 24 * 3600
    os.utime(old / "meta.json", (long_ago, long_ago))
    cached_tokens(tmp_path, key=KEY, make=never)
    cached_tokens(tmp_path, key={**KEY, "split": "test"}, make=tokens_of)
    assert old.exists()

    os.utime(old / "meta.json", (long_ago, long_ago))
    cached_tokens(tmp_path, key={**KEY, "split": "validation"}, make=tokens_of)

    assert not old.exists()


def test_a_tokenizer_has_one_digest_however_it_was_used_last(tmp_path):
    tokenizer, other = tiny.build_tokenizer(), tiny.build_tokenizer(types=False)
    before = tokenizer_sha256(tokenizer)
    tokenizer.backend_tokenizer.enable_truncation(7)

    assert tokenizer_sha256(tokenizer) == before
    assert tokenizer_sha256(other) != before


def test_a_training_that_finds_its_tokens_gives_the_same_model(tmp_path, monkeypatch):
    model = tiny.build_model(tmp_path / "tiny")
    split = Split(["good film", "bad film", "lovely plot", "dull plot"] * 4, None, [1, 0, 1, 0] * 4)
    data = TrainingData(
        "films", "binary", ("bad", "good"), ("text",), "label", split, split, None, "0" * 64, notices=()
    )
    config = FineTuneConfig(name="a", model=str(model), epochs=1, batch_size=4, max_length=12, device="cpu")

    def trained(name, cache):
        return fine_tune(
            config, data, output=tmp_path / name, report=lambda _: None, should_stop=lambda: False,
            token_cache=cache,
        )  # fmt: skip

    plain = trained("plain", None)
    first = trained("first", tmp_path / "cache")
    monkeypatch.setattr("durabert.bert.preparing.tokenize", lambda *_, **__: never())
    second = trained("second", tmp_path / "cache")

    assert plain.model_sha256 == first.model_sha256 == second.model_sha256


def test_the_cache_stays_within_its_size(tmp_path):
    for name in "abc":
        cached_tokens(tmp_path, key={**KEY, "data": name}, make=tokens_of)
        for entry in tmp_path.iterdir():
            used = (entry / "meta.json").stat().st_mtime - 60
            os.utime(entry / "meta.json", (used, used))
    size = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()) // 3

    cached_tokens(tmp_path, key={**KEY, "data": "d"}, make=tokens_of, max_bytes=2 * size + 10)

    assert len(list(tmp_path.iterdir())) == 2
    for kept in "cd":
        assert same(cached_tokens(tmp_path, key={**KEY, "data": kept}, make=never), tokens_of())


def test_what_a_killed_process_began_to_write_is_removed(tmp_path):
    begun, left = tmp_path / ".begun", tmp_path / ".left"
    for directory in (begun, left):
        directory.mkdir()
        (directory / "ids.npy").write_bytes(b"half")
    long_ago = time.time() - 2 * 86400
    os.utime(left, (long_ago, long_ago))

    cached_tokens(tmp_path, key=KEY, make=tokens_of)

    assert begun.exists()
    assert not left.exists()


def test_damage_and_a_full_disk_are_told(tmp_path, monkeypatch):
    told = []
    cached_tokens(tmp_path, key=KEY, make=tokens_of)
    (entry_of(tmp_path) / "ids.npy").write_bytes(b"")
    cached_tokens(tmp_path, key=KEY, make=tokens_of, on_notice=told.append)
    (tmp_path / "file").write_text("")
    cached_tokens(tmp_path / "file" / "cache", key=KEY, make=tokens_of, on_notice=told.append)

    assert [sentence.split(",")[0].split(":")[0] for sentence in told] == [
        "the tokens in the cache are made anew",
        "the tokens are not cached",
    ]
