"""durabert inside a worker and client of your own: ``Worker(client, ..., plugins=[DurabertPlugin()])``."""

from __future__ import annotations

from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from temporalio.plugin import SimplePlugin

from durabert.activities.datasets import DatasetActivities
from durabert.activities.devices import DeviceSlots
from durabert.activities.evaluations import EvaluationActivities
from durabert.activities.exports import ExportActivities
from durabert.activities.inference import InferenceActivities
from durabert.activities.registry import RegistryActivities
from durabert.activities.sweeps import SweepActivities
from durabert.activities.training import TrainingActivities
from durabert.engine import home_directory
from durabert.store.location import store_url
from durabert.warming import warm_up
from durabert.wire import data_converter
from durabert.workflows import WORKFLOWS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from temporalio.worker import WorkerConfig

HEARTBEAT_THROTTLE: Final = timedelta(milliseconds=200)
"""The SDK's default holds heartbeats, and with them a cancellation, back for 0.8 of the time-out."""

STICKY_LIMIT: Final = timedelta(seconds=2)
"""How long a decision waits for the worker that has the workflow in its cache, which may be dead."""


class DurabertPlugin(SimplePlugin):
    """Adds durabert's workflows, activities and data converter to a client and a worker.

    Args:
        home: the worker's home directory; default ``DURABERT_HOME``, else ``./.durabert``.
        store: URL or path of the artifact store; default ``DURABERT_STORE``, else ``<home>/store``.
        slots: how many runs may train at once, and where; default one a GPU, else one.
    """

    def __init__(
        self, *, home: Path | None = None, store: str | None = None, slots: DeviceSlots | None = None
    ) -> None:
        home = home_directory(home)
        store = store_url(store, home=home)
        self._slots = slots or DeviceSlots.detect()
        evaluations = EvaluationActivities(home, store, self._slots)
        registry = RegistryActivities(home, store, self._slots)
        inference = InferenceActivities(home, store, self._slots)
        sweeps = SweepActivities(home, store, self._slots)
        super().__init__(
            "durabert",
            data_converter=lambda _: data_converter,
            workflows=WORKFLOWS,
            activities=[
                DatasetActivities(home, store, self._slots).create_dataset_snapshot,
                TrainingActivities(home, store, self._slots).fine_tune_bert,
                inference.run_bert_inference,
                inference.plan_batch_inference,
                inference.commit_batch_inference,
                ExportActivities(home, store, self._slots).export_bert,
                evaluations.plan_evaluations,
                evaluations.evaluate_bert,
                registry.check_promotion,
                registry.register_version,
                sweeps.plan_sweep,
                sweeps.suggest_trial,
                registry.find_champion,
            ],
            run_context=_prepared_fork_server,
        )

    def configure_worker(self, config: WorkerConfig) -> WorkerConfig:
        """Add what a worker needs, and cap its heartbeat throttle and its slots."""
        config = super().configure_worker(config)
        config["max_heartbeat_throttle_interval"] = HEARTBEAT_THROTTLE
        config["default_heartbeat_throttle_interval"] = HEARTBEAT_THROTTLE
        config["sticky_queue_schedule_to_start_timeout"] = STICKY_LIMIT
        if config.get("max_concurrent_activities") is None and config.get("tuner") is None:
            config["max_concurrent_activities"] = self._slots.num_slots
        return config


@asynccontextmanager
async def _prepared_fork_server() -> AsyncIterator[None]:
    warm_up()
    yield
