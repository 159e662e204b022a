"""The choice of configurations: a function of what the request says, and of nothing else."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from durabert.activities import studies, suggesting
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


def asked_of_optuna(request: SuggestionRequest) -> dict:
    """Return what Optuna chooses in a study of its own, to which each trial was added in turn."""
    study = optuna.create_study(direction="maximize", sampler=suggesting._sampler(request))
    for one in request.known:
        fields = {
            "params": one.params,
            "distributions": {name: studies._distribution(SPACE[name]) for name in one.params},
        }
        if one.value is None:
            study.add_trial(create_trial(state=TrialState.FAIL, **fields))
        elif one.complete:
            study.add_trial(create_trial(value=one.value, **fields))
        else:
            values = {one.epochs: one.value}
            study.add_trial(create_trial(state=TrialState.PRUNED, intermediate_values=values, **fields))
    return suggesting._drawn(study.ask(), request)


def searched(*, seed: int, num: int = 50) -> Iterator[SuggestionRequest]:
    """Yield the requests of a search whose trials fail, stop, and go on later."""
    chance, trials = random.Random(seed), []
    for number in range(1, num + 1):
        asked = request(number, algorithm="tpe", seed=seed, known=list(trials))
        yield asked
        params = suggested(asked)
        value = 1 - abs(math.log10(params["learning_rate"] / 1e-4)) / 4
        new = KnownTrial(params=params, epochs=1, value=value if chance.random() > 0.1 else None)
        trials.append(new)
        promoted = chance.randrange(len(trials))
        if trials[promoted].value is not None:
            further = {"epochs": 3, "value": trials[promoted].value + 0.1, "complete": chance.random() > 0.5}
            trials[promoted] = trials[promoted].model_copy(update=further)


def test_what_is_kept_between_requests_changes_no_choice():
    requests = [one for two in zip(searched(seed=1), searched(seed=2), strict=True) for one in two]
    expected = [asked_of_optuna(one) for one in requests]

    in_order = [suggested(one) for one in requests]
    places = list(range(len(requests)))
    random.Random(3).shuffle(places)
    with ThreadPoolExecutor(4) as pool:
        answers = dict(zip(places, pool.map(suggested, [requests[one] for one in places]), strict=True))
    studies._trial.cache_clear()
    last_alone = suggested(requests[-1])

    assert in_order == expected
    assert [answers[place] for place in range(len(requests))] == expected
    assert last_alone == expected[-1]


def test_a_request_has_known_trials_as_rows_and_older_ones_as_objects():
    *_, asked = searched(seed=1)
    written = json.loads(asked.model_dump_json())
    older = {**written, "known": [one.model_dump() for one in asked.known]}

    assert SuggestionRequest.model_validate_json(json.dumps(written)) == asked
    assert SuggestionRequest.model_validate_json(json.dumps(older)) == asked
    assert written["known"][-1][-1] == asked.known[-1].params["max_length"]
    assert len(json.dumps(written["known"])) < 0.6 * len(json.dumps(older["known"]))


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
