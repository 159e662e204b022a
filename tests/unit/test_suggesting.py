"""The choice of configurations: a function of what the request says, and of nothing else."""

from __future__ import annotations

import math

import pytest

from durabert.activities import suggesting
from durabert.activities.suggesting import suggested
from durabert.errors import DependencyMissing, SpecInvalid
from durabert.specs import FineTuneConfig, KnownTrial, Parameter, SuggestionRequest

SPACE = {
    "learning_rate": Parameter(log_uniform=(1e-6, 1e-2)),
    "batch_size": Parameter(choice=(8, 16, 32)),
    "schedule": Parameter(choice=("linear", "constant")),
    "warmup_ratio": Parameter(uniform=(0.0, 0.3), when={"schedule": "linear"}),
    "max_length": Parameter(integer=(16, 64)),
}


def request(number: int = 1, **fields) -> SuggestionRequest:
    options = {"space": SPACE, "algorithm": "random", "seed": 42, "lower_is_better": False, **fields}
    return SuggestionRequest(number=number, **options)


def known(num: int, *, good: float = 1e-4, **fields) -> list[KnownTrial]:
    """Return trials that are the better the nearer their rate is to ``good``."""
    trials = []
    for number in range(1, num + 1):
        params = suggested(request(number))
        value = 1 - abs(math.log10(params["learning_rate"] / good)) / 4
        trials.append(KnownTrial(params=params, epochs=3, value=value, complete=True, **fields))
    return trials


@pytest.mark.parametrize("algorithm", ["random", "tpe"])
def test_the_same_request_has_the_same_answer(algorithm):
    asked = request(21, algorithm=algorithm, known=known(20))

    assert suggested(asked) == suggested(SuggestionRequest.model_validate_json(asked.model_dump_json()))


@pytest.mark.parametrize("algorithm", ["random", "tpe"])
def test_another_number_or_seed_has_another_answer(algorithm):
    trials = known(15)
    answers = [
        suggested(request(number, algorithm=algorithm, known=trials, seed=seed))["learning_rate"]
        for number, seed in ((16, 1), (17, 1), (16, 2))
    ]

    assert len(set(answers)) == 3


@pytest.mark.parametrize("algorithm", ["random", "tpe"])
def test_what_is_chosen_is_inside_and_makes_a_configuration(algorithm):
    trials = known(12)
    for number in range(1, 40):
        params = suggested(request(number, algorithm=algorithm, known=trials))
        assert 1e-6 <= params["learning_rate"] <= 1e-2
        assert params["batch_size"] in (8, 16, 32)
        assert isinstance(params["max_length"], int)
        assert 16 <= params["max_length"] <= 64
        assert ("warmup_ratio" in params) == (params["schedule"] == "linear")
        FineTuneConfig.parse(params)


def test_tpe_goes_where_trials_were_good():
    def distance(algorithm, trials):
        rates = [
            suggested(request(number, algorithm=algorithm, known=trials))["learning_rate"]
            for number in range(41, 61)
        ]
        return sum(abs(math.log10(rate / 1e-4)) for rate in rates)

    assert distance("tpe", known(40)) < 0.6 * distance("random", [])


def test_less_can_be_better():
    trials = [one.model_copy(update={"value": -one.value}) for one in known(40)]
    asked = request(41, algorithm="tpe", known=trials, lower_is_better=True)

    assert suggested(asked) == suggested(request(41, algorithm="tpe", known=known(40)))


def test_failed_and_stopped_trials_can_be_known():
    trials = known(20)
    trials[3] = trials[3].model_copy(update={"value": None, "complete": False})
    trials[4] = trials[4].model_copy(update={"epochs": 1, "complete": False})

    assert suggested(request(21, algorithm="tpe", known=trials))["batch_size"] in (8, 16, 32)


def test_a_grid_is_walked_in_order():
    space = {"batch_size": Parameter(choice=(8, 16)), "max_length": Parameter(integer=(16, 18))}
    points = [suggested(request(number, algorithm="grid", space=space)) for number in range(1, 7)]

    assert [(one["batch_size"], one["max_length"]) for one in points] == [
        (8, 16), (8, 17), (8, 18), (16, 16), (16, 17), (16, 18),
    ]  # fmt: skip
    with pytest.raises(SpecInvalid, match="the grid has no point 7"):
        suggested(request(7, algorithm="grid", space=space))


def test_without_optuna_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setattr(suggesting.importlib.util, "find_spec", lambda _: None)

    with pytest.raises(DependencyMissing, match=r"pip install 'durabert\[worker\]'"):
        suggested(request())
