"""What a worker trains with: whether it is installed, and imported ahead in the fork server."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final

from durabert import supervisor
from durabert.errors import DependencyMissing

PRELOAD: Final = (
    "durabert.bert",  # first: it sets how threads wait before torch reads it
    "sklearn.metrics",
    "scipy.special",
    "transformers.models.auto.modeling_auto",
    "transformers.models.bert.modeling_bert",
    "durabert.activities.inference_jobs",
    "durabert.activities.batch_jobs",
    "durabert.activities.training_jobs",
    "durabert.activities.dataset_jobs",
    "durabert.bert.compiled",
    "durabert.activities.export_jobs",
    "durabert.activities.evaluation_jobs",
    "durabert.activities.evaluation_planning",
    "durabert.activities.registry_jobs",
    "durabert.activities.sweep_jobs",
)
"""What the fork server imports once, so that a training process starts in well under a second."""


def warm_up() -> None:
    """Start the fork server in the background; a second time changes nothing.

    It imports for some seconds. A worker calls this before it imports Temporal's SDK and connects, so that
    the two go on side by side.
    """
    supervisor.prepare(PRELOAD)


def require_training_parts() -> None:
    """Refuse to go on without what a worker trains with.

    Raises:
        DependencyMissing: torch or transformers is not installed.
    """
    if find_spec("torch") is None or find_spec("transformers") is None:
        raise DependencyMissing("what a worker trains with (torch, transformers)", extra="worker")
