"""Decisions of a sweep: successive halving, the median rule, and an order that time cannot change."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durabert.specs import (
    DataSpec,
    ErrorInfo,
    FineTuneConfig,
    Parameter,
    SweepSpec,
    SweepState,
    TrialRecord,
    TrialRequest,
)
from durabert.workflows.search import Job, Ledger, Rules, bars, median_thresholds, next_job, promotable
from durabert.workflows.searching import ledger_of, trial_request

RULES = Rules((1, 3, 9), 3, lower_is_better=False)


def values_of(trial: int, epochs: int, *, seed: int = 0) -> list[float]:
    """Return made-up values of a trial, the same whenever they are asked for."""
    return [hash((seed, trial, epoch)) % 97 / 97 for epoch in range(epochs)]


def record_of(ledger: Ledger, trial: int, rung: int, *, seed: int = 0, fails: bool = False) -> TrialRecord:
    if fails:
        known = ledger.trials[trial]
        return known.model_copy(update={"status": "failed", "error": ErrorInfo(type="X", message="x")})
    epochs = ledger.rules.rungs[rung]
    status = "completed" if rung == len(ledger.rules.rungs) - 1 else "stopped"
    return TrialRecord(
        number=trial, status=status, params={"a": trial}, values=values_of(trial, epochs, seed=seed)
    )


def search(draw_next, *, trials, concurrency, reproducible=True, rules=RULES, seed=0, failing=frozenset()):
    """Run a whole search in which ``draw_next`` picks which of the trainings in flight ends next."""
    ledger = Ledger(rules, reproducible=reproducible)
    rung_of: dict[int, int] = {}
    while True:
        while (job := ledger.decide(concurrency=concurrency, num_trials=trials)) is not None:
            rung_of[ledger.begin(job)] = job.rung
            assert len(ledger.in_flight) <= concurrency
        if not ledger.in_flight:
            return ledger
        place = draw_next(sorted(ledger.in_flight))
        trial = ledger.jobs[place]
        fails = (trial, rung_of[place]) in failing
        ledger.end(place, record_of(ledger, trial, rung_of[place], seed=seed, fails=fails))


@given(
    trials=st.integers(9, 40), concurrency=st.integers(1, 8), seed=st.integers(0, 5), data=st.data(),
    failing=st.sets(st.tuples(st.integers(1, 40), st.integers(0, 2)), max_size=6),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_the_order_in_which_trainings_end_changes_nothing(trials, concurrency, seed, data, failing):
    in_turn = search(
        lambda places: places[0], trials=trials, concurrency=concurrency, seed=seed, failing=failing
    )

    mixed = search(
        lambda places: data.draw(st.sampled_from(places)),
        trials=trials, concurrency=concurrency, seed=seed, failing=failing,
    )  # fmt: skip

    assert mixed.jobs == in_turn.jobs
    assert mixed.trials == in_turn.trials
    assert mixed.best() == in_turn.best()


@given(trials=st.integers(1, 40), concurrency=st.integers(1, 8), data=st.data(), reproducible=st.booleans())
@settings(max_examples=60, deadline=None)
def test_every_trial_begins_once_and_goes_up_rung_by_rung(trials, concurrency, data, reproducible):
    ledger = search(
        lambda places: data.draw(st.sampled_from(places)),
        trials=trials, concurrency=concurrency, reproducible=reproducible,
    )  # fmt: skip

    asked = Counter(ledger.jobs)
    assert sorted(asked) == list(range(1, trials + 1))
    assert max(asked.values()) <= len(RULES.rungs)
    for trial, times in asked.items():
        assert ledger.trials[trial].epochs == RULES.rungs[times - 1]
    reached = [sum(times > rung for times in asked.values()) for rung in range(3)]
    assert reached[0] == trials
    # Of those that have come to a rung, no fewer than one of three has gone on when all is over.
    assert reached[1] >= reached[0] // 3
    assert reached[2] >= reached[1] // 3


@given(trials=st.integers(9, 40), seed=st.integers(0, 20))
@settings(max_examples=40, deadline=None)
def test_who_is_among_the_best_third_of_a_rung_in_the_end_was_promoted(trials, seed):
    ledger = search(lambda places: places[0], trials=trials, concurrency=1, seed=seed)

    for rung in (0, 1):
        scores = {
            number: max(record.values[: RULES.rungs[rung]])
            for number, record in ledger.trials.items()
            if record.epochs >= RULES.rungs[rung]
        }
        for number in RULES.ranked(scores)[: len(scores) // 3]:
            assert ledger.trials[number].epochs > RULES.rungs[rung]


def trained(request: TrialRequest, spec: SweepSpec, values: list[float], patience: int) -> TrialRecord:
    """Return what the training of a trial comes to; it ends early where ``patience`` epochs were in vain."""
    lower = spec.config.best_metric == "loss"
    best = min if lower else max
    for epoch in range(1, spec.config.epochs + 1):
        so_far = values[:epoch]
        in_vain = epoch - 1 - so_far.index(best(so_far))
        if epoch == spec.config.epochs or in_vain >= patience:
            return TrialRecord(number=request.number, status="completed", params={"a": 1}, values=so_far)
        bar = request.thresholds[epoch - 1] if epoch <= len(request.thresholds) else None
        is_worse = bar is not None and (best(so_far) > bar if lower else best(so_far) < bar)
        if epoch == request.until_epoch or is_worse:
            return TrialRecord(number=request.number, status="stopped", params={"a": 1}, values=so_far)
    raise AssertionError


def one_by_one(
    spec: SweepSpec, curves: list[list[float]], *, ahead: bool, patience: int
) -> tuple[Ledger, int]:
    """Search with one training at a time; return the ledger and how many trainings were begun."""
    state = SweepState(
        snapshot="s", task="binary", metric=spec.config.best_metric, started="2026-01-01T00:00:00Z",
        control={"concurrency": 1, "trials": spec.num_trials},
    )  # fmt: skip
    ledger, begun = ledger_of(spec, state), 0
    while (job := ledger.decide(concurrency=1, num_trials=spec.num_trials, ahead=ahead)) is not None:
        request = trial_request(spec, state, ledger, job)
        ledger.end(ledger.begin(job), trained(request, spec, curves[job.trial - 1], patience))
        begun += 1
    return ledger, begun


@given(
    more=st.integers(0, 20), factor=st.sampled_from([2, 3, 4]), metric=st.sampled_from(["accuracy", "loss"]),
    patience=st.integers(1, 20), chance=st.randoms(use_true_random=False),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_who_goes_on_at_once_is_who_would_have_been_promoted(more, factor, metric, patience, chance):
    epochs = {2: 8, 3: 9, 4: 16}[factor]
    trials = epochs + more
    spec = SweepSpec(
        name="s", data=DataSpec(source="x.csv"), config=FineTuneConfig(epochs=epochs, best_metric=metric),
        space={"learning_rate": Parameter(log_uniform=(1e-5, 1e-1))}, algorithm="random", trials=trials,
        stopping="asha", reduction_factor=factor,
    )  # fmt: skip
    # Few values, so that many are equal.
    curves = [[chance.randrange(10) / 9 for _ in range(epochs)] for _ in range(trials)]

    asked, trainings = one_by_one(spec, curves, ahead=False, patience=patience)
    ahead, fewer = one_by_one(spec, curves, ahead=True, patience=patience)

    assert ahead.jobs == asked.jobs
    assert ahead.trials == asked.trials
    assert ahead.best() == asked.best()
    assert fewer <= trainings == len(asked.jobs)
    assert ahead.in_flight == {}


def test_a_trial_that_goes_on_at_once_must_be_among_the_best_of_each_rung():
    rungs = [{1: 0.9, 2: 0.5, 3: 0.7, 4: 0.6, 5: 0.1}, {1: 0.5, 6: 0.4}, {}]

    first, then = bars(rungs, Job(7, 0), RULES)

    assert 0.7 < first < 0.7000001, "second of six, before the third trial"
    assert 0.5 < then < 0.5000001, "first of three"
    assert bars(rungs, Job(2, 0), RULES) == (0.7, then), "of two that are equal the one with the lower number"
    assert bars([{1: 0.9}, {}, {}], Job(2, 0), RULES) == (), "of two none may go on"


@given(scores=st.dictionaries(st.integers(1, 30), st.floats(0, 1), max_size=30), lower=st.booleans())
def test_only_a_share_of_a_rung_may_be_promoted_and_the_best_first(scores, lower):
    rules = Rules((1, 3), 3, lower_is_better=lower)
    asked = dict.fromkeys(scores, 1)
    promoted = []
    while (job := promotable([scores, {}], asked, rules)) is not None:
        promoted.append(job.trial)
        asked[job.trial] += 1

    assert len(promoted) == len(scores) // 3
    assert promoted == rules.ranked(scores)[: len(scores) // 3]


def test_the_highest_rung_is_looked_at_first():
    rungs = [{1: 0.9, 2: 0.8, 3: 0.7, 4: 0.1, 5: 0.1, 6: 0.1}, {1: 0.5, 2: 0.6, 7: 0.1}, {}]
    asked = {1: 2, 2: 2, 3: 1, 4: 1, 5: 1, 6: 1, 7: 2}

    assert promotable(rungs, asked, RULES) == Job(2, 2)


def test_trials_of_the_same_value_are_taken_by_their_number():
    assert promotable([{3: 0.5, 1: 0.5, 2: 0.5}, {}, {}], {1: 1, 2: 1, 3: 1}, RULES) == Job(1, 1)


def test_a_new_trial_is_begun_if_none_can_be_promoted_and_some_are_left():
    assert next_job([{1: 0.5, 2: 0.4}, {}, {}], {1: 1, 2: 1}, RULES, num_trials=3) == Job(3, 0)
    assert next_job([{1: 0.5, 2: 0.4}, {}, {}], {1: 1, 2: 1}, RULES, num_trials=2) is None


def test_with_results_as_they_arrive_a_free_place_is_taken_at_once():
    ledger = Ledger(RULES, reproducible=False)
    places = [ledger.begin(ledger.decide(concurrency=3, num_trials=9)) for _ in range(3)]
    ledger.end(places[2], record_of(ledger, 3, 0))

    assert ledger.decide(concurrency=3, num_trials=9) == Job(4, 0)


def test_in_order_a_place_waits_for_the_first_training():
    ledger = Ledger(RULES, reproducible=True)
    places = [ledger.begin(ledger.decide(concurrency=3, num_trials=9)) for _ in range(3)]
    ledger.end(places[2], record_of(ledger, 3, 0))

    assert ledger.decide(concurrency=3, num_trials=9) is None
    ledger.end(places[0], record_of(ledger, 1, 0))
    assert ledger.decide(concurrency=3, num_trials=9) == Job(4, 0)
    assert ledger.known == 1
    assert [one.params for one in ledger.known_trials()] == [{"a": 1}], "not yet that of the third"


def test_what_is_known_of_a_trial_is_what_it_was_on_its_rung():
    ledger = Ledger(RULES, reproducible=True, jobs=[1, 2, 3, 1], known=3)
    ledger.trials = {number: record_of(ledger, number, 0) for number in (1, 2, 3)}
    ledger.trials[1] = record_of(ledger, 1, 1)

    known = ledger.known_trials()

    assert [one.epochs for one in known] == [1, 1, 1]
    assert [one.complete for one in known] == [False] * 3
    ledger.known = 4
    assert ledger.known_trials()[0].epochs == 3


def test_the_best_is_of_the_highest_rung_and_no_failed_one():
    ledger = Ledger(RULES, reproducible=True)
    ledger.trials = {
        1: TrialRecord(number=1, status="stopped", values=[0.9]),
        2: TrialRecord(number=2, status="stopped", values=[0.5, 0.6, 0.7]),
        3: TrialRecord(number=3, status="failed", values=[0.5, 0.6, 0.8]),
    }

    assert ledger.best() == 2


@pytest.mark.parametrize(
    ("jobs", "known", "spent"), [([1], 0, 1), ([1, 2, 3], 3, 3), ([1, 2, 3, 1], 3, 5), ([1, 2, 3, 1], 4, 5)]
)
def test_epochs_are_counted_when_a_training_begins(jobs, known, spent):
    ledger = Ledger(RULES, reproducible=True, jobs=jobs, known=known)
    ledger.trials = {number: record_of(ledger, number, 0) for number in jobs}
    if known == 4:
        ledger.trials[1] = record_of(ledger, 1, 1)

    assert ledger.spent() == spent


def test_the_median_is_of_running_means_and_needs_some_trials():
    curves = [[0.1, 0.3, 0.9], [0.2, 0.4, 0.9], [0.3, 0.5, 0.9], [0.4, 0.6, 0.9], [0.5, 0.7, 0.9]]

    assert median_thresholds(curves, min_epochs=1, max_epochs=3) == pytest.approx((0.3, 0.4))
    assert median_thresholds(curves[:4], min_epochs=1, max_epochs=3) == (None, None)
    assert median_thresholds(curves, min_epochs=2, max_epochs=3)[0] is None
    assert median_thresholds([*curves[:4], [0.5]], min_epochs=1, max_epochs=3)[1] is None
