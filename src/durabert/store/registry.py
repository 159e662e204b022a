"""The registry in a store: versions and moves of aliases, each one object that is created and never changed.

::

    registry/<name>/<version>.json             a version: which run, which weights
    registry/<name>/@<alias>/<number>.json     a move of an alias; the newest says what it names
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, TypeVar

from pydantic import ValidationError

from durabert.errors import ArtifactDamaged, ModelNotRegistered
from durabert.faults import reach
from durabert.specs import FineTuneResult, Wire
from durabert.specs.registry import AliasMove, ModelRef, RegistryRequest, RegistryVersion
from durabert.store.objects import ObjectExists, ObjectMissing, ObjectStore

ROOT: Final = "registry"
_FILE: Final = re.compile(r"([1-9][0-9]*)\.json")
Entry = TypeVar("Entry", bound=Wire)


class Registry:
    """The models of a store that were promoted."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    def names(self) -> list[str]:
        """Return the names that have a version."""
        parts = (info.path.split("/") for info in self._objects.list(ROOT))
        return sorted({part[1] for part in parts if len(part) == 3 and _FILE.fullmatch(part[2])})

    def versions(self, name: str) -> list[RegistryVersion]:
        """Return the versions of a name, the first one first."""
        return [self._version(name, number) for number in self._numbers(f"{ROOT}/{name}")]

    def moves(self, name: str) -> list[AliasMove]:
        """Return how the aliases of a name were moved, in order of time."""
        found = [
            self._read(info.path, AliasMove)
            for info in self._objects.list(f"{ROOT}/{name}")
            if info.path.startswith(f"{ROOT}/{name}/@")
        ]
        return sorted(found, key=lambda move: (move.at, move.alias, move.number))

    def aliases(self, name: str) -> dict[str, int]:
        """Return which version each alias names now."""
        moves = sorted(self.moves(name), key=lambda move: move.number)
        return {move.alias: move.version for move in moves}

    def find(self, ref: ModelRef) -> RegistryVersion:
        """Return the version that a reference names.

        Raises:
            ModelNotRegistered: there is no such name, alias or version.
        """
        known = self._numbers(f"{ROOT}/{ref.name}")
        if not known:
            raise ModelNotRegistered(str(ref), reason=f"the registry has no model {ref.name!r}")
        if ref.alias is None:
            if ref.version not in known:
                raise ModelNotRegistered(str(ref), reason=f"its newest version is {known[-1]}")
            return self._version(ref.name, ref.version)
        move = self.last_move(ref.name, ref.alias)
        if move is None:
            names = ", ".join(sorted(self.aliases(ref.name))) or "none"
            raise ModelNotRegistered(str(ref), reason=f"its aliases are {names}")
        return self._version(ref.name, move.version)

    def last_move(self, name: str, alias: str) -> AliasMove | None:
        """Return the move that says what an alias names now; None: there was none."""
        numbers = self._numbers(f"{ROOT}/{name}/@{alias}")
        return self._read(f"{ROOT}/{name}/@{alias}/{numbers[-1]}.json", AliasMove) if numbers else None

    def register(self, request: RegistryRequest, run: FineTuneResult) -> tuple[RegistryVersion, AliasMove]:
        """Make a run a version, unless it is one, and let the alias name it.

        Of two who do so at once, each gets a version of its own. Done twice by the same execution, it is done
        once.

        Raises:
            StoreUnavailable: the store does not answer; asked again, it goes on where it was.
        """
        version = self._registered(request, run)
        reach("registry.version")
        return version, self._moved(request, version.version)

    def _registered(self, request: RegistryRequest, run: FineTuneResult) -> RegistryVersion:
        name = request.promotion.name
        for known in self.versions(name):
            if (known.run, known.model_sha256) == (run.run, run.model_sha256):
                return known

        def version(number: int) -> RegistryVersion:
            return RegistryVersion(
                name=name,
                version=number,
                run=run.run,
                model_sha256=run.model_sha256,
                metric=run.metric,
                metrics=run.metrics,
                created=_now(),
                execution=request.execution,
            )

        return self._created(f"{ROOT}/{name}", version)

    def _moved(self, request: RegistryRequest, version: int) -> AliasMove:
        asked = request.promotion
        last = self.last_move(asked.name, asked.alias)
        if last is not None and last.execution == request.execution:
            return last

        def move(number: int) -> AliasMove:
            return AliasMove(
                name=asked.name,
                alias=asked.alias,
                number=number,
                version=version,
                at=_now(),
                by=asked.requested_by,
                gates=request.check.gates,
                decision=request.decision,
                execution=request.execution,
            )

        return self._created(f"{ROOT}/{asked.name}/@{asked.alias}", move)

    def _created(self, directory: str, entry: Callable[[int], Entry]) -> Entry:
        number = (self._numbers(directory) or [0])[-1] + 1
        while True:
            made = entry(number)
            try:
                self._objects.create(f"{directory}/{number}.json", made.model_dump_json(indent=1).encode())
            except ObjectExists:
                # Somebody else was faster.
                number += 1
            else:
                return made

    def _version(self, name: str, number: int) -> RegistryVersion:
        return self._read(f"{ROOT}/{name}/{number}.json", RegistryVersion)

    def _numbers(self, directory: str) -> list[int]:
        names = (info.path.removeprefix(f"{directory}/") for info in self._objects.list(directory))
        return sorted(int(match[1]) for name in names if (match := _FILE.fullmatch(name)))

    def _read(self, path: str, kind: type[Entry]) -> Entry:
        try:
            return kind.model_validate_json(self._objects.read(path), extra="ignore")
        except ObjectMissing:
            raise ArtifactDamaged(f"{path} is missing in the store {self._objects.url}") from None
        except ValidationError as error:
            raise ArtifactDamaged(f"{path} cannot be read: {error.errors()[0]['msg']}") from None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
