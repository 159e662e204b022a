"""The report of a sweep: what it says of trials, of the search and of the final runs."""

from __future__ import annotations

import re

from durabert.report.document import is_report
from durabert.report.sweep_page import sweep_page
from durabert.specs import ErrorInfo, FinalResult, FinalRun, FineTuneConfig
from tests.recorded import made_sweep
from tests.unit.test_report import data_of


def rows_of(page: str) -> list[str]:
    return re.findall(r'<th scope="row">([^<]*)</th>', page)


def test_the_best_trial_is_first_and_failed_ones_are_last():
    view, spec = made_sweep(14)

    page = sweep_page(view, spec)

    names = rows_of(page)
    assert names[0] == f"tuned.{view.best}"
    assert set(names[-2:]) == {"tuned.7", "tuned.14"}
    assert data_of(page)["runs"] == names
    assert "the loss is not finite" in page
    assert is_report(page.encode())


def test_the_best_so_far_never_gets_worse_in_the_order_of_the_trials():
    view, spec = made_sweep(14)

    history = data_of(sweep_page(view, spec))["history"]

    best = [one["best"] for one in history]
    assert [one["number"] for one in history] == [*range(1, 7), *range(8, 14)]
    assert best == sorted(best)
    assert best[-1] == max(one["value"] for one in history)


def test_a_smaller_loss_is_a_better_one():
    view, spec = made_sweep(14, metric="loss")

    best = [one["best"] for one in data_of(sweep_page(view, spec))["history"]]

    assert best == sorted(best, reverse=True)


def test_a_parameter_that_a_trial_lacks_is_a_gap_in_its_line():
    view, spec = made_sweep(14)

    drawn = data_of(sweep_page(view, spec))["parallel"]

    assert drawn["axes"] == [
        "learning rate", "batch size", "schedule", "warmup ratio", "validation accuracy"
    ]  # fmt: skip
    constant = [label == "constant" for label in drawn["labels"][2]]
    assert [place is None for place in drawn["places"][3]] == constant


def test_importance_is_shown_or_why_there_is_none():
    many, few = (sweep_page(*made_sweep(number)) for number in (30, 5))

    assert data_of(many)["importance"][0]["name"] == "learning rate"
    assert data_of(few)["importance"] == []
    assert "is told from 10 trials on; 5 can be compared" in few


def test_without_optuna_the_report_is_made_without_importance(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)

    page = sweep_page(*made_sweep(30))

    assert data_of(page)["importance"] == []
    assert "optuna, by which sweeps choose configurations" in page


def test_final_runs_have_their_scores_and_what_failed_its_reason():
    seeds = {"metrics": {"accuracy": 0.91}, "test_metrics": {"accuracy": 0.9}}
    runs = [
        FinalRun(run="tuned-final.seed-43", seed=43, **seeds),
        FinalRun(run="tuned-final.seed-44", seed=44, error=ErrorInfo(type="X", message="no memory")),
    ]
    final = FinalResult(config=FineTuneConfig(), runs=runs, test_mean=0.9, test_std=0.0123)

    page = sweep_page(*made_sweep(14, final=final))

    assert "Test accuracy: mean 0.9000, standard deviation 0.0123." in page
    assert '<td data-key="0.9" class="number">0.9000</td>' in page
    assert "no memory" in page


def test_a_sweep_without_any_trial_is_a_page_without_charts():
    view, spec = made_sweep(0, status="running", phase="preparing", metric=None, ended=None)

    page = sweep_page(view, spec)

    assert data_of(page)["charts"] == []
    assert "No trial was begun yet." in page
    assert len(page) < 60_000
