"""What the command that starts a host tells it."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from durabert.engine.home import Home

WORKER_COMMAND: Final = (sys.executable, "-P", "-m", "durabert", "worker", "--drain-seconds", "0")
"""``-P``: a ``datasets.py`` in the user's directory must not replace the library of that name."""


@dataclass(frozen=True)
class Settings:
    """One host's home and what it runs there."""

    home: Home
    search_attributes: Mapping[str, str]
    """Name to type, ``{"DurabertExperiment": "Keyword"}``."""
    port: int | None = None
    """gRPC port; None for the one of the last time, else any."""
    ui_port: int | None = None
    """Port of Temporal Web; None as above."""
    worker_command: Sequence[str] = WORKER_COMMAND

    def as_json(self) -> str:
        """Return what ``parse`` turns into equal settings."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return json.dumps({**fields, "home": str(self.home.root)})

    @classmethod
    def parse(cls, text: str) -> Settings:
        """Return the settings that ``as_json`` wrote."""
        fields = json.loads(text)
        return cls(**{**fields, "home": Home(Path(fields["home"]))})
