"""What plans a sweep inside the child process: data and metric put together. No Temporal here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from durabert.activities.dataset_jobs import snapshot_directory
from durabert.activities.jobs import ChildJob, progress_to, stoppable
from durabert.bert.data import load_training_data
from durabert.bert.metrics import best_metric
from durabert.specs import SweepPlan, SweepPlanRequest

if TYPE_CHECKING:
    from durabert.supervisor import Channel


class SweepPlanJob(ChildJob):
    """Everything the child needs to plan a sweep."""

    request: SweepPlanRequest
    """What the workflow asked for."""


@stoppable()
def plan(payload: dict[str, Any], channel: Channel) -> dict[str, Any]:
    """Find out what the data are, and refuse a metric that they do not have."""
    job = SweepPlanJob.model_validate(payload)
    request, config = job.request, job.request.config
    progress = progress_to(channel)
    progress.phase("loading data")
    objects = job.objects()
    data = load_training_data(
        request.data,
        task=config.task,
        max_train_rows=config.max_train_rows,
        max_eval_rows=config.max_eval_rows,
        seed=config.seed,
        snapshot=snapshot_directory(request.data, request.snapshot, objects, job.home, progress),
    )
    metric = best_metric(config.best_metric, data.task)
    return SweepPlan(task=data.task, metric=metric).model_dump(mode="json")
