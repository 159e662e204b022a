"""The fenced code blocks of the documentation, and the commands in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

FENCE = re.compile(r"```(?P<info>.*)")


@dataclass(frozen=True)
class Block:
    """One block; its fence says the language and what the tests need: ``file=NAME``, ``exit=2``."""

    page: Path
    line: int
    language: str
    options: dict[str, str]
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line} ({self.language})"


@dataclass(frozen=True)
class Command:
    """A line behind ``$``, and the output that the page shows below it."""

    line: str
    shown: list[str]


def blocks_of(page: Path) -> list[Block]:
    found: list[Block] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    start: int | None = None
    for number, line in enumerate(lines, start=1):
        if start is None and line.lstrip().startswith("```"):
            assert FENCE.fullmatch(line), f"{page.name}:{number}: a fence is not at the start of its line"
            start = number
        elif start is not None and line == "```":
            info = lines[start - 1].removeprefix("```").split()
            assert info, f"{page.name}:{start}: a block without a language"
            options = dict(option.split("=", 1) for option in info[1:])
            found.append(Block(page, start, info[0], options, "\n".join(lines[start : number - 1]) + "\n"))
            start = None
    assert start is None, f"{page.name}:{start}: a block that is not closed"
    return found


def commands_of(block: Block) -> list[Command]:
    found: list[Command] = []
    lines = block.text.replace("\\\n", " ").splitlines()
    for line in lines:
        if line.startswith("$ "):
            found.append(Command(line.removeprefix("$ "), []))
        elif line.strip():
            assert found, f"{block}: output before the first command: {line!r}"
            found[-1].shown.append(line)
    assert found, f"{block}: no command; one begins with '$ '"
    return found


def missing_line(shown: list[str], printed: str) -> str | None:
    """Return the first shown line that was not printed, in order; ``...`` stands for anything."""
    rest = [" ".join(line.split()) for line in printed.splitlines()]
    for line in shown:
        words = " ".join(line.split())
        pattern = re.compile(".*".join(re.escape(part) for part in words.split("...")))
        while rest and not pattern.fullmatch(rest[0]):
            rest.pop(0)
        if not rest:
            return line
        rest.pop(0)
    return None
