"""docs/demo.svg: ``python -m benchmarks.terminal_picture`` runs ``durabert demo`` and draws its last screen.

The command runs in a terminal of its own, in an empty home directory. The drawing holds what is on the screen
at the end; the path of that directory is shown as ``~``.
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

PICTURE = Path(__file__).parents[1] / "docs" / "demo.svg"
COLUMNS, ROWS = 116, 50
CONTROL = re.compile(r"\x1b\[(?P<parameters>[0-9;?]*)(?P<action>[A-Za-z])|\r?\n|\r")


def record(command: list[str], directory: Path) -> str:
    """Run a command in a terminal and return all that it wrote there."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TEMPORAL_")}
    environment |= {"TERM": "xterm-256color", "DURABERT_HOME": str(directory / ".durabert")}
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=directory, env=environment
    ) as process:
        os.close(theirs)
        written = read_all(ours)
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}: {written}")
    return written


def read_all(descriptor: int) -> str:
    chunks = []
    while True:
        try:
            chunk = os.read(descriptor, 65_536)
        except OSError as error:
            # Linux says so when nobody has the other end open any more.
            if error.errno != errno.EIO:
                raise
            chunk = b""
        if not chunk:
            os.close(descriptor)
            return b"".join(chunks).decode()
        chunks.append(chunk)


def last_screen(written: str) -> list[str]:
    """Return the lines on the screen at the end, with their colours.

    Rich redraws by going up and erasing whole lines; anything else is refused.
    """
    lines, row, position = [""], 0, 0
    for control in CONTROL.finditer(written):
        lines[row] += written[position : control.start()]
        position = control.end()
        count = int(control["parameters"] or 1) if (control["parameters"] or "1").isdigit() else 1
        match control["action"]:
            case None if control[0].endswith("\n"):
                row += 1
                lines += [""] * (row + 1 - len(lines))
            case "m":
                lines[row] += control[0]
            case "A":
                row -= count
            case "K":
                lines[row] = ""
            case None | "h" | "l":
                pass  # a lone return before an erasure; hiding the cursor
            case other:
                raise ValueError(f"the command wrote the control sequence {control[0]!r} ({other})")
    lines[row] += written[position:]
    return lines


def draw(command: str, lines: list[str]) -> str:
    """Return an SVG of the command and its output."""
    while lines and not Text.from_ansi(lines[-1]).plain.strip():
        lines.pop()
    console = Console(
        record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, legacy_windows=False
    )
    console.print(Text.assemble(("$ ", "bold green"), (command, "bold")))
    # The frame cuts the last line short.
    for line in [*lines, ""]:
        text = Text.from_ansi(line.rstrip())
        # Some viewers drop blanks at the beginning of a piece of text; these are a piece of their own.
        text.stylize("dim", 0, len(text.plain) - len(text.plain.lstrip()))
        console.print(text, no_wrap=True, crop=True)
    drawn = console.export_svg(title="durabert", theme=MONOKAI, unique_id="durabert-demo")
    return "".join(f"{line.rstrip()}\n" for line in drawn.splitlines())


def main() -> None:
    command = sys.argv[1:] or ["durabert", "demo"]
    with tempfile.TemporaryDirectory(prefix="durabert-") as directory:
        home = Path(directory).resolve()
        written = record([str(Path(sys.executable).parent / command[0]), *command[1:]], home)
        lines = [line.replace(str(home), "~") for line in last_screen(written)]
    PICTURE.write_text(draw(" ".join(command), lines), encoding="utf-8")
    sys.stderr.write(f"{PICTURE}\n")


if __name__ == "__main__":
    main()
