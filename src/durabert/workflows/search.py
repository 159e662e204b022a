"""What a sweep decides: which trial is trained next and how far. Functions of results alone; no Temporal."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, median
from typing import Final

from durabert.specs import KnownTrial, TrialRecord

Scores = Mapping[int, float]
"""Best values so far by the number of the trial."""

MEDIAN_AFTER: Final = 5
"""Trials that must have come to an epoch before others are held against their median."""


@dataclass(frozen=True)
class Job:
    """Train a trial to a rung."""

    trial: int
    """Number of the trial from 1."""
    rung: int
    """From 0."""
    bars: tuple[float, ...] = ()
    """What its best value must reach at this rung, the next and so on to go on from there at once."""


@dataclass(frozen=True)
class Rules:
    """What does not change during a search."""

    rungs: tuple[int, ...]
    """Epochs of each rung."""
    reduction_factor: int
    lower_is_better: bool

    def best_of(self, values: Sequence[float]) -> float:
        """Return the best of some values."""
        return min(values) if self.lower_is_better else max(values)

    def reaches(self, value: float, bar: float) -> bool:
        """Return whether a value is as good as another."""
        return value <= bar if self.lower_is_better else value >= bar

    def better_than(self, value: float) -> float:
        """Return the least value that is better."""
        return math.nextafter(value, -math.inf if self.lower_is_better else math.inf)

    def ranked(self, scores: Scores) -> list[int]:
        """Return trials from the best to the worst, those that are equal by their number."""
        sign = 1 if self.lower_is_better else -1
        return sorted(scores, key=lambda trial: (sign * scores[trial], trial))

    def cost(self, job: Job) -> int:
        """Return the epochs of a training."""
        return self.rungs[job.rung] - (self.rungs[job.rung - 1] if job.rung else 0)


def promotable(rungs: Sequence[Scores], asked: Mapping[int, int], rules: Rules) -> Job | None:
    """Return the training of the best trial that may go on from the highest rung that has one.

    Args:
        rungs: what is known of each rung.
        asked: on how many rungs each trial was or is trained.
        rules: of the search.

    Source:
        Li et al. 2020, algorithm 2, lines 12 to 18.
    """
    for rung in reversed(range(len(rules.rungs) - 1)):
        scores = rungs[rung]
        candidates = rules.ranked(scores)[: len(scores) // rules.reduction_factor]
        for trial in candidates:
            if asked[trial] == rung + 1:
                return Job(trial, rung + 1)
    return None


def bars(rungs: Sequence[Scores], job: Job, rules: Rules) -> tuple[float, ...]:
    """Return what a trial must reach at each rung to be what ``promotable`` returns when it has come there.

    That is known before if no other trial is trained meanwhile. They end at the first rung from which nothing
    may go on yet.
    """
    found = []
    for rung in range(job.rung, len(rules.rungs) - 1):
        others = rules.ranked(rungs[rung])
        places = (len(others) + 1) // rules.reduction_factor
        if not places:
            break
        # Those before have gone on already: else one of them would be trained now.
        rival = others[places - 1]
        score = rungs[rung][rival]
        found.append(score if job.trial < rival else rules.better_than(score))
    return tuple(found)


def next_job(
    rungs: Sequence[Scores], asked: Mapping[int, int], rules: Rules, *, num_trials: int
) -> Job | None:
    """Return what to train next: a promoted trial, else a new one, as long as there are any.

    Source:
        Li et al. 2020, algorithm 2, ``get_job``; there the number of trials has no end.
    """
    promoted = promotable(rungs, asked, rules)
    if promoted is not None:
        return promoted
    return Job(len(asked) + 1, 0) if len(asked) < num_trials else None


def median_thresholds(
    curves: Iterable[Sequence[float]], *, min_epochs: int, max_epochs: int
) -> tuple[float | None, ...]:
    """Return by epoch the median of the running means of other trials; none where too few have come.

    A trial is stopped after an epoch if its best value by then is strictly worse.

    Source:
        Golovin et al. 2017, section 3.2.2.
    """
    curves = list(curves)
    thresholds: list[float | None] = []
    for epoch in range(1, max_epochs):
        means = [fmean(curve[:epoch]) for curve in curves if len(curve) >= epoch]
        enough = epoch >= min_epochs and len(means) >= MEDIAN_AFTER
        thresholds.append(median(means) if enough else None)
    return tuple(thresholds)


@dataclass
class Ledger:
    """The trainings of a sweep in the order in which they were begun, and what is known of them.

    Of a reproducible sweep, the n-th training is decided on by the results of the first n less the
    concurrency, whenever the others arrive, and of one more as often as that gives nothing to begin. So its
    decisions depend on results and never on the time.
    """

    rules: Rules
    reproducible: bool
    jobs: list[int] = field(default_factory=list)
    """The trial of each training."""
    trials: dict[int, TrialRecord] = field(default_factory=dict)
    known: int = 0
    """How many trainings, from the first on, have been taken into account."""
    in_flight: dict[int, Job] = field(default_factory=dict)
    """The trainings that go on, by their places in ``jobs``."""

    def decide(self, *, concurrency: int, num_trials: int, ahead: bool = False) -> Job | None:
        """Return what to begin now; none: something must end first, or nothing is left to begin.

        Args:
            concurrency: trainings at once.
            num_trials: of the search.
            ahead: where one is trained at a time, decide beforehand from which rungs it goes on at once.
        """
        job = self._decide(concurrency, num_trials)
        if job is None or not ahead or concurrency > 1:
            return job
        return replace(job, bars=bars(self.rungs(), job, self.rules))

    def _decide(self, concurrency: int, num_trials: int) -> Job | None:
        if len(self.in_flight) >= concurrency:
            return None
        if not self.reproducible:
            return self._next(num_trials)
        known = max(self.known, len(self.jobs) - concurrency + 1)
        while not any(self.known <= place < known for place in self.in_flight):
            self.known = known
            job = self._next(num_trials)
            if job is not None or known >= len(self.jobs):
                return job
            known += 1
        return None

    def begin(self, job: Job) -> int:
        """Take note that a training begins; return its place."""
        self.jobs.append(job.trial)
        self.in_flight[len(self.jobs) - 1] = job
        known = self.trials.get(job.trial) or TrialRecord(number=job.trial)
        self.trials[job.trial] = known.model_copy(update={"status": "running"})
        return len(self.jobs) - 1

    def end(self, place: int, record: TrialRecord) -> None:
        """Take note of how a training ended, and of the rungs from which it went on at once."""
        job = self.in_flight.pop(place)
        self.trials[record.number] = record
        for rung, bar in enumerate(job.bars, start=job.rung):
            score = self._score(record, rung)
            if record.status == "failed" or score is None or not self.rules.reaches(score, bar):
                break
            self.jobs.append(job.trial)

    def rungs(self) -> list[dict[int, float]]:
        """Return what is known of each rung."""
        rungs: list[dict[int, float]] = [{} for _ in self.rules.rungs]
        for trial, rung in self._known_rungs():
            score = self._score(self.trials[trial], rung)
            if score is not None:
                rungs[rung][trial] = score
        return rungs

    def curves(self) -> list[list[float]]:
        """Return the values by epoch of each trial that is known."""
        return [self.trials[trial].values for trial in dict(self._known_rungs())]

    def known_trials(self) -> list[KnownTrial]:
        """Return what the choice of another configuration takes into account, by the number of the trial."""
        highest: dict[int, KnownTrial] = {}
        for trial, rung in self._known_rungs():
            record, until = self.trials[trial], self.rules.rungs[rung]
            values = record.values[:until]
            if record.params:
                highest[trial] = KnownTrial(
                    params=record.params,
                    epochs=len(values),
                    value=self.rules.best_of(values) if values else None,
                    complete=record.status == "completed"
                    and (until == self.rules.rungs[-1] or record.epochs < until),
                )
        return [highest[trial] for trial in sorted(highest)]

    def spent(self) -> int:
        """Return the epochs of all trainings; of one that is not known yet, all that it may have."""
        asked: Counter[int] = Counter()
        known = set(self._known_places())
        epochs = 0
        for place, trial in enumerate(self.jobs):
            rung = asked[trial]
            asked[trial] += 1
            before = self.rules.rungs[rung - 1] if rung else 0
            until = self.rules.rungs[rung]
            if place in known:
                until = max(before, min(until, self.trials[trial].epochs))
            epochs += until - before
        return epochs

    def best(self) -> int | None:
        """Return the best trial of those that came to the highest rung; none if none has come to any."""
        fit = [
            one for one in self.trials.values() if one.status not in {"failed", "cancelled"} and one.values
        ]
        for rung in reversed(range(len(self.rules.rungs))):
            scores = {one.number: score for one in fit if (score := self._score(one, rung)) is not None}
            if scores:
                return self.rules.ranked(scores)[0]
        scores = {one.number: self.rules.best_of(one.values) for one in fit}
        return self.rules.ranked(scores)[0] if scores else None

    def _next(self, num_trials: int) -> Job | None:
        return next_job(self.rungs(), Counter(self.jobs), self.rules, num_trials=num_trials)

    def _known_places(self) -> Iterable[int]:
        if self.reproducible:
            return range(self.known)
        return (place for place in range(len(self.jobs)) if place not in self.in_flight)

    def _known_rungs(self) -> list[tuple[int, int]]:
        """Return trial and rung of each training that is known, in order."""
        asked: Counter[int] = Counter()
        known = set(self._known_places())
        found = []
        for place, trial in enumerate(self.jobs):
            if place in known:
                found.append((trial, asked[trial]))
            asked[trial] += 1
        return found

    def _score(self, record: TrialRecord, rung: int) -> float | None:
        """Return the best value of a trial up to a rung; none if it has not come there."""
        epochs = self.rules.rungs[rung]
        # Early stopping ends a training before its last epoch, and then it has come everywhere.
        if not record.values or (record.epochs < epochs and record.status != "completed"):
            return None
        return self.rules.best_of(record.values[:epochs])
