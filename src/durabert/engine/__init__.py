"""The embedded Temporal server: shared by the commands of one home directory, started on demand.

A detached host process runs ``temporal server start-dev`` and, while a command wants it, one worker. It
leaves when no command holds a lease any more. ``start`` explains how commands and host meet without races.
"""

from __future__ import annotations

from durabert.engine.attach import Engine, serve
from durabert.engine.home import EngineInfo, Home, home_directory
from durabert.engine.start import running

__all__ = ["Engine", "EngineInfo", "Home", "home_directory", "running", "serve"]
