"""``durabert``, and ``python -m durabert``: the command line in a process of its own."""

from __future__ import annotations

import sys
from typing import NoReturn

from durabert.cli.app import main
from durabert.leaving import leave


def run() -> NoReturn:
    """Run the command line and end the process."""
    code = 0
    try:
        main()
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else 0
    except BaseException:
        # A bug. As the interpreter itself would tell it.
        sys.excepthook(*sys.exc_info())
        code = 1
    leave(code)


if __name__ == "__main__":
    run()
