"""Who asks: written into what is started, for whoever looks at it later."""

from __future__ import annotations

import getpass
import os
import socket


def who() -> str:
    """Return user and host of this process."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        # In a container, a user may have a number alone.
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
