"""The configuration of a trial, by Optuna: a study is built from what is known each time, and thrown away.

So the answer is a function of the request: no database, nothing to lose with a worker.
"""

from __future__ import annotations

import hashlib
import importlib.util
from typing import TYPE_CHECKING, Any

from durabert.errors import DependencyMissing, SpecInvalid
from durabert.specs.search import grid

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.samplers import BaseSampler

    from durabert.specs import Parameter, SuggestionRequest
    from durabert.specs.search import Params, Scalar


def require_optuna() -> None:
    """Refuse to go on without Optuna.

    Raises:
        DependencyMissing: it is not installed.
    """
    if importlib.util.find_spec("optuna") is None:
        raise DependencyMissing("optuna, by which sweeps choose configurations,", extra="worker")


def suggested(request: SuggestionRequest) -> Params:
    """Return the configuration of a trial.

    Raises:
        SpecInvalid: the grid has no such point.
        DependencyMissing: Optuna is not installed.
    """
    require_optuna()
    from durabert.activities.studies import study_of

    lower = request.lower_is_better
    study = study_of(request.space, request.known, lower_is_better=lower, sampler=_sampler(request))
    if request.algorithm == "grid":
        study.enqueue_trial(_point(request))
    return _drawn(study.ask(), request)


def _sampler(request: SuggestionRequest) -> BaseSampler:
    from optuna.samplers import RandomSampler, TPESampler

    # Of its own for each trial: those that are chosen at the same time, of the same results, must differ.
    digest = hashlib.sha256(f"{request.seed} {request.number}".encode()).digest()
    seed = int.from_bytes(digest[:4], "big")
    return TPESampler(seed=seed) if request.algorithm == "tpe" else RandomSampler(seed=seed)


def _point(request: SuggestionRequest) -> dict[str, Any]:
    for number, params in enumerate(grid(request.space), start=1):
        if number == request.number:
            return dict(params)
    raise SpecInvalid(f"the grid has no point {request.number}")


def _drawn(trial: Trial, request: SuggestionRequest) -> Params:
    params: Params = {}
    for name, parameter in request.space.items():
        if parameter.is_there(params):
            params[name] = _value(trial, name, parameter)
    return params


def _value(trial: Trial, name: str, parameter: Parameter) -> Scalar:
    value: Scalar
    if parameter.choice is not None:
        value = trial.suggest_categorical(name, parameter.choice)
    elif parameter.integer is not None:
        value = trial.suggest_int(name, *parameter.integer)
    else:
        value = trial.suggest_float(name, *parameter.range, log=parameter.log_uniform is not None)
    return value
