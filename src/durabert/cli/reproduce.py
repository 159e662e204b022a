"""``durabert reproduce``: a run again, from its recorded inputs, and where the two differ."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from durabert.cli.follow import exit_code, follow_experiment
from durabert.cli.output import print_json, put, say
from durabert.cli.render import print_outcome
from durabert.cli.train import announce_start
from durabert.cli.verify import table_of
from durabert.client import Client
from durabert.client.auditing import history_record
from durabert.client.naming import resolved
from durabert.contract import FINE_TUNING_WORKFLOW, PATTERNS
from durabert.engine import home_directory
from durabert.specs import checked_name, checked_run
from durabert.specs.base import RUN_SEPARATOR

if TYPE_CHECKING:
    from durabert.client import ExperimentView
    from durabert.specs import FineTuneResult
    from durabert.store.objects import ObjectStore

LONGEST = 94
"""Of the part of a new name that comes from the old one."""


def run(name: str, *, new_name: str | None, profile: str | None, as_json: bool) -> int:
    """Train again, compare, print, and return 1 if anything differs."""
    from durabert.store.objects import open_store

    name = checked_run(resolved(name, tell=say))
    new_name = checked_name(new_name or f"{name.replace(RUN_SEPARATOR, '-')[:LONGEST]}-again")
    objects = open_store(None, home=home_directory())
    result, view = asyncio.run(_again(objects, name, new_name, profile))
    if view is None:
        return 130
    second = view.runs[0].result
    if second is None:
        print_outcome(view, as_json=as_json)
        return exit_code(view)
    return _compare(objects, result, second, as_json=as_json)


async def _again(
    objects: ObjectStore, name: str, new_name: str, profile: str | None
) -> tuple[FineTuneResult, ExperimentView | None]:
    from durabert.activities.reproduction import again, differences_here, original

    async with Client.connect(profile=profile, on_starting=announce_start) as client:
        record = await history_record(client, name)
        result, asked = original(objects, name, record)
        if client.engine is None:
            say("Versions and hardware of the worker are compared when it has trained.")
        elif here := differences_here(result):
            say(f"The bits may differ, here is {'; '.join(here)}.")
        spec = again(result, asked, name=new_name)
        baseline = record is not None and record.workflow_type == FINE_TUNING_WORKFLOW
        pattern = next(one for one, kind in PATTERNS.items() if (kind == FINE_TUNING_WORKFLOW) is baseline)
        started = await client.start(spec, pattern=pattern)
        how = "joined it, nothing is trained twice" if started.joined else "training"
        say(f"{name} again as {new_name}: {how}.")
        return result, await follow_experiment(client, new_name)


def _compare(objects: ObjectStore, first: FineTuneResult, second: FineTuneResult, *, as_json: bool) -> int:
    from durabert.activities.reproduction import compared

    findings = list(compared(objects, first, second))
    different = [finding for finding in findings if finding.state == "different"]
    machines = _machines(first, second)
    if as_json:
        print_json(
            [
                {
                    "run": first.run,
                    "again": second.run,
                    "equal": not different,
                    "machines": machines,
                    "findings": [finding.model_dump() for finding in findings],
                }
            ]
        )
        return 1 if different else 0
    put(table_of(findings))
    for difference in machines:
        put(f"note: {difference}", style="yellow")
    if different:
        put(f"{second.run} differs from {first.run}: {', '.join(finding.subject for finding in different)}")
    else:
        put(f"{second.run} is equal to {first.run}")
    return 1 if different else 0


def _machines(first: FineTuneResult, second: FineTuneResult) -> list[str]:
    """Say what was not the same around the two."""
    pairs = [("device", first.device, second.device)]
    pairs += [("threads", str(first.num_threads), str(second.num_threads))]
    names = first.versions | second.versions
    pairs += [(name, first.versions.get(name, ""), second.versions.get(name, "")) for name in names]
    if first.lineage and second.lineage:
        ours, theirs = first.lineage, second.lineage
        pairs += [("code", ours.code_sha256[:12], theirs.code_sha256[:12])]
        pairs += [
            (name, ours.hardware.get(name, ""), theirs.hardware.get(name, ""))
            for name in ours.hardware | theirs.hardware
        ]
    return [f"{name} {one}, again {other}" for name, one, other in pairs if one != other]
