"""What a report says: facts, curves, and that no text of a user becomes a part of the page."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from durabert.bert.curve import Point
from durabert.report.curves import points_of_a_run, smoothed, thinned
from durabert.report.document import is_report
from durabert.report.facts import best_first, differing, metric_of, outcome
from durabert.report.page import page_of
from durabert.specs import ErrorInfo
from tests.recorded import made_evaluation, made_experiment, made_run, made_spans

SCRIPT = "<script>alert(1)</script>"


def data_of(page: str) -> dict:
    [text] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)


def test_no_text_of_a_user_becomes_markup():
    hostile = f"\"'>{SCRIPT}<img src=x onerror=alert(1)>"
    error = ErrorInfo(type="DataInvalid", message=hostile)
    told = {"labels": [hostile, "b"], "notices": [hostile], "device": hostile}
    worst = made_evaluation("films.a", texts=(hostile,), labels=[hostile, "b"])
    runs = [
        made_run("films.a", result=told, model=hostile, evaluations=(worst,)),
        made_run("films.b", status="failed", error=error, deaths=2, model="minilm"),
    ]
    runs[0] = replace(runs[0], record=replace(runs[0].record, damages=[hostile]))

    page = page_of(replace(made_experiment(runs), data=hostile))

    assert SCRIPT not in page
    assert "<img src=x" not in page
    assert page.count("<script") == 3
    assert page.count("&lt;script&gt;alert(1)") >= 8


def test_a_page_fetches_nothing():
    page = page_of(made_experiment([made_run("films")]))

    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    assert "default-src &#39;none&#39;" in policy
    assert not re.search(r"<(link|iframe|script[^>]+src)", page)
    assert is_report(page.encode())


def test_the_best_run_is_first_and_small_losses_are_good():
    runs = [made_run(f"films.{number}", seed=number) for number in range(4)]
    experiment = made_experiment(runs)
    accuracies = [run.record.result.metrics["accuracy"] for run in runs]

    by_accuracy = best_first(experiment, "accuracy")
    by_loss = best_first(experiment, "loss")

    assert metric_of(experiment) == "accuracy"
    assert by_accuracy[0] == accuracies.index(max(accuracies))
    assert by_loss == [0, 1, 2, 3]


def test_configurations_are_split_into_what_is_shared_and_what_differs():
    runs = [made_run("films.a", learning_rate=1e-5), made_run("films.b", learning_rate=1e-4)]

    shared, different = differing(made_experiment(runs))

    assert different == {"learning_rate": [1e-5, 1e-4]}
    assert shared["batch_size"] == 16
    assert "learning_rate" not in shared


def test_an_attempt_without_a_last_word_died_unless_it_is_still_at_work():
    spans = made_spans(90, deaths=2)
    done = made_run("films", deaths=2)
    running = replace(done, status="running", record=replace(done.record, spans=spans[:2]))

    assert [outcome(done, span) for span in done.record.spans] == ["died", "failed", "completed"]
    assert outcome(running, spans[0]) == "died"
    paused = replace(spans[1], attempt=spans[1].attempt.model_copy(update={"ended": "RunPaused"}))
    assert outcome(running, paused) == "stopped"


def test_the_time_line_shows_attempts_and_the_time_between_them():
    data = data_of(page_of(made_experiment([made_run("films", deaths=2)])))

    ends = [bar["end"] for bar in data["attempts"]]
    assert ends == ["died", "not at work", "failed", "not at work", "completed"]
    assert data["checkpoints"][-1]["step"] == 450


def test_a_long_curve_is_thinned_to_means_that_keep_its_end():
    points = [Point(step, 1, float(step), 1e-5, 16, 500, 0.5) for step in range(1, 1001)]

    columns = thinned(points, 100)

    assert len(columns["step"]) == 100
    assert columns["step"][-1] == 1000
    assert columns["loss"][0] == pytest.approx(5.5)
    assert columns["speed"] == [32.0] * 100


def test_a_loss_that_is_not_finite_is_a_gap():
    points = [Point(1, 1, float("nan"), 1e-5, 16, 500, 0.5), Point(2, 1, 0.5, 1e-5, 16, 500, 0.5)]

    assert thinned(points, 100)["loss"] == [None, 0.5]
    assert smoothed([None, 0.5]) == [None, 0.5]


def test_many_runs_share_the_points_of_a_page():
    assert points_of_a_run(1) == 400
    assert points_of_a_run(200) * 200 <= 12_000
    assert points_of_a_run(10_000) == 40


def test_an_evaluation_is_shown_with_intervals_confusions_and_worst_errors():
    evaluated = made_run("films", evaluations=(made_evaluation("films", texts=("not bad at all",)),))

    page = page_of(made_experiment([evaluated]))

    assert "0.9000 (0.860 to 0.930)" in page
    assert '<td class="number" style="--share: 92%">138</td>' in page
    assert "not bad at all" in page
    assert [one["rows"] for one in data_of(page)["reliability"]] == [20, 40, 60, 80, 100]


def test_a_matrix_of_many_labels_is_shown_by_its_most_frequent_confusions():
    labels = [f"label-{number}" for number in range(40)]
    matrix = [[1 if row == column else row * (column == 0) for column in range(40)] for row in range(40)]
    large = made_evaluation("films", labels=labels, confusion=matrix)

    page = page_of(made_experiment([made_run("films", evaluations=(large,))]))

    assert 'class="matrix"' not in page
    assert "Most frequent confusions" in page
    assert page.index("label-39") < page.index("label-38")


def test_a_run_without_any_record_is_a_page_without_charts():
    empty = made_run("films", status="failed", error=ErrorInfo(type="DataInvalid", message="it is empty"))
    record = replace(empty.record, points=(), times=(), epochs=(), spans=(), environment={})

    page = page_of(made_experiment([replace(empty, record=record)], status="failed"))

    assert data_of(page)["charts"] == []
    assert "DataInvalid: it is empty" in page
    assert len(page) < 60_000


def test_settings_and_metric_of_many_runs_are_axes_from_zero_to_one():
    rates = (1e-5, 2e-5, 1e-4, 1e-3)
    runs = [
        made_run(
            f"films.{number}", seed=number, learning_rate=rate, schedule=("linear", "cosine")[number % 2]
        )
        for number, rate in enumerate(rates)
    ]

    drawn = data_of(page_of(made_experiment(runs)))["parallel"]

    assert drawn["axes"] == ["learning rate", "schedule", "validation accuracy"]
    assert drawn["places"][0] == pytest.approx([0, 0.1505, 0.5, 1], abs=1e-4)
    assert drawn["places"][1] == [1, 0, 1, 0]
    assert [tick["label"] for tick in drawn["ticks"] if tick["axis"] == "schedule"] == ["cosine", "linear"]
    assert {min(drawn["places"][2]), max(drawn["places"][2])} == {0, 1}


def test_few_runs_or_one_setting_make_no_such_diagram():
    few = [made_run(f"films.{number}", learning_rate=number * 1e-5, seed=number) for number in (1, 2, 3, 4)]

    assert data_of(page_of(made_experiment(few)))["parallel"] == {}
    assert data_of(page_of(made_experiment(few[:3])))["parallel"] == {}
