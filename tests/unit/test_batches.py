"""Which rows are in which batch, and how they are padded."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from durabert.bert.batches import BatchOrder, by_length, collate, epoch_order, micro_batches
from durabert.bert.tokens import Tokens

CPU = torch.device("cpu")


def make_tokens(lengths, *, types=False):
    ids = np.concatenate([np.full(length, number + 5, np.int32) for number, length in enumerate(lengths)])
    return Tokens(
        ids=ids,
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        types=(ids % 2).astype(np.int8) if types else None,
        num_truncated=0,
    )


@given(st.integers(1, 200), st.integers(1, 50), st.integers(0, 2**32 - 1))
def test_each_epoch_takes_each_row_once(num_rows, batch_size, seed):
    order = BatchOrder(num_rows, batch_size, seed)
    for epoch in range(2):
        steps = range(epoch * order.per_epoch, (epoch + 1) * order.per_epoch)
        rows = np.concatenate([order.indices(step) for step in steps])
        assert sorted(rows.tolist()) == list(range(num_rows))


def test_a_batch_depends_on_its_number_alone():
    one_by_one, at_random = BatchOrder(50, 8, seed=3), BatchOrder(50, 8, seed=3)
    expected = [one_by_one.indices(step).tolist() for step in range(21)]
    for step in (20, 0, 13, 13, 6, 7):
        assert at_random.indices(step).tolist() == expected[step]


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = [epoch_order(40, seed=seed, epoch=epoch).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4


def test_the_order_of_a_seed_never_changes():
    assert epoch_order(8, seed=42, epoch=0).tolist() == PINNED


PINNED = [6, 5, 0, 4, 7, 3, 1, 2]


def test_micro_batches_keep_the_order_and_are_never_empty():
    rows = np.arange(7)
    parts = micro_batches(rows, 3)
    assert [len(part) for part in parts] == [3, 2, 2]
    assert np.concatenate(parts).tolist() == rows.tolist()
    assert [len(part) for part in micro_batches(np.arange(2), 4)] == [1, 1]


def test_a_batch_is_padded_to_a_multiple_of_eight_of_its_longest_row():
    batch = collate(make_tokens([3, 9, 1], types=True), np.array([1, 2]), pad_id=1, max_length=64, device=CPU)
    ids = batch.inputs["input_ids"]
    assert ids.tolist() == [[6] * 9 + [1] * 7, [7] + [1] * 15]
    assert batch.inputs["attention_mask"].tolist() == [[1] * 9 + [0] * 7, [1] + [0] * 15]
    assert batch.inputs["token_type_ids"].tolist() == [[0] * 16, [1] + [0] * 15]
    assert batch.num_tokens == 10


def test_padding_never_goes_beyond_the_longest_allowed_input():
    batch = collate(make_tokens([19]), np.array([0]), pad_id=0, max_length=20, device=CPU)
    assert batch.inputs["input_ids"].shape == (1, 20)


@given(st.lists(st.integers(1, 100), min_size=1, max_size=80), st.integers(1, 500))
def test_batches_by_length_hold_each_row_once_within_the_budget(lengths, budget):
    batches = list(by_length(lengths, token_budget=budget))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    for rows in batches:
        longest = max(lengths[row] for row in rows)
        assert len(rows) == 1 or longest * len(rows) <= budget


def test_the_longest_rows_come_first():
    batches = list(by_length([2, 9, 4, 9], token_budget=18))
    assert [rows.tolist() for rows in batches] == [[1, 3], [2, 0]]


def test_no_rows_give_no_batches():
    assert list(by_length(np.empty(0, np.int64), token_budget=8)) == []
    with pytest.raises(ValueError, match="zero-size"):
        collate(make_tokens([3]), np.empty(0, np.int64), pad_id=0, max_length=8, device=CPU)
