"""``python -m benchmarks [NAME ...]``: run them all, or some, and print one JSON object a line."""

from __future__ import annotations

import importlib
import json
import sys
import time

NAMES = ("startup", "overhead", "lifecycle", "inference", "training")
"""Without ``durability``, which trains for a quarter of an hour, and ``store_size``, which writes 14 GB."""


def main() -> None:
    """Run the benchmarks that were named, else all."""
    for name in sys.argv[1:] or NAMES:
        print(f"{name} ...", file=sys.stderr, flush=True)
        began = time.monotonic()
        figures = importlib.import_module(f"benchmarks.{name}").measure()
        seconds = round(time.monotonic() - began, 1)
        print(json.dumps({"benchmark": name, **figures, "benchmark_seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
