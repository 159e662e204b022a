"""Options that many commands have."""

from __future__ import annotations

from typing import Annotated

import typer

Profile = Annotated[
    str | None, typer.Option("--profile", help="Temporal connection profile; default: the embedded engine.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object a line instead of text.")]
