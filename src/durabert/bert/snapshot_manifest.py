"""The manifest of a snapshot: what it holds, checked before it is believed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError

from durabert.errors import ArtifactDamaged

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
_SAFE: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,150}", re.ASCII)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("a string was expected")  # noqa: TRY004 - pydantic turns it into its own error
    return value


Text = Annotated[str, PlainValidator(_text)]
"""Any string: names of files and columns may hold half a surrogate pair, which pydantic refuses."""


class _Part(BaseModel):
    # What a store gave is not trusted: nothing is converted, and nothing unknown is passed over.
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class ColumnManifest(_Part):
    """One column of a split."""

    name: Text
    field: Text
    """Its name in the Parquet file, which cannot hold every name."""
    type: Text
    """Arrow type, or ``json``."""


class SplitManifest(_Part):
    """One split; its rows are in the file of ``file_of``."""

    rows: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """Of its content, as the id knows it; not of the file."""
    source: Text
    """The file, as the user named it."""
    unit: Literal["line", "row"]
    typed: bool
    columns: list[ColumnManifest]
    notices: list[Text]


class Manifest(_Part):
    """What ``manifest.json`` says."""

    format: Literal[1]
    id: str = Field(pattern="^[0-9a-f]{64}$")
    name: Text
    class_names: dict[Text, list[Text]]
    notices: list[Text]
    splits: dict[str, SplitManifest]


def read_manifest(directory: Path) -> Manifest:
    """Return the manifest in a directory.

    Raises:
        ArtifactDamaged: it cannot be read or believed.
    """
    try:
        data = (directory / MANIFEST).read_bytes()
    except OSError as error:
        raise damaged(directory, f"its manifest cannot be read: {error.strerror}") from None
    return parse_manifest(data, directory)


def parse_manifest(data: bytes, directory: Path) -> Manifest:
    """Return the manifest that is the content of a file.

    Args:
        data: the content.
        directory: its name is the id of the snapshot, for messages.

    Raises:
        ArtifactDamaged: it cannot be believed.
    """
    try:
        manifest = Manifest.model_validate(json.loads(data))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or "it"
        raise damaged(directory, f"{where!r:.120}: {first['msg'].lower()}") from None
    except (ValueError, RecursionError) as error:
        raise damaged(directory, f"its manifest is no JSON: {error}") from None
    if "train" not in manifest.splits:
        raise damaged(directory, "it has no split 'train'")
    for name, split in manifest.splits.items():
        if len({column.name for column in split.columns}) < len(split.columns):
            raise damaged(directory, f"the split {name!r:.80} has a column twice")
    digests = {name: split.sha256 for name, split in manifest.splits.items()}
    if manifest.id != content_id(manifest.class_names, digests):
        raise damaged(directory, "its id is not that of what the manifest says")
    return manifest


def file_of(split: str) -> str:
    """Return the name of the file of a split, which is a safe one, whatever the split is called."""
    digest = hashlib.sha256(split.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{split}.parquet" if _SAFE.fullmatch(split) else f"split-{digest[:16]}.parquet"


def content_id(class_names: Mapping[str, Sequence[str]], splits: Mapping[str, str]) -> str:
    """Return the id: a function of the names of the classes and the digests of the splits."""
    told = {"format": FORMAT, "class_names": class_names, "splits": splits}
    return hashlib.sha256(canonical_json(told)).hexdigest()


def damaged(directory: Path, reason: str) -> ArtifactDamaged:
    """Return the error of a snapshot in a directory, which is named by its id."""
    return ArtifactDamaged(f"snapshot {directory.name[:12]} is damaged: {reason}")


def canonical_json(value: Any) -> bytes:
    """Return the one text of a value, in ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
