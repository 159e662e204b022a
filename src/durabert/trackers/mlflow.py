"""MLflow: one run a run, found by its tag; what it has is asked for, and the rest is added."""

from __future__ import annotations

import math
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from durabert.errors import DependencyMissing, StoreInvalid, StoreUnavailable
from durabert.trackers.feed import missing

if TYPE_CHECKING:
    from durabert.trackers.feed import Feed

RUN_TAG: Final = "durabert.run"
IDENTITY_TAG: Final = "durabert.identity"
BATCH: Final = 1000
"""Metrics in one request, the most that MLflow takes."""
STATUSES: Final = {"completed": "FINISHED", "failed": "FAILED", "cancelled": "KILLED", "unknown": "FAILED"}
"""Of MLflow, by that of a run; any other is ``RUNNING``."""


class MLflow:
    """Runs of an MLflow tracking server or store.

    Args:
        uri: of the server or store, such as ``http://host:5000`` or ``sqlite:///mlflow.db``.

    Raises:
        DependencyMissing: the extra ``mlflow`` is not installed.
        StoreInvalid: MLflow cannot use the address.
    """

    def __init__(self, uri: str) -> None:
        try:
            from mlflow import MlflowClient
            from mlflow.exceptions import MlflowException
        except ImportError:
            raise DependencyMissing("mlflow", extra="mlflow") from None
        self._known: dict[str, set[int]] = {}
        try:
            self._client: Any = MlflowClient(tracking_uri=uri)
            self._client.search_experiments(max_results=1)
        except MlflowException as error:
            raise StoreInvalid(f"MLflow cannot use {uri!r}: {str(error).splitlines()[0]:.200}") from None

    def sync(self, feed: Feed) -> int:
        """Add what is missing, and set parameters, tags and the state of the run.

        Raises:
            StoreUnavailable: MLflow does not answer, or refused something.
        """
        from mlflow.exceptions import MlflowException

        try:
            return self._sync(feed)
        except MlflowException as error:
            raise StoreUnavailable(f"MLflow: {str(error).splitlines()[0]:.200}") from None

    def _sync(self, feed: Feed) -> int:
        from mlflow.entities import Metric, Param, RunTag

        run = self._run(feed)
        new = [
            Metric(name, value.value, _milliseconds(value.time), value.step)
            for name, values in feed.series.items()
            for value in missing(values, self._steps(run.info.run_id, name))
            if math.isfinite(value.value)
        ]
        for some in _batches(new):
            self._client.log_batch(run.info.run_id, metrics=some)
        for metric in new:
            self._known[f"{run.info.run_id}/{metric.key}"].add(metric.step)
        told = run.data.params
        parameters = [Param(name, str(value)) for name, value in feed.parameters.items() if name not in told]
        tags = [RunTag(name, value[:5000]) for name, value in feed.tags.items()]
        self._client.log_batch(run.info.run_id, params=parameters, tags=tags)
        self._set_status(run, feed)
        return len(new)

    def close(self) -> None:
        """Do nothing: the client keeps nothing open."""

    def _run(self, feed: Feed) -> Any:
        experiment = self._client.get_experiment_by_name(feed.experiment)
        identity = (
            self._client.create_experiment(feed.experiment)
            if experiment is None
            else experiment.experiment_id
        )
        # The newest first: a name that was used again for another run has another one here, too.
        found = self._client.search_runs([identity], f"tags.`{RUN_TAG}` = '{feed.run}'")
        for run in found:
            told = run.data.tags.get(IDENTITY_TAG)
            if not told or not feed.identity or told == feed.identity:
                return run
        return self._client.create_run(
            identity,
            start_time=None if feed.began is None else _milliseconds(feed.began),
            tags={RUN_TAG: feed.run},
            run_name=feed.run,
        )

    def _steps(self, run_id: str, name: str) -> set[int]:
        key = f"{run_id}/{name}"
        if key not in self._known:
            self._known[key] = {metric.step for metric in self._client.get_metric_history(run_id, name)}
        return self._known[key]

    def _set_status(self, run: Any, feed: Feed) -> None:
        status = STATUSES.get(feed.status, "RUNNING")
        if run.info.status == status:
            return
        if status == "RUNNING":
            self._client.update_run(run.info.run_id, status=status)
        else:
            ended = None if feed.heard is None else _milliseconds(feed.heard)
            self._client.set_terminated(run.info.run_id, status, ended)


def _batches(metrics: list[Any]) -> list[list[Any]]:
    return [metrics[start : start + BATCH] for start in range(0, len(metrics), BATCH)]


def _milliseconds(time: datetime) -> int:
    return round(time.timestamp() * 1000)
