"""``python -m benchmarks [NAME ...]``: run those of ``make bench``, or some by name.

Prints one JSON object a line on stdout as each ends, a table of all on stderr at the end, and writes both
into ``benchmarks.json`` and ``benchmarks.txt`` in the working directory.
"""

from __future__ import annotations

import importlib
import json
import platform
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

NAMES = ("startup", "overhead", "lifecycle", "inference", "training", "lengths")
"""Those that take less than ten minutes together on two cores. Others by name: ``durability``, ``yardstick``,
``accuracy``, ``scoring``, ``batch_inference``, ``asha``, ``sweep`` and ``sweep_events`` take many minutes,
``suggestions`` and ``checkpoints`` take one; ``store_size`` writes 14 GB; ``reports`` needs Chromium, ``gpu``
a GPU.
"""


def main() -> None:
    """Run the benchmarks that were named, else ``NAMES``."""
    # Told to stop, they end what they have begun: some of it is frozen and would not see that they are gone.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    results = []
    for name in sys.argv[1:] or NAMES:
        print(f"{name} ...", file=sys.stderr, flush=True)
        began = time.monotonic()
        figures = importlib.import_module(f"benchmarks.{name}").measure()
        seconds = round(time.monotonic() - began, 1)
        results.append({"benchmark": name, **figures, "benchmark_seconds": seconds})
        print(json.dumps(results[-1]), flush=True)
    table = "\n".join(f"{name:<60} {figure:>12}" for name, figure in _rows(results))
    Path("benchmarks.json").write_text(json.dumps({"machine": _machine(), "results": results}, indent=1))
    Path("benchmarks.txt").write_text(f"{table}\n")
    print(f"\n{table}\n\nin benchmarks.json and benchmarks.txt, too", file=sys.stderr)


def _rows(results: list[dict[str, object]]) -> Iterator[tuple[str, str]]:
    for result in results:
        fields = dict(result)
        yield from _figures(str(fields.pop("benchmark")), fields)


def _figures(name: str, figure: object) -> Iterator[tuple[str, str]]:
    """Yield figures with their path; of a summary the median alone."""
    if isinstance(figure, Mapping) and "median" in figure:
        yield name, f"{figure['median']:g}"
    elif isinstance(figure, Mapping):
        for key, value in figure.items():
            yield from _figures(f"{name}.{key}", value)
    elif isinstance(figure, list):
        yield name, " ".join(str(one) for one in figure)
    else:
        yield name, str(figure)


def _machine() -> dict[str, object]:
    import torch

    return {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


if __name__ == "__main__":
    main()
