"""A run while it is open at Weights & Biases, and the directory of one that is fed offline."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from durabert.errors import OutputInUse
from durabert.trackers.wandb_rows import digest_of, rows_of, summary_of

if TYPE_CHECKING:
    from durabert.trackers.feed import Feed

NOTE: Final = "durabert.json"
"""In the directory of an offline run: for whom it is, and once it is whole, what it holds."""


@dataclass
class OfflineFile:
    """The directory of an offline run."""

    directory: Path
    note: dict[str, Any]

    @classmethod
    def read(cls, directory: Path) -> OfflineFile:
        """Return that of a directory; its note is empty if it has none that can be read."""
        try:
            found = json.loads((directory / NOTE).read_text())
        except (OSError, ValueError):
            found = {}
        return cls(directory, found if isinstance(found, dict) else {})

    @property
    def sent(self) -> bool:
        """Whether ``wandb sync`` has sent it.

        Raises:
            OutputInUse: it was sent before it was whole, so what W&B has of it is not known.
        """
        sent = any(self.directory.glob("*.wandb.synced"))
        if sent and "last" not in self.note:
            raise OutputInUse(
                f"{str(self.directory)!r} was sent to W&B before it was whole; delete it, and the run at W&B"
            )
        return sent

    def holds(self, feed: Feed) -> bool:
        """Return whether nothing has come since."""
        return self.note.get("sha256") == digest_of(feed)

    def write(self) -> None:
        """Write the note."""
        (self.directory / NOTE).write_text(json.dumps(self.note))


class Session:
    """A run that is open at W&B.

    Args:
        run: as its client knows it.
        file: what it is written to, if it is offline.
        passed: the last step that was in files that were sent.
        known: what the summary has already.
        replaced: number of values in the file that this one replaces.
    """

    def __init__(
        self,
        run: Any,
        *,
        file: OfflineFile | None = None,
        passed: int = 0,
        known: set[str],
        replaced: int = 0,
    ) -> None:
        self._run = run
        self._file = file
        # ``wandb sync`` counts the steps of a file on from those that the server has.
        self._offset = passed
        # Not ``run.step``, which is that of this client alone.
        self._next: int = passed + 1 if file is not None else run.starting_step
        self._known = known
        self._replaced = replaced
        self._values = 0
        self._feed: Feed | None = None

    def add(self, feed: Feed) -> int:
        """Add the rows of the steps that come next, and return the number of values that are new."""
        before = self._values
        for step, row in rows_of(feed).items():
            if step >= self._next:
                self._run.log(row, step=step - self._offset)
                self._next = step + 1
                self._values += len(row) - 1
        told = summary_of(feed)
        self._values += sum(name.startswith("test/") and name not in self._known for name in told)
        self._run.summary.update(told)
        self._known |= told.keys()
        self._feed = feed
        replaced, self._replaced = self._replaced, 0
        return max(0, self._values - before - replaced)

    def leave(self) -> None:
        """Let go of a run that goes on."""
        self._run.mark_preempting()
        self.end(1)

    def end(self, exit_code: int) -> None:
        """Close the run, when all is written or sent."""
        self._run.finish(exit_code=exit_code)
        if self._file is not None and self._feed is not None:
            self._file.note |= {
                "sha256": digest_of(self._feed),
                "values": self._values,
                "last": self._next - 1,
                "tested": sorted(name for name in self._known if name.startswith("test/")),
            }
            self._file.write()
