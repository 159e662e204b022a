"""``durabert train``: from options to a spec, and from a spec to an exit code."""

from __future__ import annotations

import asyncio
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from durabert.cli.follow import exit_code, follow_experiment
from durabert.cli.output import say
from durabert.cli.render import print_outcome
from durabert.cli.waiting import how_to_go_on
from durabert.client import Client
from durabert.client.locating import located
from durabert.client.starting import DEFAULT_PATTERN
from durabert.connection import explicit_profile
from durabert.contract import PATTERNS
from durabert.errors import SpecInvalid
from durabert.specs import CheckpointPolicy, CheckpointRef, ExperimentSpec, experiment_from_toml


@dataclass(frozen=True)
class Evaluation:
    """Options of ``bert_eval``, as they were typed."""

    seeds: str | None = None
    data: list[str] = field(default_factory=list)
    slice_by: list[str] = field(default_factory=list)
    max_concurrent: str | None = None

    def fields(self) -> dict[str, Any]:
        """Return the fields of an experiment that were given.

        Raises:
            SpecInvalid: there are slices without an evaluation set.
        """
        if self.slice_by and not self.data:
            raise SpecInvalid(f"--slice-by is {self.slice_by[0]!r}, but there is no --eval-data to slice")
        sets = [{"data": source, "slice_by": self.slice_by} for source in self.data]
        return given(
            {
                "seeds": None if self.seeds is None else [part.strip() for part in self.seeds.split(",")],
                "evaluations": sets or None,
                "max_concurrent": self.max_concurrent,
            }
        )


def given(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def assigned(assignments: list[str] | None, *, option: str) -> dict[str, Any]:
    """Parse ``FIELD=VALUE`` strings.

    Raises:
        SpecInvalid: one has no ``=``.
    """
    fields: dict[str, Any] = {}
    for assignment in assignments or []:
        field, separator, value = assignment.partition("=")
        if not separator or not field.strip():
            raise SpecInvalid(f"{option} {assignment!r} should be FIELD=VALUE")
        fields[field.strip().replace("-", "_")] = None if value.strip() == "none" else value.strip()
    return fields


def spec_from_options(
    data: str | None,
    *,
    name: str | None,
    config: Path | None,
    fields: dict[str, Any],
    data_fields: dict[str, Any],
    runs: list[dict[str, Any]],
    in_order: bool,
    start_from: str | None = None,
    checkpoint_every: str | None = None,
    evaluation: Evaluation = Evaluation(),
    reuse: bool | None = None,
    profile: str | None,
) -> ExperimentSpec:
    """Build an experiment from a TOML file, options, or both; options win.

    Raises:
        SpecInvalid: a field is unknown or out of range, or there is no data.
    """
    document = toml_document(config) if config else {}
    if not (data or document.get("data") or data_fields.get("source")):
        raise SpecInvalid("no data was given; name a file, a directory or a hub id: durabert train DATA")
    document |= (
        given({"name": name, "in_order": in_order or None, "runs": runs or None}) | evaluation.fields()
    )
    # Whoever types a command wants a model; whoever writes a spec of their own is asked for it.
    document = {"reuse": True} | document | given({"reuse": reuse})
    if start_from is not None:
        document["start_from"] = CheckpointRef.parse_text(start_from)
    if checkpoint_every is not None:
        policy = CheckpointPolicy.parse({"every_steps": checkpoint_every})
        if isinstance(given_policy := document.get("checkpoints", {}), dict):
            document["checkpoints"] = {**given_policy, "every_steps": policy.every_steps}
    spec = experiment_from_toml(
        {"name": "unnamed", **document}, data=data_fields | given({"source": data}), config=fields
    )
    spec = located(spec, here=explicit_profile(profile) is None)
    return spec if "name" in document else _named_by_content(spec)


def run(
    spec: ExperimentSpec, *, pattern: str | None, follow: bool, profile: str | None, as_json: bool
) -> int:
    """Start or join an experiment and, if wanted, follow it; return the exit code."""
    if pattern is not None and pattern not in PATTERNS:
        raise SpecInvalid(f"--pattern is {pattern!r}, but should be {' or '.join(PATTERNS)}")
    usual = "bert_eval" if spec.evaluations else DEFAULT_PATTERN
    return asyncio.run(_run(spec, pattern or usual, follow=follow, profile=profile, as_json=as_json))


async def _run(
    spec: ExperimentSpec, pattern: str, *, follow: bool, profile: str | None, as_json: bool
) -> int:
    async with Client.connect(profile=profile, worker=follow, on_starting=announce_start) as client:
        started = await client.start(spec, pattern=pattern)
        view = await client.status(spec.name)
        if started.joined:
            state = "is running" if view.ended is None else f"has already ended ({view.status})"
            say(f"Experiment {spec.name!r} {state} with the same spec; joined it, nothing is trained twice.")
        if not follow:
            say(f"Started {spec.name!r}. {how_to_go_on(client, spec.name)}")
            return 0
        followed = await follow_experiment(client, spec.name)
        if followed is None:
            return 130
    print_outcome(followed, as_json=as_json)
    return exit_code(followed)


def announce_start() -> None:
    """Say that an engine is being started, which takes a while."""
    say("Starting the embedded Temporal server ...")


def toml_document(path: Path) -> dict[str, Any]:
    """Return what a TOML file says.

    Raises:
        SpecInvalid: it cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecInvalid(f"the configuration {str(path)!r} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecInvalid(f"the configuration {str(path)!r} is not TOML: {error}") from None


def _named_by_content(spec: ExperimentSpec) -> ExperimentSpec:
    # The same command, typed again after a crash, joins the run that it started.
    return spec.model_copy(update={"name": name_by_content(spec.data.source, spec.digest())})


def name_by_content(source: str, digest: str) -> str:
    """Return a name for who gave none."""
    stem = re.sub(r"[^A-Za-z0-9]+", "-", Path(source).stem).strip("-")[:60] or "run"
    return f"{stem}-{digest[:8]}"
