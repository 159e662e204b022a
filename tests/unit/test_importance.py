"""Importance of searched parameters: told of trials that can be compared, and of enough of them."""

from __future__ import annotations

import pytest

from durabert.activities.importance import FEWEST_TRIALS, importance
from tests.recorded import made_sweep


def test_the_parameter_that_decides_has_the_largest_share_each_time_the_same():
    view, spec = made_sweep(30)

    told = importance(spec, view.trials, view.metric)

    assert next(iter(told.shares)) == "learning_rate"
    assert told.shares["learning_rate"] > 0.8
    assert sum(told.shares.values()) == pytest.approx(1)
    assert importance(spec, view.trials, view.metric) == told


def test_a_parameter_that_some_trials_lack_is_left_out():
    view, spec = made_sweep(30)

    told = importance(spec, view.trials, view.metric)

    assert told.shares.keys() == {"learning_rate", "batch_size", "schedule"}


def test_trials_are_compared_after_the_epochs_that_all_of_them_have():
    view, spec = made_sweep(30)
    # Later values say the opposite of the first, and only of those that were promoted.
    longer = [
        trial.model_copy(update={"values": [trial.values[0], 1.0 - trial.values[0]]})
        if trial.epochs > 1
        else trial
        for trial in view.trials
    ]

    told = importance(spec, view.trials, view.metric)

    assert importance(spec, longer, view.metric) == told
    assert "26 trials after 1 epoch" in told.about


def test_too_few_trials_have_a_sentence_instead():
    view, spec = made_sweep(FEWEST_TRIALS)

    told = importance(spec, view.trials, view.metric)

    assert told.shares == {}
    assert told.about == (
        "How much each parameter decides is told from 10 trials on; 9 can be compared after 1 epoch."
    )


def test_a_metric_that_nothing_changes_has_a_sentence_instead():
    view, spec = made_sweep(30)
    same = [trial.model_copy(update={"values": [0.5] * trial.epochs}) for trial in view.trials]

    told = importance(spec, same, view.metric)

    assert told.shares == {}
    assert "the same value" in told.about
