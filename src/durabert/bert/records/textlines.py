"""Lines of text files, with their encoding checked."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from durabert.errors import DataInvalid, SpecInvalid


@dataclass(frozen=True)
class TextLines:
    """The lines of a text file with their ends; a byte-order mark is dropped."""

    path: Path
    encoding: str

    def __post_init__(self) -> None:
        try:
            "".encode(self.encoding)
        except (LookupError, ValueError):
            raise SpecInvalid(
                f"encoding is {self.encoding!r}, but should be the name of a text encoding "
                "such as 'utf-8' or 'latin-1'"
            ) from None

    def __iter__(self) -> Iterator[str]:
        """Yield lines.

        Raises:
            DataInvalid: a byte does not fit the encoding, or a line has a NUL byte.
        """
        with self.path.open("rb") as raw:
            if raw.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
                raw.seek(0)
            lines = io.TextIOWrapper(raw, encoding=self.encoding, newline="")
            try:
                yield from self._checked(lines)
            except UnicodeDecodeError as error:
                raise self._undecodable(error) from None
            except UnicodeError as error:
                raise DataInvalid(f"{self.path} cannot be read as {self.encoding} ({error})") from None

    def _checked(self, lines: io.TextIOWrapper) -> Iterator[str]:
        for number, line in enumerate(lines, start=1):
            if "\0" in line:
                raise DataInvalid(
                    f"{self.path}: line {number} has a NUL byte; a text file in {self.encoding} was expected"
                )
            yield line.removeprefix("\ufeff") if number == 1 else line

    def _undecodable(self, error: UnicodeDecodeError) -> DataInvalid:
        number, byte = self._first_undecodable() or (None, error.object[error.start])
        where = f"line {number} has" if number else "it has"
        advice = "save it as UTF-8 or set encoding to the one it was written in"
        if codecs.lookup(self.encoding).name == "utf-8":
            advice += ', such as encoding = "latin-1"'
        return DataInvalid(
            f"{self.path}: {where} the byte 0x{byte:02x}, which is not {self.encoding}; {advice}"
        )

    def _first_undecodable(self) -> tuple[int, int] | None:
        # A decoder reads in blocks and does not know lines: read again, counting them.
        decoder = codecs.getincrementaldecoder(self.encoding)()
        number = 1
        with self.path.open("rb") as raw:
            more = True
            while more:
                block = raw.read(1 << 16)
                more = bool(block)
                try:
                    number += decoder.decode(block, final=not more).count("\n")
                except UnicodeDecodeError as error:
                    before = error.object[: error.start].decode(self.encoding, "replace")
                    return number + before.count("\n"), error.object[error.start]
        return None
