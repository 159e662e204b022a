"""Help texts in docs/cli.md: ``python -m tests.docs.help_pages`` writes them anew."""

from __future__ import annotations

import re
from pathlib import Path

from typer.testing import CliRunner

from durabert.cli.app import app
from tests.docs.blocks import ROOT

PAGE = ROOT / "docs" / "cli.md"
HELP_BLOCK = re.compile(
    r"(?P<fence>```text help=(?P<command>\S+)\n).*?(?P<end>^```$)", re.DOTALL | re.MULTILINE
)


def help_of(command: str) -> str:
    """Return what a command prints for ``--help``; ``durabert`` is the command without a name."""
    arguments = ["--help"] if command == "durabert" else [command, "--help"]
    printed = CliRunner().invoke(app, arguments, prog_name="durabert", env={"COLUMNS": "80"})
    assert printed.exit_code == 0, printed.output
    return "\n".join(line.rstrip() for line in printed.output.splitlines()) + "\n"


def with_help(page: str) -> str:
    return HELP_BLOCK.sub(lambda found: found["fence"] + help_of(found["command"]) + found["end"], page)


def main(page: Path = PAGE) -> None:
    page.write_text(with_help(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
