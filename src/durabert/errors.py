"""The errors of durabert, and the one place that says which of them are retried.

DurabertError
├── UserError                    the user's mistake: never retried, exit code 2
│   ├── SpecInvalid              a field of a request is out of range, unknown or of the wrong type
│   ├── NameInvalid              a name that is no safe path segment
│   ├── NameInUse                the name belongs to another spec or pattern
│   ├── DataNotFound             no such file, directory or hub data set
│   ├── DataInvalid              unreadable: empty, wrong encoding, broken rows, no train split
│   ├── ColumnMissing            the data has no such column
│   ├── ColumnAmbiguous          more than one column could be meant, or none
│   ├── LabelsInvalid            one class only, unknown labels, labels that do not fit the task
│   ├── ModelNotFound            neither a known name, nor a directory, nor on the hub
│   ├── ModelInvalid             no weights, unsafe weights, or not an encoder
│   ├── DeviceMissing            the device asked for is not on the worker
│   ├── TextsInvalid             nothing to predict, or too much for one request
│   ├── RunNotFound              no run of that name
│   ├── RunNotUsable             the run has no model: failed, cancelled, still training
│   ├── EngineUnavailable        no Temporal server at the address, or the embedded one did not start
│   ├── DependencyMissing        an extra of durabert is not installed
│   ├── StoreInvalid             the store's URL is wrong, or cannot be reached or written at the start
│   ├── SnapshotNotFound         no snapshot of that id in the store
│   ├── OutputInUse              the output directory holds something else, or cannot be written
│   ├── CheckpointNotUsable      no such checkpoint, or one of another model, task or data
│   ├── ModelNotRegistered       the registry has no such name, alias or version
│   ├── PromotionNotOpen         no promotion waits for a decision, or not any more
│   ├── PromotionPending         another promotion to that alias waits for a decision
│   └── ScheduleNotFound         no schedule of that name
├── RunFailed                    the run itself cannot succeed: never retried, exit code 1
│   ├── TrainingDiverged         loss or gradient is not finite
│   ├── ArtifactDamaged          what the store gave is not what was put there
│   ├── ExportRefused            the exported model does not predict as the trained one does
│   └── RunCancelled             cancelled on request
├── InfrastructureError          retried without limit, with back-off
│   ├── ProcessKilled            the training process was killed, most often by the kernel for memory
│   ├── ProcessStalled           the training process stopped reporting
│   ├── DeviceFault              the GPU or its driver failed
│   ├── OutOfMemory              the device has too little free memory
│   ├── StoreUnavailable         the artifact store did not answer
│   ├── DivergenceSuspected      loss or gradient is not finite for the first time: tried once more
│   ├── AttemptSuperseded        a later attempt has taken the run over
│   ├── WorkerLost               the server hears nothing of the worker any more
│   ├── RunPaused                paused on request; goes on when it is resumed
│   └── WorkerStopping           the worker shuts down and hands the work over
└── UnexpectedError              a bug: retried twice, then reported
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class Retry(enum.Enum):
    """How often an activity that ended with an error is tried again."""

    NEVER = "never"
    ALWAYS = "always"
    TWICE = "twice"


class DurabertError(Exception):
    """Any error that durabert raises on purpose; ``str(error)`` is one sentence for the user."""

    retry: ClassVar[Retry] = Retry.NEVER
    exit_code: ClassVar[int] = 1

    @classmethod
    def restored(cls, name: str, message: str) -> DurabertError:
        """Return the error that crossed a process or the network as its class name and its sentence.

        A name that this version does not know becomes an ``UnexpectedError``.
        """
        kind = next((kind for kind in _tree(DurabertError) if kind.__name__ == name), UnexpectedError)
        error = kind.__new__(kind)
        Exception.__init__(error, message)
        return error


class UserError(DurabertError):
    """The user's mistake: the message names the value and what was expected."""

    exit_code: ClassVar[int] = 2


class SpecInvalid(UserError):
    """A field of a request is out of range, unknown or of the wrong type."""


class NameInvalid(UserError):
    """The name cannot be a workflow id and a directory name."""

    def __init__(self, name: str, *, what: str = "run", longest: int = 100) -> None:
        super().__init__(
            f"{what} name {_shown(name)} is not allowed: use 1 to {longest} letters, digits, '-' and '_', "
            "starting with a letter or a digit"
        )


class NameInUse(UserError):
    """The name belongs to an experiment with another spec or pattern, or to another schedule."""

    def __init__(
        self,
        name: str,
        *,
        difference: str,
        advice: str = "choose another name",
        what: str = "another experiment",
    ) -> None:
        super().__init__(f"the name {name!r} is in use by {what} ({difference}); {advice}")


class DataNotFound(UserError):
    """There is no file, directory or hub data set of that name."""


class DataInvalid(UserError):
    """The data cannot be read or holds nothing to train on."""


class ColumnMissing(UserError):
    """The data has no such column."""

    def __init__(self, column: str, *, path: str, columns: Sequence[str]) -> None:
        super().__init__(f"{path} has no column {column!r}; it has {', '.join(map(repr, columns))}")


class ColumnAmbiguous(UserError):
    """No column, or more than one, could be the one that is needed."""


class LabelsInvalid(UserError):
    """The labels do not make a task."""


class ModelNotFound(UserError):
    """The model is neither a known name, nor a directory, nor on the hub."""


class ModelInvalid(UserError):
    """The model cannot be loaded safely, or not for this task."""


class DeviceMissing(UserError):
    """The device asked for is not on the worker."""


class TextsInvalid(UserError):
    """There is nothing to predict, or more than one request may carry."""


class RunNotFound(UserError):
    """No run has that name."""

    def __init__(self, run: str) -> None:
        super().__init__(f"there is no run {_shown(run)}; 'durabert runs' lists them")


class RunNotUsable(UserError):
    """The run has no model: it failed, was cancelled or is not finished."""


class EngineUnavailable(UserError):
    """No Temporal server answers, or the embedded one did not come up."""


class DependencyMissing(UserError):
    """An optional part of durabert is not installed."""

    def __init__(self, what: str, *, extra: str) -> None:
        super().__init__(f"{what} is not installed; run: pip install 'durabert[{extra}]'")


class StoreInvalid(UserError):
    """The store's URL is wrong, or what it names cannot be reached or written."""


class SnapshotNotFound(UserError):
    """The store has no such snapshot."""

    def __init__(self, snapshot: str) -> None:
        super().__init__(f"there is no snapshot {_shown(snapshot)}; 'durabert data list' lists them")


class OutputInUse(UserError):
    """The output directory holds something else, or cannot be written."""


class CheckpointNotUsable(UserError):
    """There is no such checkpoint, or it belongs to another model, task or data."""


class ModelNotRegistered(UserError):
    """The registry has no such name, alias or version."""

    def __init__(self, ref: str, *, reason: str) -> None:
        super().__init__(f"there is no {_shown(ref)}: {reason}; 'durabert registry' lists what there is")


class PromotionNotOpen(UserError):
    """No promotion waits for a decision: there was none, or it has ended."""


class PromotionPending(UserError):
    """Another promotion to the same alias waits for a decision."""


class ScheduleNotFound(UserError):
    """No schedule has that name."""

    def __init__(self, name: str, *, near: str | None = None) -> None:
        hint = f"did you mean {near!r}?" if near else "'durabert schedule list' lists them"
        super().__init__(f"there is no schedule {_shown(name)}; {hint}")


class RunFailed(DurabertError):
    """The run cannot succeed, however often it is tried."""


class TrainingDiverged(RunFailed):
    """Loss or gradient norm is not finite."""


class ArtifactDamaged(RunFailed):
    """What the store gave is not what was put there."""


class ExportRefused(RunFailed):
    """The exported model does not predict as the trained one does; nothing was written."""


class RunCancelled(RunFailed):
    """The run was cancelled on request."""


class InfrastructureError(DurabertError):
    """Something around the run failed; trying again is right."""

    retry: ClassVar[Retry] = Retry.ALWAYS


class ProcessKilled(InfrastructureError):
    """The training process was killed by a signal it could not handle."""


class ProcessStalled(InfrastructureError):
    """The training process stopped reporting."""


class DeviceFault(InfrastructureError):
    """The GPU or its driver failed."""


class OutOfMemory(InfrastructureError):
    """The device has too little free memory."""


class StoreUnavailable(InfrastructureError):
    """The artifact store did not answer, or its disk is full."""


class DivergenceSuspected(InfrastructureError):
    """Loss or gradient norm is not finite; tried once more, since a faulty device gives that, too."""


class AttemptSuperseded(InfrastructureError):
    """A later attempt has taken the run over; this one writes nothing any more."""


class WorkerLost(InfrastructureError):
    """The server hears nothing of the worker any more; told of an attempt, never raised."""


class RunPaused(InfrastructureError):
    """The run was paused on request; the server keeps it until it is resumed."""


class WorkerStopping(InfrastructureError):
    """The worker shuts down and hands the work to another one."""


class UnexpectedError(DurabertError):
    """A bug in durabert or below it."""

    retry: ClassVar[Retry] = Retry.TWICE


def _shown(name: str) -> str:
    return repr(name if len(name) <= 120 else f"{name[:117]}...")


def _tree(root: type[DurabertError]) -> Iterator[type[DurabertError]]:
    yield root
    for child in root.__subclasses__():
        yield from _tree(child)
