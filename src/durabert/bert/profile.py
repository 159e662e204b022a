"""What a training step is made of: seconds of its parts, and operations of the model.

Shape letters: T tokens of an example, F values of a token, L layers, P parameters of products.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from durabert.bert.device import Compute, Dtypes
from durabert.specs.profile import TrainingProfile

Part = Literal["data", "forward", "backward", "optimizer"]
_MODEL: Final[tuple[Part, ...]] = ("forward", "backward", "optimizer")

PEAK_SIZE: Final = {"cpu": 1024, "mps": 2048, "cuda": 4096}
"""Rows and columns of the matrices whose product tells what the machine can do."""
PEAK_IN_A_ROW: Final = {"cpu": 1, "mps": 1, "cuda": 16}
"""Products between two looks at the clock: one takes a GPU hardly longer than the looks."""
PEAK_TRIES: Final = 8
"""The best of them counts: others of the machine only ever make one slower."""


class Laps:
    """Seconds of the parts of a step, each from the end of the one before."""

    def __init__(self) -> None:
        self.seconds: dict[Part, float] = defaultdict(float)
        self._last = time.perf_counter()

    def end(self, part: Part) -> None:
        """Let the time since the last end count for ``part``."""
        now = time.perf_counter()
        self.seconds[part] += now - self._last
        self._last = now


class DeviceIdle:
    """How long a GPU has had nothing to do from the end of a step to the begin of the next one."""

    def __init__(self) -> None:
        self._ended: torch.cuda.Event | None = None
        self._began: torch.cuda.Event | None = None

    def begin(self) -> None:
        """All of a step has been asked for."""
        self._ended, self._began = _event(), None

    def end(self) -> None:
        """The next step is about to be asked for."""
        if self._ended is not None and self._began is None:
            self._began = _event()

    def seconds(self) -> float:
        """Return the time in between, once the device has come to the next step; 0 before the first."""
        if self._ended is None or self._began is None:
            return 0.0
        return self._ended.elapsed_time(self._began) / 1000


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


@dataclass(frozen=True)
class ModelOperations:
    """Operations of a model's products in a training step: twice as many backward as forward.

    Source:
        Chowdhery et al. 2022, appendix B: 6 P a token, and 12 L F T a token for attention.
    """

    per_token: float
    per_pair: float
    """Of two tokens of one example, which see each other."""

    @classmethod
    def of(cls, model: Any) -> ModelOperations:
        """Count those of an encoder, without pooler and head, which see one token of each example."""
        products = sum(
            module.weight.numel()
            for name, module in model.base_model.named_modules()
            if isinstance(module, torch.nn.Linear) and "pooler" not in name
        )
        config = model.config
        return cls(6.0 * products, 12.0 * config.num_hidden_layers * config.hidden_size)

    def count(self, lengths: NDArray[np.int64]) -> float:
        """Return the operations for examples of these numbers of tokens."""
        return self.per_token * float(lengths.sum()) + self.per_pair * float((lengths**2).sum())


@dataclass
class Totals:
    """Sums over the steps of an attempt."""

    num_processes: int = 1
    seconds: float = 0.0
    examples: int = 0
    tokens: int = 0
    operations: float = 0.0
    parts: dict[Part, float] = field(default_factory=lambda: defaultdict(float))

    def add(
        self, *, seconds: float, examples: int, tokens: int, operations: float, parts: Mapping[Part, float]
    ) -> None:
        """Take one more step in."""
        self.seconds += seconds
        self.examples += examples
        self.tokens += tokens
        self.operations += operations
        for part, spent in parts.items():
            self.parts[part] += spent

    def profile(self, compute: Compute, *, checkpoint_seconds: float) -> TrainingProfile | None:
        """Return what they come to; none without a step. Takes some milliseconds to measure the machine."""
        if not self.seconds:
            return None
        whole = self.seconds + checkpoint_seconds
        speed = self.operations / self.seconds
        peak = peak_operations_per_second(compute) * self.num_processes
        on_cpu = compute.device.type == "cpu"
        return TrainingProfile(
            tokens_per_second=self.tokens / self.seconds,
            model_gflops=speed / 1e9,
            peak_gflops=peak / 1e9,
            flop_utilisation=speed / peak,
            data_share=self.parts["data"] / whole,
            checkpoint_share=checkpoint_seconds / whole,
            **{f"{part}_share": self.parts[part] / whole if on_cpu else None for part in _MODEL},
        )


def peak_operations_per_second(compute: Compute) -> float:
    """Return what the device reaches in the product of two square matrices, counting a product as 2 n^3."""
    size, in_a_row = PEAK_SIZE[compute.device.type], PEAK_IN_A_ROW[compute.device.type]
    dtype = Dtypes.get(compute.precision, torch.float32)
    # A GPU is faster with values that are all the same than with those of a model.
    one, other, product = (torch.randn((size, size), dtype=dtype, device=compute.device) for _ in range(3))
    best = float("inf")
    with torch.inference_mode():
        for _ in range(PEAK_TRIES):
            began = time.perf_counter()
            for _ in range(in_a_row):
                torch.mm(one, other, out=product)
            # The one value that is asked for waits for the device.
            product[0, 0].item()
            best = min(best, time.perf_counter() - began)
    return 2.0 * size**3 * in_a_row / best
