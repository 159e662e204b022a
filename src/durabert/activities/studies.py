"""Trials as Optuna has them. Needs Optuna; nothing but the choice of configurations loads it."""

from __future__ import annotations

import functools
from collections.abc import Container, Sequence
from typing import TYPE_CHECKING, Any, Final

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from pydantic import TypeAdapter

from durabert.specs import KnownTrial
from durabert.specs.search import Space

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler

    from durabert.specs import Parameter

KEPT_TRIALS: Final = 10_000
"""Of all sweeps that a worker answers for: some 20 MB, and twice those of five of the largest sweeps."""
KEPT_SPACES: Final = 100

_SPACE: Final[TypeAdapter[Space]] = TypeAdapter(Space)


def study_of(
    space: Space,
    trials: Sequence[KnownTrial],
    *,
    lower_is_better: bool,
    sampler: BaseSampler | None = None,
) -> Study:
    """Return a study in memory that knows these trials."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    written = _SPACE.dump_json(space)
    # To make a trial takes longer than to choose by it, and the next study knows most of them, too. It is a
    # function of these bytes alone: that it was kept since another study changes nothing.
    # Number 0 is the trial that will be asked for; TPE leaves out what has its number.
    made = [_trial(written, place, known.model_dump_json()) for place, known in enumerate(trials, 1)]
    return optuna.create_study(
        storage=_Known(made), direction="minimize" if lower_is_better else "maximize", sampler=sampler
    )


class _Known(InMemoryStorage):
    """A storage with trials that nobody changes, after the only one that is asked for."""

    def __init__(self, known: Sequence[FrozenTrial]) -> None:
        super().__init__()
        self._known = known

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        asked: list[FrozenTrial] = super().get_all_trials(study_id, deepcopy=deepcopy, states=states)
        return asked + [one for one in self._known if states is None or one.state in states]


@functools.lru_cache(KEPT_TRIALS)
def _trial(space: bytes, place: int, written: str) -> FrozenTrial:
    known = KnownTrial.model_validate_json(written)
    of_space = _distributions(space)
    fields: dict[str, Any] = {
        "params": dict(known.params),
        "distributions": {name: of_space[name] for name in known.params},
    }
    if known.value is None:
        trial = create_trial(state=TrialState.FAIL, **fields)
    elif known.complete:
        trial = create_trial(state=TrialState.COMPLETE, value=known.value, **fields)
    else:
        # One that was stopped, or may still be promoted, counts as good as it was at its last epoch.
        values = {known.epochs: known.value}
        trial = create_trial(state=TrialState.PRUNED, intermediate_values=values, **fields)
    trial.number = place
    return trial


@functools.lru_cache(KEPT_SPACES)
def _distributions(space: bytes) -> dict[str, BaseDistribution]:
    return {name: _distribution(parameter) for name, parameter in _SPACE.validate_json(space).items()}


def _distribution(parameter: Parameter) -> BaseDistribution:
    if parameter.choice is not None:
        return CategoricalDistribution(parameter.choice)
    if parameter.integer is not None:
        return IntDistribution(*parameter.integer)
    return FloatDistribution(*parameter.range, log=parameter.log_uniform is not None)
