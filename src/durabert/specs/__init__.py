"""Request, result and artifact types: what crosses processes, the network and time."""

from durabert.specs.base import Name, RunName, Wire, checked_name, checked_run, spec_invalid
from durabert.specs.data import DataSpec, TextsSpec
from durabert.specs.durability import (
    AttemptRecord,
    AttemptReport,
    CheckpointPolicy,
    CheckpointRef,
    ExperimentProgress,
    RunProgress,
    RunReport,
    SnapshotRequest,
    SnapshotResult,
)
from durabert.specs.inference import InferenceRequest, InferenceResult, Prediction
from durabert.specs.profile import TrainingProfile
from durabert.specs.training import (
    EpochResult,
    ErrorInfo,
    ExperimentResult,
    ExperimentSpec,
    FineTuneConfig,
    FineTuneRequest,
    FineTuneResult,
    Progress,
    RowCounts,
    RunOutcome,
    RunStatus,
    Task,
    experiment_from_toml,
)

__all__ = [
    "AttemptRecord",
    "AttemptReport",
    "CheckpointPolicy",
    "CheckpointRef",
    "DataSpec",
    "EpochResult",
    "ErrorInfo",
    "ExperimentProgress",
    "ExperimentResult",
    "ExperimentSpec",
    "FineTuneConfig",
    "FineTuneRequest",
    "FineTuneResult",
    "InferenceRequest",
    "InferenceResult",
    "Name",
    "Prediction",
    "Progress",
    "RowCounts",
    "RunName",
    "RunOutcome",
    "RunProgress",
    "RunReport",
    "RunStatus",
    "SnapshotRequest",
    "SnapshotResult",
    "Task",
    "TextsSpec",
    "TrainingProfile",
    "Wire",
    "checked_name",
    "checked_run",
    "experiment_from_toml",
    "spec_invalid",
]
