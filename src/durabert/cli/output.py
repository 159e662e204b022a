"""Where lines go: results to stdout, all else to stderr; light enough for what only prints a help text."""

from __future__ import annotations

import io
import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.table import Table


def put(result: Table | str, *, style: str | None = None) -> None:
    """Print a result; into a file or a pipe unfolded, plain and without trailing blanks."""
    from rich.console import Console

    folded = not isinstance(result, str)
    # Texts and messages may hold brackets, which rich would take for its markup.
    if sys.stdout.isatty():
        Console(markup=False, highlight=False).print(result, style=style, soft_wrap=not folded)
        return
    plain = Console(markup=False, highlight=False, width=200, file=io.StringIO())
    with plain.capture() as captured:
        plain.print(result, soft_wrap=not folded)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def say(sentence: str) -> None:
    """Tell the user something on stderr, so that stdout holds results alone."""
    sys.stderr.write(sentence + "\n")
    sys.stderr.flush()


def print_json(objects: Iterable[dict[str, Any]]) -> None:
    """Print one JSON object a line."""
    for document in objects:
        sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")
