"""The registry in a store: versions and aliases that nobody overwrites."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from durabert.activities.gates import champion_gate, metric_gates, standard_error
from durabert.errors import ArtifactDamaged, ModelNotRegistered
from durabert.specs import FineTuneConfig, FineTuneRequest
from durabert.specs.registry import (
    DecisionRecord,
    ModelRef,
    PromotionCheck,
    PromotionRequest,
    RegistryRequest,
)
from durabert.store.objects import open_store
from durabert.store.registry import Registry
from tests.workflow.conftest import result_of


@pytest.fixture
def objects(tmp_path):
    return open_store(None, home=tmp_path)


def run_of(name="films", *, rows=100, **fields):
    request = FineTuneRequest(experiment=name, run=name, data={"source": "a.csv"}, config=FineTuneConfig())
    result = result_of(request)
    return result.model_copy(update={"rows": result.rows.model_copy(update={"validation": rows}), **fields})


def asked(run="films", alias="champion", execution="1", **fields):
    promotion = PromotionRequest(run=run, name="films", alias=alias, requested_by="ann@laptop", **fields)
    check = PromotionCheck(model_sha256="0" * 64, gates=[])
    decision = DecisionRecord(approved=True, by="bob@desk", reason="good", at="2026-01-01T00:00:00+00:00")
    return RegistryRequest(promotion=promotion, check=check, decision=decision, execution=execution)


def test_a_name_is_found_by_alias_and_by_version(objects):
    registry = Registry(objects)
    registry.register(asked("one", execution="1"), run_of("one"))
    registry.register(asked("two", execution="2"), run_of("two"))
    registry.register(asked("two", "staging", execution="3"), run_of("two"))

    assert [version.run for version in registry.versions("films")] == ["one", "two"]
    assert registry.aliases("films") == {"champion": 2, "staging": 2}
    assert registry.find(ModelRef.parse_text("films@champion")).run == "two"
    assert registry.find(ModelRef.parse_text("films@1")).run == "one"
    assert registry.names() == ["films"]


def test_an_alias_that_goes_back_keeps_its_history(objects):
    registry = Registry(objects)
    for number, run in enumerate(("one", "two", "one"), start=1):
        registry.register(asked(run, execution=str(number)), run_of(run))

    moves = registry.moves("films")

    assert [(move.number, move.version, move.by) for move in moves] == [
        (1, 1, "ann@laptop"), (2, 2, "ann@laptop"), (3, 1, "ann@laptop"),
    ]  # fmt: skip
    assert moves[0].decision.reason == "good"
    assert registry.aliases("films") == {"champion": 1}


def test_the_same_execution_registers_once(objects):
    registry = Registry(objects)

    first = registry.register(asked(), run_of())
    second = registry.register(asked(), run_of())

    assert first == second
    assert len(registry.moves("films")) == 1


def test_promotions_at_once_get_versions_of_their_own(objects):
    names = [f"run-{number}" for number in range(8)]

    def register(name):
        return Registry(objects).register(asked(name, f"a-{name}", execution=name), run_of(name))[0]

    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(register, names))

    assert sorted(version.version for version in made) == list(range(1, 9))
    registry = Registry(objects)
    assert {version.version: version.run for version in made} == {
        version.version: version.run for version in registry.versions("films")
    }


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("songs@champion", "the registry has no model 'songs'"),
        ("films@2", "its newest version is 1"),
        ("films@staging", "its aliases are champion"),
    ],
)
def test_what_is_not_registered_is_told_with_what_is(objects, text, told):
    Registry(objects).register(asked(), run_of())

    with pytest.raises(ModelNotRegistered, match=told):
        Registry(objects).find(ModelRef.parse_text(text))


def test_a_damaged_version_is_told(objects):
    Registry(objects).register(asked(), run_of())
    objects.write("registry/films/1.json", b'{"name": "films"')

    with pytest.raises(ArtifactDamaged, match=r"registry/films/1\.json cannot be read"):
        Registry(objects).find(ModelRef.parse_text("films@champion"))


def test_a_metric_is_held_against_its_least_value():
    request = PromotionRequest(
        run="films", name="films", alias="a", requested_by="b", min_metrics={"accuracy": 0.9}
    )

    [low] = metric_gates(request, run_of(metrics={"accuracy": 0.899}))
    [high] = metric_gates(request, run_of(metrics={"accuracy": 0.9}))

    assert (low.passed, high.passed) == (False, True)
    assert low.detail == "accuracy is 0.8990 and should be at least 0.9"


@pytest.mark.parametrize(
    ("metric", "ours", "theirs", "rows", "passed"),
    [
        ("accuracy", 0.90, 0.92, 100, True),
        ("accuracy", 0.90, 0.92, 10_000, False),
        ("accuracy", 0.93, 0.92, 10_000, True),
        ("pearson", 0.80, 0.82, 50, True),
        ("pearson", 0.80, 0.82, 20_000, False),
        ("loss", 0.31, 0.30, 100, False),
        ("loss", 0.29, 0.30, 100, True),
    ],
)
def test_worse_than_the_champion_beyond_noise_is_refused(metric, ours, theirs, rows, passed):
    run, champion = (
        run_of(name, rows=rows, metric=metric, metrics={metric: value})
        for name, value in (("new", ours), ("old", theirs))
    )

    gate = champion_gate(run, champion)

    assert gate.passed is passed, gate.detail
    assert "that of run old" in gate.detail


def test_models_of_other_labels_cannot_be_compared():
    gate = champion_gate(run_of("new", labels=["a", "b"]), run_of("old"))

    assert not gate.passed
    assert "other labels" in gate.detail


def test_a_perfect_score_on_few_rows_is_uncertain():
    assert standard_error("accuracy", 1.0, 20) == pytest.approx(0.0564, abs=1e-4)
    assert standard_error("accuracy", 0.9, 10**8) == pytest.approx((0.9 * 0.1 / 10**8) ** 0.5, rel=1e-3)
