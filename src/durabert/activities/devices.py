"""Which devices a run gets: a GPU, or one for each of its processes, counted without loading torch."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from durabert.errors import DeviceMissing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from durabert.specs import FineTuneConfig


def cuda_devices() -> list[str]:
    """Return the CUDA devices that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in {"", "-1"}]
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    listing = subprocess.run([tool, "--list-gpus"], capture_output=True, text=True, check=False, timeout=20)
    lines = [line for line in listing.stdout.splitlines() if line.startswith("GPU ")]
    return [str(number) for number in range(len(lines))]


@dataclass(frozen=True)
class Places:
    """Where the processes of a run are."""

    processes: int
    devices: int
    """Slots on GPUs of their own that the run takes; 1 if it does not spread over GPUs."""

    @classmethod
    def of(cls, config: FineTuneConfig, gpus: Sequence[str]) -> Places:
        """Return how a configuration is trained on a worker with slots on these GPUs.

        Raises:
            DeviceMissing: the worker has not as many as it asks for.
        """
        on_gpus = config.device == "cuda" or (config.device == "auto" and bool(gpus))
        most = min(len(gpus), config.batch_size) if on_gpus else 1
        wanted = max(1, most) if config.num_processes == "auto" else config.num_processes
        if not on_gpus:
            return cls(wanted, 1)
        if wanted > max(1, len(gpus)):
            raise DeviceMissing(
                f"num_processes is {wanted}, but should be at most {len(gpus)}, the GPUs of the worker"
                if gpus
                else f"num_processes is {wanted} on {config.device!r}, but the worker has no GPU"
            )
        return cls(wanted, wanted)


class DeviceSlots:
    """As many slots as runs may train at once on this worker, each with the device that it stands for."""

    def __init__(self, devices: list[str | None]) -> None:
        self._free = list(devices)
        self._turn = asyncio.Lock()
        self._given_back = asyncio.Event()
        self.num_slots = len(devices)
        self.gpus: tuple[str, ...] = tuple(dict.fromkeys(device for device in devices if device is not None))

    @classmethod
    def detect(cls, num_slots: int | None = None) -> DeviceSlots:
        """Return one slot a GPU, or one for the CPU; ``num_slots`` spreads that many over the GPUs."""
        devices: list[str | None] = [*cuda_devices()] or [None]
        num_slots = num_slots or len(devices)
        return cls([devices[slot % len(devices)] for slot in range(num_slots)])

    @asynccontextmanager
    async def take(self, num_devices: int = 1) -> AsyncIterator[list[str | None]]:
        """Hold a slot of each of so many devices: CUDA devices, or one None where there is no GPU.

        Who came first is served first, so that one who needs many is not passed by for ever.
        """
        async with self._turn:
            devices = await self._distinct(num_devices)
            for device in devices:
                self._free.remove(device)
        try:
            yield devices
        finally:
            self._free += devices
            self._given_back.set()

    async def _distinct(self, count: int) -> list[str | None]:
        while len(devices := list(dict.fromkeys(self._free))) < count:
            self._given_back.clear()
            await self._given_back.wait()
        return devices[:count]
