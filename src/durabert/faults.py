"""Places where a test or ``durabert chaos`` can break a process on purpose; in production each is a no-op.

``DURABERT_FAULTS`` holds faults as JSON, ``[{"at": "journal.append", "nth": 2, "do": "kill", "mark": F}]``:
the second time that the process reaches the place, it kills itself. ``when`` names a detail, such as a step,
without which nothing happens. A fault whose mark exists already does
nothing: it strikes once, however many processes there are, and the mark proves that it struck.
"""

from __future__ import annotations

import errno
import json
import os
import signal
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any, Final

VARIABLE: Final = "DURABERT_FAULTS"

_reached: Counter[str] = Counter()


def reach(place: str, detail: object = "") -> None:
    """Say that the process is at a place; a fault that strikes there writes the detail into its mark.

    Raises:
        OSError: the fault ``enospc`` strikes here.
        MemoryError: the fault ``oom`` strikes here.
    """
    faults = _faults(os.environ.get(VARIABLE, ""))
    if not faults:
        return
    _reached[place] += 1
    for fault in faults:
        if _hits(fault, place, detail):
            _strike(fault["do"])


def strikes(place: str, detail: object = "") -> bool:
    """Say that the process is at a place whose fault the caller performs, and return whether to."""
    faults = _faults(os.environ.get(VARIABLE, ""))
    if not faults:
        return False
    _reached[place] += 1
    return any(_hits(fault, place, detail) for fault in faults)


def _hits(fault: dict[str, Any], place: str, detail: object) -> bool:
    return (
        fault["at"] == place
        and _reached[place] >= fault.get("nth", 1)
        and fault.get("when", str(detail)) == str(detail)
        and _first(fault, detail)
    )


@cache
def _faults(text: str) -> list[dict[str, Any]]:
    return json.loads(text) if text else []


def _first(fault: dict[str, Any], detail: object) -> bool:
    # A mark with a number of times allows that many strikes.
    times = fault.get("times", 1)
    for number in range(times):
        try:
            mark = os.open(Path(f"{fault['mark']}.{number}"), os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            continue
        os.write(mark, str(detail).encode())
        os.close(mark)
        return True
    return False


def _strike(what: str) -> None:
    match what:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "hold":
            # Until the parent says stop, or somebody kills the process.
            signal.pause()
        case "enospc":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        case "oom":
            raise MemoryError("injected: out of memory")
