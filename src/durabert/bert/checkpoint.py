"""The state of a training as files with canonical bytes: equal states give equal files.

``state.json`` holds numbers, metrics and history; tensors are in safetensors files of bounded size,
``model-0000``, ``optimizer-0000``, ``best-0000`` and so on, each with its tensors in sorted order. Nothing in
them can execute code. No generator state is in them, since every draw is a pure function of seed and step.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load

from durabert.bert.metrics import Metrics
from durabert.bert.steps import Best, TrainPlan, TrainState
from durabert.errors import ArtifactDamaged, CheckpointNotUsable
from durabert.specs import EpochResult
from durabert.specs.durability import STATE_FILE

FORMAT: Final = 1
PART_BYTES: Final = 64 * 2**20
"""Size at which a file of tensors is closed: what a writer holds beside the copy of the state."""

Tensors = dict[str, torch.Tensor]

DTYPES: Final = {
    torch.int64: "I64", torch.float64: "F64", torch.float32: "F32", torch.int32: "I32",
    torch.bfloat16: "BF16", torch.float16: "F16", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
    torch.bool: "BOOL",
}  # fmt: skip
"""Names of the safetensors format, in its own order: the widest first, so that each tensor is aligned."""


@dataclass(frozen=True)
class StateCopy:
    """A state that training does not change any more."""

    step: int
    best_epoch: int | None
    document: dict[str, Any]
    groups: dict[str, Tensors]
    """``model``, ``optimizer`` and, after the first epoch, ``best``; on the CPU."""

    @property
    def num_bytes(self) -> int:
        """Size of all tensors."""
        return sum(_size(tensor) for tensors in self.groups.values() for tensor in tensors.values())


class StateCopier:
    """Copies states into the same memory each time: fresh pages cost more than the copy."""

    def __init__(self) -> None:
        self._memory: dict[str, Tensors] = {"model": {}, "optimizer": {}}

    def prepare(self, shapes: Mapping[str, tuple[torch.Size, torch.dtype]], learning: Iterable[str]) -> None:
        """Make the memory, which takes longer than a copy; may be done by another thread than ``copy``.

        Args:
            shapes: shape and type of each weight.
            learning: names of those with moments.
        """
        for name, (shape, dtype) in shapes.items():
            self._memory["model"][name] = _touched(shape, dtype)
        for name in learning:
            for kind in ("exp_avg", "exp_avg_sq"):
                self._memory["optimizer"][f"{kind}/{name}"] = _touched(shapes[name][0], torch.float32)

    def copy(self, state: TrainState) -> StateCopy:
        """Return a copy; the one before is gone by that."""
        groups = {
            "model": self._copied("model", state.model.state_dict()),
            "optimizer": self._copied("optimizer", _optimizer_tensors(state)),
        }
        if state.best is not None:
            # Never changed once an epoch has set them.
            groups["best"] = state.best.weights
        return StateCopy(
            step=state.step,
            best_epoch=None if state.best is None else state.best.epoch,
            document=_document(state),
            groups=groups,
        )

    def _copied(self, group: str, tensors: Mapping[str, torch.Tensor]) -> Tensors:
        memory = self._memory[group]
        for name, tensor in tensors.items():
            if name not in memory:
                memory[name] = torch.empty_like(tensor, device="cpu", memory_format=torch.contiguous_format)
            memory[name].copy_(tensor.detach())
        return {name: memory[name] for name in tensors}


def _touched(shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
    # Not by torch: what it does with threads of its own gives them to this thread, too, and threads that are
    # more than the cores do not wait for each other in the processor any more, but in the kernel.
    memory = np.empty(shape.numel() * dtype.itemsize, np.uint8)
    memory.fill(0)
    return torch.from_numpy(memory).view(dtype).view(shape)


def files_of(copy: StateCopy) -> Iterator[tuple[str, bytes]]:
    """Yield the files of a state, one at a time, so that no more than one is in memory."""
    for group, tensors in sorted(copy.groups.items()):
        for number, part in enumerate(_parts(tensors)):
            yield f"{group}-{number:04}.safetensors", _safetensors(part)
    document = json.dumps(copy.document, indent=1, ensure_ascii=False)
    yield STATE_FILE, document.encode()


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
        best = Best(document["best"]["epoch"], Metrics(**document["best"]["metrics"]), groups["best"])
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


def _parts(tensors: Tensors) -> Iterator[Tensors]:
    part: Tensors = {}
    size = 0
    for name in sorted(tensors):
        if part and size + _size(tensors[name]) > PART_BYTES:
            yield part
            part, size = {}, 0
        part[name] = tensors[name]
        size += _size(tensors[name])
    yield part


def _safetensors(tensors: Tensors) -> bytes:
    """Return contiguous CPU tensors in the safetensors format, copied once where the library copies thrice.

    Source:
        https://github.com/huggingface/safetensors#format; the bytes are those of ``safetensors.torch.save``.
    """
    ranks = {dtype: rank for rank, dtype in enumerate(DTYPES)}
    header: dict[str, object] = {}
    end = 0
    for name in sorted(tensors, key=lambda name: (ranks[tensors[name].dtype], name)):
        tensor = tensors[name]
        begin, end = end, end + _size(tensor)
        header[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    # numpy knows no bf16: every tensor is taken as the bytes that it is.
    content = (tensors[name].reshape(-1).view(torch.uint8).numpy().data for name in header)
    return b"".join([len(text).to_bytes(8, "little"), text, *content])


def _size(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


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
