"""The state of a training as files with canonical bytes: equal states give equal files.

``state.json`` holds numbers, metrics and history; tensors are in files of the groups ``model``, ``optimizer``
and ``best``. Nothing in them can execute code. No generator state is in them, since every draw is a pure
function of seed and step.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from durabert.bert.metrics import Metrics
from durabert.bert.steps import Best, TrainPlan, TrainState
from durabert.bert.tensor_files import Shape, Shapes, TensorFiles, Tensors, shapes_of
from durabert.errors import ArtifactDamaged, CheckpointNotUsable
from durabert.specs import EpochResult
from durabert.specs.durability import STATE_FILE

FORMAT: Final = 1


@dataclass(frozen=True)
class StateCopy:
    """A state that training does not change any more."""

    step: int
    best_epoch: int | None
    document: dict[str, Any]
    files: list[tuple[str, memoryview]]
    """Of ``model`` and ``optimizer``, as they are stored."""
    best: list[tuple[str, memoryview]]
    """Files with the weights of the best epoch; none before the first."""


class StateCopier:
    """Copies states into the same memory each time: fresh pages cost more than the copy."""

    def __init__(self) -> None:
        self._images: dict[str, TensorFiles] = {}

    def prepare(self, shapes: Shapes, learning: Iterable[str]) -> None:
        """Make the memory, which takes longer than a copy; may be done by another thread than ``copy``.

        Args:
            shapes: shape and type of each weight.
            learning: names of those with moments.
        """
        moments: dict[str, Shape] = {}
        for name in learning:
            moments[f"step/{name}"] = (torch.Size(()), torch.float32)
            for kind in ("exp_avg", "exp_avg_sq"):
                moments[f"{kind}/{name}"] = (shapes[name][0], torch.float32)
        self._images = {"model": TensorFiles("model", shapes), "optimizer": TensorFiles("optimizer", moments)}

    def copy(self, state: TrainState) -> StateCopy:
        """Return a copy; the one before is gone by that."""
        files = [
            *self._copied("model", state.model.state_dict()),
            *self._copied("optimizer", _optimizer_tensors(state)),
        ]
        return StateCopy(
            step=state.step,
            best_epoch=None if state.best is None else state.best.epoch,
            document=_document(state),
            files=files,
            # Never changed once an epoch has set them.
            best=[] if state.best is None else state.best.weights.files,
        )

    def _copied(self, group: str, tensors: Tensors) -> list[tuple[str, memoryview]]:
        shapes = shapes_of(tensors)
        image = self._images.get(group)
        if image is None or image.shapes != shapes:
            image = self._images[group] = TensorFiles(group, shapes)
        image.take(tensors)
        return image.files


def files_of(copy: StateCopy, *, with_best: bool = True) -> Iterator[tuple[str, memoryview]]:
    """Yield the files of a state, which are gone with the next copy."""
    if with_best:
        yield from copy.best
    yield from copy.files
    document = json.dumps(copy.document, indent=1, ensure_ascii=False)
    yield STATE_FILE, memoryview(document.encode())


def load_state(files: Mapping[str, bytes], state: TrainState, plan: TrainPlan) -> None:
    """Put a stored state into a fresh one.

    Args:
        files: from ``files_of``.
        state: of the same model; overwritten.
        plan: what is trained.

    Raises:
        ArtifactDamaged: a file is missing or cannot be read; ``state`` is unchanged.
        CheckpointNotUsable: the state is that of another model or of other labels; ``state`` is unchanged.
    """
    document = _read_document(files)
    groups = _read_groups(files)
    model_shapes = {name: tuple(tensor.shape) for name, tensor in state.model.state_dict().items()}
    _require_same_shapes("model", groups.get("model", {}), model_shapes)
    moments = groups.get("optimizer", {})
    _require_same_shapes("optimizer", moments, _optimizer_shapes(state, moments))
    history = [EpochResult.model_validate(epoch) for epoch in document["history"]]
    best = None
    if document["best"] is not None:
        _require_same_shapes("best", groups.get("best", {}), model_shapes)
        weights = TensorFiles.of("best", groups["best"])
        best = Best(document["best"]["epoch"], Metrics(**document["best"]["metrics"]), weights)
    if history and plan.metric not in history[-1].metrics:
        raise CheckpointNotUsable(
            f"the checkpoint has the metrics {', '.join(history[-1].metrics)}, "
            f"but this task needs {plan.metric}"
        )
    state.model.load_state_dict(groups["model"])
    _load_optimizer(state, moments)
    if state.scaler is not None and document["scaler"] is not None:
        state.scaler.load_state_dict(document["scaler"])
    state.step, state.history, state.best = document["step"], history, best
    state.epoch_loss, state.epoch_examples = document["epoch_loss"], document["epoch_examples"]
    state.micro_batches = document["micro_batches"]


def _document(state: TrainState) -> dict[str, Any]:
    best = state.best
    return {
        "format": FORMAT,
        "step": state.step,
        # Python writes the shortest digits that give the same float again.
        "epoch_loss": state.epoch_loss,
        "epoch_examples": state.epoch_examples,
        "history": [epoch.model_dump(mode="json") for epoch in state.history],
        "best": None if best is None else {"epoch": best.epoch, "metrics": asdict(best.metrics)},
        "scaler": None if state.scaler is None else state.scaler.state_dict(),
        "micro_batches": state.micro_batches,
    }


def _read_document(files: Mapping[str, bytes]) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(files[STATE_FILE])
        if document["format"] != FORMAT:
            raise ArtifactDamaged(
                f"{STATE_FILE} has format {document['format']!r}, but {FORMAT} was expected"
            )
    except KeyError as error:
        raise ArtifactDamaged(f"the checkpoint has no {error.args[0]}") from None
    except (ValueError, TypeError) as error:
        raise ArtifactDamaged(f"{STATE_FILE} cannot be read: {error}") from None
    return document


def _read_groups(files: Mapping[str, bytes]) -> dict[str, Tensors]:
    groups: dict[str, Tensors] = {}
    for name in sorted(files):
        if name.endswith(".safetensors"):
            try:
                groups.setdefault(name.rpartition("-")[0], {}).update(load(files[name]))
            except (SafetensorError, ValueError, KeyError) as error:
                raise ArtifactDamaged(f"{name} is not in safetensors format: {error}") from None
    return groups


def _require_same_shapes(group: str, found: Tensors, expected: Mapping[str, tuple[int, ...]]) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
    if shapes == expected:
        return
    name = next(name for name in sorted({*shapes, *expected}) if shapes.get(name) != expected.get(name))
    raise CheckpointNotUsable(
        f"the checkpoint is of another model or of other labels: its {group} has {name!r} of shape "
        f"{shapes.get(name, 'none')}, but {expected.get(name, 'none')} was expected"
    )


def _parameters(state: TrainState) -> dict[str, torch.nn.Parameter]:
    return {name: parameter for name, parameter in state.model.named_parameters() if parameter.requires_grad}


def _optimizer_tensors(state: TrainState) -> Tensors:
    return {
        f"{kind}/{name}": tensor
        for name, parameter in _parameters(state).items()
        for kind, tensor in state.optimizer.state[parameter].items()
    }


def _optimizer_shapes(state: TrainState, found: Tensors) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for name, parameter in _parameters(state).items():
        # A parameter that the loss does not reach has no moments.
        if f"step/{name}" in found:
            shapes |= {f"{kind}/{name}": tuple(parameter.shape) for kind in ("exp_avg", "exp_avg_sq")}
            shapes[f"step/{name}"] = ()
    return shapes


def _load_optimizer(state: TrainState, tensors: Tensors) -> None:
    for name, parameter in _parameters(state).items():
        if f"step/{name}" in tensors:
            state.optimizer.state[parameter] = {
                kind: tensors[f"{kind}/{name}"].to(parameter.device)
                for kind in ("step", "exp_avg", "exp_avg_sq")
            }
