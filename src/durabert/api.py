"""The friendly functions: blocking, usable in a script or a notebook, no knowledge of Temporal needed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

from durabert.client import Client
from durabert.client.locating import located, located_evaluation
from durabert.client.naming import resolved
from durabert.client.starting import DEFAULT_PATTERN
from durabert.connection import explicit_profile
from durabert.errors import DurabertError, RunCancelled, TextsInvalid
from durabert.specs import (
    CheckpointRef,
    DataSpec,
    EvaluationRequest,
    EvaluationResult,
    ExperimentSpec,
    FineTuneConfig,
    FineTuneResult,
    InferenceRequest,
    Prediction,
    checked_name,
)

Value = TypeVar("Value")


def fine_tune(
    data: str | Path | DataSpec,
    *,
    name: str,
    profile: str | None = None,
    pattern: str = DEFAULT_PATTERN,
    start_from: str | None = None,
    reuse: bool = True,
    **config: Any,
) -> FineTuneResult:
    """Fine-tune one model durably and return its result.

    Called again with the same arguments, also after a crash, it joins the run instead of training twice.

    Args:
        data: file, directory or hub id, or a ``DataSpec`` that says more.
        name: name of the run.
        profile: Temporal connection profile; default: the embedded engine.
        pattern: ``bert_checkpointing``, or ``bert_finetune``, which makes no checkpoints.
        start_from: go on from a checkpoint of another run, ``RUN`` or ``RUN@STEP``.
        reuse: link a run that was trained on the same inputs before, under another name.
        **config: fields of ``FineTuneConfig``, such as ``model``, ``epochs`` or ``learning_rate``.

    Raises:
        UserError: something about the arguments, the data or the model is wrong.
        RunFailed: training failed for good, or was cancelled.
    """
    checked_name(name)
    parent = None if start_from is None else CheckpointRef.parse_text(start_from)
    runs = (FineTuneConfig.parse(config),)
    spec = ExperimentSpec(name=name, data=_data_spec(data), runs=runs, start_from=parent, reuse=reuse)
    spec = located(spec, here=explicit_profile(profile) is None)
    return _blocking(_fine_tune(spec, pattern, profile))


def predict(
    run: str, texts: Sequence[str] | Sequence[tuple[str, str]], *, profile: str | None = None
) -> list[Prediction]:
    """Predict with the model of a finished run, one prediction a text.

    Args:
        run: name of the run, or ``NAME@ALIAS`` or ``NAME@3`` of the registry.
        texts: a few texts, or pairs of texts for a pair task.
        profile: Temporal connection profile; default: the embedded engine.

    Raises:
        UserError: no such run, no model, or no texts.
    """
    if isinstance(texts, str):
        raise TextsInvalid(f"texts is {texts[:80]!r}, but should be a list of texts")
    request = InferenceRequest.parse({"run": resolved(run), "texts": list(texts)})
    return _blocking(_predict(request, profile))


def evaluate(
    run: str, data: str | Path | DataSpec, *, profile: str | None = None, **options: Any
) -> EvaluationResult:
    """Evaluate a finished run on labelled rows and return metrics, intervals and slices.

    The same evaluation is made once; asked for again, it is found in the store.

    Args:
        run: name of the run, or ``NAME@ALIAS`` or ``NAME@3`` of the registry.
        data: file, directory, hub id or ``snapshot:ID/SPLIT``, or a ``DataSpec`` that says more.
        profile: Temporal connection profile; default: the embedded engine.
        **options: fields of ``EvaluationOptions``, such as ``split``, ``slice_by`` or ``metrics``.

    Raises:
        UserError: no such run, no model, or data that do not fit it.
    """
    fields = {"run": resolved(run), "data": _data_spec(data)}
    request = EvaluationRequest.parse({**options, **fields})
    request = located_evaluation(request, here=explicit_profile(profile) is None)
    return _blocking(_evaluate(request, profile))


def _data_spec(data: str | Path | DataSpec) -> DataSpec:
    return data if isinstance(data, DataSpec) else DataSpec.parse({"source": str(data)})


async def _fine_tune(spec: ExperimentSpec, pattern: str, profile: str | None) -> FineTuneResult:
    async with Client.connect(profile=profile) as client:
        await client.start(spec, pattern=pattern)
        view = (await client.wait(spec.name)).runs[0]
    if view.result is not None:
        return view.result
    if view.error is not None:
        raise DurabertError.restored(view.error.type, view.error.message)
    raise RunCancelled(f"run {view.run!r} was cancelled")


async def _predict(request: InferenceRequest, profile: str | None) -> list[Prediction]:
    async with Client.connect(profile=profile) as client:
        return (await client.predict(request)).predictions


async def _evaluate(request: EvaluationRequest, profile: str | None) -> EvaluationResult:
    async with Client.connect(profile=profile) as client:
        return await client.evaluate(request)


def _blocking(work: Coroutine[Any, Any, Value]) -> Value:
    """Run a coroutine to its end, also where an event loop is running already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    outcome: list[Value | BaseException] = []

    def target() -> None:
        try:
            outcome.append(asyncio.run(work))
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=target, name="durabert")
    thread.start()
    thread.join()
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]
