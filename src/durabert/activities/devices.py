"""Which device a run gets: one run a GPU, counted without loading torch."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


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


class DeviceSlots:
    """As many slots as runs may train at once on this worker, each with the device that it stands for."""

    def __init__(self, devices: list[str | None]) -> None:
        self._free: asyncio.Queue[str | None] = asyncio.Queue()
        self.num_slots = len(devices)
        for device in devices:
            self._free.put_nowait(device)

    @classmethod
    def detect(cls, num_slots: int | None = None) -> DeviceSlots:
        """Return one slot a GPU, or one for the CPU; ``num_slots`` spreads that many over the GPUs."""
        devices: list[str | None] = [*cuda_devices()] or [None]
        num_slots = num_slots or len(devices)
        return cls([devices[slot % len(devices)] for slot in range(num_slots)])

    @asynccontextmanager
    async def take(self) -> AsyncIterator[str | None]:
        """Hold a slot; the value is a CUDA device, or None where there is no GPU."""
        device = await self._free.get()
        try:
            yield device
        finally:
            self._free.put_nowait(device)
