"""Sweeps as a user writes them: what is taken, and the one sentence for what is not."""

from __future__ import annotations

import tomllib

import pytest

from durabert.errors import SpecInvalid, UserError
from durabert.specs import DataSpec, FineTuneConfig, Parameter, SweepSpec, sweep_from_toml
from durabert.specs.search import grid

RATE = "learning_rate = { log_uniform = [1e-5, 1e-3] }"


def parsed(text: str, **fields) -> SweepSpec:
    return sweep_from_toml({"name": "search", "data": "reviews.csv", **tomllib.loads(text), **fields})


def test_a_sweep_in_toml_is_the_same_in_python():
    written = parsed(
        """
        trials = 12
        stopping = "asha"
        [defaults]
        epochs = 9
        [space]
        learning_rate = { log_uniform = [1e-5, 1e-3] }
        batch_size = { choice = [8, 16] }
        schedule = { choice = ["linear", "constant"] }
        warmup_ratio = { uniform = [0.0, 0.2], when = { schedule = "linear" } }
        max_length = { integer = [32, 64] }
        """
    )

    assert written == SweepSpec(
        name="search",
        data=DataSpec(source="reviews.csv"),
        trials=12,
        stopping="asha",
        config=FineTuneConfig(epochs=9),
        space={
            "learning_rate": Parameter(log_uniform=(1e-5, 1e-3)),
            "batch_size": Parameter(choice=(8, 16)),
            "schedule": Parameter(choice=("linear", "constant")),
            "warmup_ratio": Parameter(uniform=(0.0, 0.2), when={"schedule": "linear"}),
            "max_length": Parameter(integer=(32, 64)),
        },
    )
    assert SweepSpec.model_validate_json(written.model_dump_json()) == written
    assert list(written.space) == ["learning_rate", "batch_size", "schedule", "warmup_ratio", "max_length"]


@pytest.mark.parametrize(
    ("epochs", "min_epochs", "factor", "rungs"),
    [(3, 1, 3, (1, 3)), (9, 1, 3, (1, 3, 9)), (8, 2, 2, (2, 4, 8)), (16, 1, 4, (1, 4, 16))],
)
def test_rungs_are_powers(epochs, min_epochs, factor, rungs):
    options = f"stopping='asha'\nmin_epochs={min_epochs}\nreduction_factor={factor}\n"

    assert parsed(f"{options}[defaults]\nepochs={epochs}\n[space]\n{RATE}").rungs == rungs


def test_a_grid_has_each_point_once():
    space = parsed(
        "algorithm='grid'\n[space]\nschedule = {choice=['linear','cosine']}\n"
        "warmup_ratio={choice=[0.1,0.2], when={schedule='cosine'}}"
    )

    assert list(grid(space.space)) == [
        {"schedule": "linear"},
        {"schedule": "cosine", "warmup_ratio": 0.1},
        {"schedule": "cosine", "warmup_ratio": 0.2},
    ]
    assert space.num_trials == 3


def test_a_trial_may_have_its_own_epochs():
    assert parsed("[space]\nepochs = { integer = [1, 5] }").rungs == (5,)


ASHA = "stopping = 'asha'\n"
MISTAKES = {
    "": "the search space is empty; give at least one parameter",
    "[space]": "the search space is empty",
    "[space]\nlearning_rat = { uniform = [0, 1] }": "unknown parameter 'learning_rat'; did you mean",
    "[space]\nseed = { choice = [1, 2] }": "'seed' cannot be searched; set it for all trials instead",
    "[space]\nlearning_rate = { log_uniform = [1e-3, 1e-5] }": (
        "learning_rate: log_uniform is [0.001, 1e-05], but should be [low, high] with low below high"
    ),
    "[space]\nmax_length = { integer = [8, 8] }": "max_length: integer is [8, 8], but should be [low, high]",
    "[space]\nlearning_rate = { log_uniform = [0, 1] }": "log_uniform is [0, 1], but should be above 0",
    "[space]\nlearning_rate = { uniform = [0.1, 3] }": "but should be less than or equal to 1",
    "[space]\nbatch_size = { uniform = [8, 32] }": "but should be a valid integer",
    "[space]\nschedule = { choice = ['linar'] }": "schedule is 'linar', but should be 'linear'",
    "[space]\nepochs = { choice = [] }": "epochs: choice is [], but should have at least 1 item",
    "[space]\nlearning_rate = {}": "learning_rate: a parameter has no values, but should have one of",
    "[space]\nlearning_rate = 1": "learning_rate is 1, but should be a table of fields",
    "[space]\nlearning_rate = { loguniform = [1, 2] }": "unknown field 'loguniform'; did you mean",
    "[space]\nweight_decay = { uniform = [0, 0.1], when = { schedule = 'linear' } }": (
        "weight_decay depends on 'schedule', but should on a parameter that stands before it"
    ),
    "[space]\nschedule = { choice = ['linear'] }\nwarmup_ratio = { uniform = [0, 0.1], "
    "when = { schedule = 'cosine' } }": "depends on schedule = 'cosine', which schedule never is",
    f"algorithm = 'grid'\n[space]\n{RATE}": "learning_rate is log_uniform, but a grid needs choice",
    "algorithm = 'grid'\ntrials = 3\n[space]\nbatch_size = { choice = [8, 16] }": (
        "trials is 3, but should be at most 2: the grid has 2 points"
    ),
    "algorithm = 'grid'\n[space]\nmax_length = { integer = [4, 9000] }": "should be at most 2000: the grid",
    "algorithm = 'grid'\n[space]\nmax_train_rows = { integer = [1, 1000000] }": "the grid has 1000000 points",
    f"{ASHA}[defaults]\nepochs = 5\n[space]\n{RATE}": (
        "epochs is 5, but with min_epochs 1 and reduction_factor 3 should be 3 or 9"
    ),
    f"{ASHA}[defaults]\nepochs = 2\n[space]\n{RATE}": "reduction_factor 3 should be 3",
    f"{ASHA}min_epochs = 3\n[space]\n{RATE}": "min_epochs is 3, but should be below epochs, 3",
    f"{ASHA}trials = 8\n[defaults]\nepochs = 9\n[space]\n{RATE}": "trials is 8, but should be at least 9",
    f"{ASHA}[space]\nepochs = {{ choice = [3, 9] }}": "epochs is searched, but with stopping 'asha'",
    f"budget_epochs = 2\n[space]\n{RATE}": "budget_epochs is 2, but should be at least 3, the epochs",
    f"algorithm = 'bayes'\n[space]\n{RATE}": "algorithm is 'bayes', but should be 'grid', 'random' or 'tpe'",
    f"trials = 0\n[space]\n{RATE}": "trials is 0, but should be greater than or equal to 1",
    f"trails = 9\n[space]\n{RATE}": "unknown field 'trails'; did you mean 'trials'?",
    f"learning_rate = 1\n[space]\n{RATE}": "field 'learning_rate' belongs under [space] or [defaults]",
    f"[defaults]\nlearning_rate = 1e-4\n[space]\n{RATE}": "'learning_rate' is searched and set to 0.0001",
    f"[defaults]\nname = 'x'\n[space]\n{RATE}": "config.name is 'x', but trials are named by their number",
    f"name = '{'a' * 98}'\nfinal_seeds = 1\n[space]\n{RATE}": "is not allowed: use 1 to 100 letters",
}  # fmt: skip


@pytest.mark.parametrize("text", MISTAKES)
def test_a_mistake_is_one_sentence(text):
    with pytest.raises(UserError) as caught:
        sweep_from_toml({"name": "search", "data": "reviews.csv", **tomllib.loads(text)})

    assert MISTAKES[text] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_grid_of_the_largest_size_is_taken():
    assert parsed("algorithm='grid'\n[space]\nmax_length = { integer = [5, 2004] }").num_trials == 2000


def test_the_state_is_no_part_of_what_a_sweep_is():
    spec = parsed(f"[space]\n{RATE}")

    assert spec.digest() == spec.model_copy(update={"state": None}).digest()
    with pytest.raises(SpecInvalid):
        SweepSpec.parse({**spec.model_dump(), "state": {}})
