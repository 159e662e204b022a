"""Start the engine's processes so that none outlives the host, and read the end of what they print."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

LARGEST_LOG_BYTES: Final = 10_000_000
SHOWN_LINES: Final = 3
SHOWN_CHARACTERS: Final = 400
TAIL_BYTES: Final = 8_192
_PR_SET_PDEATHSIG: Final = 1


def spawn(
    command: Sequence[str], *, log: Path, env: Mapping[str, str], cwd: Path, pass_fds: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    """Start a process that appends to a log and that the kernel kills when this one dies (Linux only).

    Raises:
        OSError: the program or the log cannot be opened.
    """
    keep_small(log)
    with log.open("ab") as output:
        return subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(env),
            cwd=cwd,
            pass_fds=pass_fds,
            # The host has one thread, so nothing can hold a lock across this fork.
            preexec_fn=_die_with_parent(),  # noqa: PLW1509
        )


def _die_with_parent() -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def arm() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            # It died before the kernel was told.
            os._exit(1)

    return arm


def only_local(env: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without the variables and the file that lead to the user's Temporal server."""
    kept = {name: value for name, value in env.items() if not name.startswith("TEMPORAL_")}
    # A profile in the default file could add an API key or TLS to the local address.
    return {**kept, "TEMPORAL_CONFIG_FILE": os.devnull}


def keep_small(log: Path) -> None:
    """Move a log that has grown large aside, over the one moved before."""
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > LARGEST_LOG_BYTES:
            log.replace(log.with_suffix(".old.log"))


def size_of(log: Path) -> int:
    """Return where the next line of a log will start."""
    return log.stat().st_size if log.exists() else 0


def appended(log: Path, *, since: int) -> str:
    """Return what was appended to a log since an offset; all of it if it was moved aside since."""
    if not log.exists():
        return ""
    with log.open("rb") as lines:
        lines.seek(since if since <= lines.seek(0, os.SEEK_END) else 0)
        return lines.read().decode(errors="replace")


def last_lines(log: Path, *, since: int = 0) -> str:
    """Return the last lines that were appended to a log since an offset, shortened to fit a sentence.

    Of a server that panicked these are the lines before its stacks.
    """
    text = appended(log, since=since).partition("\ngoroutine ")[0][-TAIL_BYTES:]
    shown = [_readable(line) for line in text.splitlines() if line.strip()][-SHOWN_LINES:]
    return " | ".join(shown)[-SHOWN_CHARACTERS:] or "nothing was printed"


def _readable(line: str) -> str:
    try:
        record = json.loads(line)
        return ": ".join(str(record[key]) for key in ("msg", "error") if key in record)
    except (ValueError, TypeError):
        # The server quotes SQL in its errors, line breaks and all.
        return " ".join(line.replace("\\n", " ").replace("\\t", " ").split())


def how_it_ended(returncode: int) -> str:
    """Say how a process ended, for a sentence."""
    if returncode >= 0:
        return f"exit code {returncode}"
    try:
        return f"signal {signal.Signals(-returncode).name}"
    except ValueError:
        return f"signal {-returncode}"


def command_of(pid: int) -> str:
    """Return the command line of a process, empty if there is none of that number."""
    ps = shutil.which("ps")
    if ps is None:
        return ""
    command = [ps, "-ww", "-o", "command=", "-p", str(pid)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
