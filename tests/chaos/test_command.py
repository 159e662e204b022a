"""``durabert chaos`` as a user types it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.shell import Shell

if TYPE_CHECKING:
    from pathlib import Path


def test_what_becomes_of_each_run_is_told_while_it_is_waited_for(tmp_path: Path) -> None:
    done = Shell(tmp_path / "home", tmp_path).run("chaos", "stop-training", "--json", timeout=240)

    assert done.returncode == 0, done.stderr
    [row] = [json.loads(line) for line in done.stdout.splitlines()]
    assert (row["scenario"], row["attempts"], row["digest"]) == ("stop-training", 2, "equal")
    assert row["passed"]
    told = done.stderr.splitlines()
    begun = told.index("1 of 1  stop-training: SIGTERM of the worker in training ...")
    assert any(line.startswith("undisturbed: completed") for line in told[:begun])
    # Which of its steps are seen is chance; the next worker takes seconds to begin.
    during = [line for line in told[begun:] if line.startswith("stop-training: ")]
    assert any(line.endswith("attempt 2 after WorkerStopping") for line in during)
    assert told[-1] == "1 of 1  stop-training: completed, digest equal"
