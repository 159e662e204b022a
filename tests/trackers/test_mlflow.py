"""MLflow gets each value once, and how the run ended; ``make trackers`` installs it and runs this."""

from __future__ import annotations

from dataclasses import replace

import pytest

from durabert.errors import StoreInvalid
from durabert.trackers.feed import feed_of
from durabert.trackers.mlflow import MLflow
from tests.recorded import made_run
from tests.unit.test_tensorboard import SERIES, until

mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed; make trackers does")
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture
def client(uri):
    return mlflow.MlflowClient(tracking_uri=uri)


def sync(run, uri):
    return MLflow(uri).sync(feed_of(run, run.run))


def stored(client, name):
    experiment = client.get_experiment_by_name(name)
    [run] = client.search_runs([experiment.experiment_id])
    return run


def steps_of(client, run, name):
    return [metric.step for metric in client.get_metric_history(run.info.run_id, name)]


def test_every_value_is_there_once_however_often_it_is_asked_for(client, uri):
    run = made_run("films", steps=60, deaths=2)
    sync(until(run, 15), uri)
    assert stored(client, "films").info.status == "RUNNING"

    sync(run, uri)
    added = sync(run, uri)

    found = stored(client, "films")
    assert added == 0
    assert set(found.data.metrics) == SERIES
    assert sorted(steps_of(client, found, "train/loss")) == list(range(1, 61))
    assert sorted(steps_of(client, found, "validation/accuracy")) == [20, 40, 60]
    assert found.data.params["learning_rate"] == "5e-05"
    assert found.data.tags["durabert.model_sha256"] == "ab" * 32


@pytest.mark.parametrize(
    ("status", "state"), [("completed", "FINISHED"), ("failed", "FAILED"), ("cancelled", "KILLED")]
)
def test_a_run_is_closed_with_its_state_and_opened_again_when_it_goes_on(client, uri, status, state):
    run = made_run(f"closed-{status}", steps=20)
    sync(replace(run, status=status), uri)
    assert stored(client, run.run).info.status == state

    sync(until(run, 10), uri)

    assert stored(client, run.run).info.status == "RUNNING"


def test_an_address_that_mlflow_cannot_use_is_told():
    with pytest.raises(StoreInvalid, match="paper://"):
        MLflow("paper://nowhere")
