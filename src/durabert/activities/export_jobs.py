"""What exports inside the child process: model and store put together. No Temporal here."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from durabert.activities.engines import exported_model
from durabert.activities.jobs import ChildJob, finished_run, progress_to, stoppable
from durabert.bert.atomic import appearing
from durabert.bert.exporting import ExportFacts, export_hf
from durabert.bert.progress import Reporter
from durabert.errors import OutputInUse
from durabert.specs import ExportRequest, ExportResult, FineTuneResult
from durabert.store.objects import ObjectStore
from durabert.store.runs import RunStore

if TYPE_CHECKING:
    from durabert.supervisor import Channel


class ExportJob(ChildJob):
    """Everything the child needs to export."""

    request: ExportRequest
    """What the workflow asked for."""
    attempt: int
    """Number of the attempt from 1."""


@stoppable()
def export(payload: dict[str, Any], channel: Channel) -> dict[str, Any]:
    """Write the model of a finished run to a directory, whole or not at all."""
    job = ExportJob.model_validate(payload)
    began = time.perf_counter()
    request, progress = job.request, progress_to(channel)
    progress.phase("loading model")
    objects = job.objects()
    run = finished_run(objects, request.run, job.home)
    output = Path(request.output)
    there = _already_there(output, request, run)
    facts = there or _write(output, request, run, objects, job.home, progress)
    return ExportResult(
        run=run.run,
        format=facts.format,
        output=str(output),
        model_sha256=facts.model_sha256,
        onnx_sha256=facts.onnx_sha256,
        size=sum(file.stat().st_size for file in output.iterdir()),
        already_there=there is not None,
        parity=facts.parity,
        seconds=time.perf_counter() - began,
        attempts=job.attempt,
        notices=_notices(facts, run),
        versions=facts.versions,
    ).model_dump(mode="json")


def _already_there(output: Path, request: ExportRequest, run: FineTuneResult) -> ExportFacts | None:
    """Return what an export that is there already says of itself; None if there is room for one.

    Raises:
        OutputInUse: there is something else.
    """
    try:
        if not any(output.iterdir()):
            return None
    except FileNotFoundError:
        if not output.parent.is_dir():
            raise OutputInUse(
                f"output directory {str(output.parent)!r} does not exist; create it first"
            ) from None
        return None
    except NotADirectoryError:
        raise OutputInUse(f"output {str(output)!r} is a file, but should be a new directory") from None
    except PermissionError as error:
        raise OutputInUse(f"output {str(output)!r} cannot be read: {error.strerror}") from None
    facts = ExportFacts.read(output)
    if facts is not None and (facts.format, facts.model_sha256) == (request.format, run.model_sha256):
        return facts
    holds = "other files" if facts is None else f"the {facts.format} export of run {facts.run!r}"
    raise OutputInUse(f"output {str(output)!r} holds {holds}; choose a new or an empty directory")


def _write(
    output: Path,
    request: ExportRequest,
    run: FineTuneResult,
    objects: ObjectStore,
    home: Path,
    progress: Reporter,
) -> ExportFacts:
    made = None
    if request.format != "hf":
        made = exported_model(run, request.format, request.data, objects, home, progress)
    progress.phase("saving")
    try:
        with appearing(output) as partial:
            if made is None:
                partial.mkdir()
                return export_hf(RunStore(home).model_directory(run.run), partial, run=run.run)
            shutil.copytree(made, partial)
            facts = ExportFacts.read(partial)
            assert facts is not None
            return facts
    except PermissionError as error:
        raise OutputInUse(f"output {str(output)!r} cannot be written: {error.strerror}") from None


def _notices(facts: ExportFacts, run: FineTuneResult) -> list[str]:
    if facts.parity is None or facts.parity.data_sha256 == run.data_sha256:
        return []
    return ["it was compared on other rows than those that the run was validated with: the data differ"]
