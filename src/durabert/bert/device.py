"""Where a model is computed, in which precision, and what a failing device is called."""

from __future__ import annotations

import contextlib
import platform
import resource
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from durabert.errors import DeviceFault, DeviceMissing, DurabertError, OutOfMemory, SpecInvalid

if TYPE_CHECKING:
    from collections.abc import Iterator

Precision = Literal["fp32", "bf16", "fp16"]
Dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16}

# Names that torch gives to bf16 matrix instructions of Intel, AMD and Arm processors.
_CPU_BF16 = ("amx_bf16", "avx512_bf16", "bf16")
_NO_MEMORY = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
_FAULTS = ("CUDA error", "CUDA driver", "CUBLAS_STATUS", "cuDNN error", "CUDNN_STATUS", "MPS backend")


@dataclass(frozen=True)
class Compute:
    """A device and the precision of the forward pass on it; weights are fp32 in any case."""

    device: torch.device
    precision: Precision

    @classmethod
    def choose(cls, *, device: str, precision: str) -> Compute:
        """Return what a configuration asks for, ``auto`` resolved.

        Raises:
            DeviceMissing: this machine has no such device.
            SpecInvalid: the device cannot compute in that precision.
        """
        found = _device(device)
        return cls(found, _precision(precision, found))

    @property
    def is_bf16_on_gpu(self) -> bool:
        """Whether it is what captured steps and the kernels of ``durabert.bert.triton_kernels`` are for."""
        return self.device.type == "cuda" and self.precision == "bf16"

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Return the context in which the forward pass runs."""
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=Dtypes[self.precision])

    def describe(self) -> str:
        """Return the device with its hardware name, such as ``cuda:0 (NVIDIA H100)``."""
        if self.device.type == "cuda":
            return f"{self.device} ({torch.cuda.get_device_name(self.device)})"
        return self.device.type

    def is_out_of_memory(self, error: Exception) -> bool:
        """Return whether an exception of torch says that the device has too little free memory."""
        message = str(error)
        return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(
            sign in message for sign in _NO_MEMORY
        )

    def release_memory(self) -> None:
        """Give back what torch holds for later, so that smaller pieces find it whole."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def peak_memory_mib(self) -> float | None:
        """Return the largest memory that torch reserved on the GPU; none without one."""
        if self.device.type != "cuda":
            return None
        return torch.cuda.max_memory_reserved(self.device) / 2**20


def to_device(array: NDArray[Any], device: torch.device) -> torch.Tensor:
    """Return a tensor with the values of an array; nothing waits for what a GPU is at."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if device.type == "cuda":
        # From other memory the copy would wait until all is done that was asked for before.
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def process_peak_memory_mib() -> float:
    """Return the largest resident memory of this process so far."""
    if sys.platform == "linux":
        # What getrusage tells includes the peak of the program that began this one in its place.
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.split("VmHWM:")[1].split()[0]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


@contextlib.contextmanager
def device_errors(compute: Compute) -> Iterator[None]:
    """Turn what torch raises when a device fails into ``OutOfMemory`` and ``DeviceFault``."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        known = _device_error(error, compute)
        if known is None:
            raise
        raise known from error


def _device_error(error: Exception, compute: Compute) -> DurabertError | None:
    message = str(error).strip().split("\n", 1)[0][:300]
    if compute.is_out_of_memory(error):
        return OutOfMemory(
            f"{compute.describe()} has too little free memory ({message or 'MemoryError'}); "
            "a larger gradient_accumulation or a smaller max_length needs less"
        )
    # A failed assertion inside a kernel is a wrong index, hence a bug: trying again would not help.
    if "device-side assert" not in message and any(sign in message for sign in _FAULTS):
        return DeviceFault(f"{compute.device} failed: {message}")
    return None


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if _count(kind)))
    device = torch.device(name)
    if (device.index or 0) >= _count(device.type):
        raise DeviceMissing(f"device {name!r} is not on this machine; it has {', '.join(_present())}")
    return device


def _count(kind: str) -> int:
    if kind == "cuda":
        return torch.cuda.device_count() if torch.cuda.is_available() else 0
    return int(kind == "cpu" or torch.backends.mps.is_available())


def _present() -> list[str]:
    cuda = [f"'cuda:{index}'" for index in range(_count("cuda"))]
    return [*cuda, *(["'mps'"] if _count("mps") else []), "'cpu'"]


def _precision(name: str, device: torch.device) -> Precision:
    if name == "fp32":
        return "fp32"
    if name == "fp16":
        if device.type != "cuda":
            raise SpecInvalid(
                f"precision is 'fp16', which needs a CUDA device, but the device is {device.type!r}; "
                "use 'auto', 'bf16' or 'fp32'"
            )
        return "fp16"
    if _computes_bf16(device):
        return "bf16"
    if name == "bf16":
        raise SpecInvalid(
            f"precision is 'bf16', but {device.type!r} on this machine ({platform.machine()}) cannot compute "
            "in bf16; use 'auto' or 'fp32'"
        )
    return "fp32"


def _computes_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name, False) for name in _CPU_BF16)
    return False
