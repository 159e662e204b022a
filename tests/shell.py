"""The command line as a user types it, in a home directory of its own."""

from __future__ import annotations

import csv
import json
import os
import random
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DURABERT = str(Path(sys.executable).parent / "durabert")


@dataclass
class Shell:
    """Runs commands with one home directory, from one working directory."""

    home: Path
    directory: Path
    environment: dict[str, str] = field(default_factory=dict)

    def variables(self) -> dict[str, str]:
        return {**os.environ, "DURABERT_HOME": str(self.home), "COLUMNS": "160", **self.environment}

    def run(self, *arguments: object, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [DURABERT, *map(str, arguments)],
            capture_output=True, text=True, timeout=timeout, check=False,
            cwd=self.directory, env=self.variables(), stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [DURABERT, *map(str, arguments)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            cwd=self.directory, env=self.variables(), stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def objects(self, *arguments: object, timeout: float = 120) -> list[dict[str, Any]]:
        """Run a command with ``--json`` and return what it printed."""
        done = self.run(*arguments, "--json", timeout=timeout)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]


POSITIVE = ("good", "great", "fine", "lovely")
NEGATIVE = ("bad", "awful", "poor", "dull")
FILLERS = ("the", "film", "was", "a", "story", "and", "actors", "plot", "music", "it", "very", "so")


def write_reviews(path: Path, *, rows: int = 240, seed: int = 0) -> Path:
    """Write a CSV of short made-up reviews in which one word decides, no two alike."""
    generator = random.Random(seed)
    seen: dict[str, str] = {}
    while len(seen) < rows:
        label = ("negative", "positive")[len(seen) % 2]
        words = generator.choices(FILLERS, k=6)
        words.insert(generator.randrange(7), generator.choice(POSITIVE if label == "positive" else NEGATIVE))
        seen.setdefault(" ".join(words), label)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *seen.items()])
    return path
