"""Paths as the worker will see them, and what can be told of them before anything is started."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from durabert.errors import (
    DataInvalid,
    DataNotFound,
    ModelInvalid,
    ModelNotFound,
    OutputInUse,
    TextsInvalid,
)
from durabert.specs import (
    BatchInferenceRequest,
    DataSpec,
    EvaluationRequest,
    ExperimentSpec,
    ExportRequest,
    InferenceRequest,
    SweepSpec,
    TextsSpec,
)
from durabert.specs.data import SNAPSHOT_PREFIX
from durabert.specs.shards import is_directory

DATA_SUFFIXES: Final = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", ".arrow", ".feather")
OFFLINE_MODEL: Final = "minilm"
"""A known name, whatever is in the directory of the user."""


def located(spec: ExperimentSpec, *, here: bool) -> ExperimentSpec:
    """Make the paths of an experiment absolute: a worker runs in a directory of its own.

    Args:
        spec: may name files, directories and ids of the hub.
        here: the worker is on this machine, so that a missing file can be told at once.

    Raises:
        DataInvalid: a file is empty.
        DataNotFound: a file is not there.
        ModelInvalid: the model is a file.
        ModelNotFound: the directory of a model is not there.
    """
    runs = tuple(
        config.model_copy(update={"model": located_model(config.model, here=here)}) for config in spec.runs
    )
    evaluations = tuple(
        one if one.data is None else one.model_copy(update={"data": located_data(one.data, here=here)})
        for one in spec.evaluations
    )
    data = located_data(spec.data, here=here)
    return spec.model_copy(update={"data": data, "runs": runs, "evaluations": evaluations})


def located_sweep(spec: SweepSpec, *, here: bool) -> SweepSpec:
    """Make the paths of a sweep absolute, those of models that it searches, too, as ``located`` does."""
    space = dict(spec.space)
    if "model" in space and space["model"].choice is not None:
        models = tuple(located_model(str(model), here=here) for model in space["model"].choice)
        space["model"] = space["model"].model_copy(update={"choice": models})
    model = located_model(spec.config.model, here=here)
    return spec.model_copy(
        update={
            "data": located_data(spec.data, here=here),
            "config": spec.config.model_copy(update={"model": model}),
            "space": space,
        }
    )


def located_data(data: DataSpec, *, here: bool) -> DataSpec:
    """Make the paths of a data set absolute, as ``located`` does."""
    paths = {name: getattr(data, name) for name in ("source", "validation", "test")}
    found = {name: _data(name, path, here=here) for name, path in paths.items() if path is not None}
    return data.model_copy(update=found)


def located_request(request: InferenceRequest, *, here: bool) -> InferenceRequest:
    """Make the paths of a prediction absolute.

    Args:
        request: may name an input and an output file.
        here: the worker is on this machine, so that a missing file can be told at once.

    Raises:
        DataInvalid: the input is empty or a directory.
        DataNotFound: the input is not there.
        TextsInvalid: the output cannot be written there.
    """
    if request.input is None or request.output is None:
        return request
    output = _absolute(request.output)
    texts = _texts(request.input, here=here)
    if here:
        _require_place(output, Path(texts.path))
    return request.model_copy(update={"input": texts, "output": str(output)})


def located_batch(request: BatchInferenceRequest, *, here: bool) -> BatchInferenceRequest:
    """Make the paths of a batch absolute; a URL stays as it is, without a slash at its end.

    Args:
        request: its output is a directory or a URL.
        here: the worker is on this machine, so that a missing file can be told at once.

    Raises:
        DataInvalid: the input is empty or a directory.
        DataNotFound: the input is not there.
        TextsInvalid: the output is a file, or cannot be made there.
    """
    texts = _texts(request.input, here=here)
    if "://" in request.output:
        scheme, _, rest = request.output.partition("://")
        return request.model_copy(update={"input": texts, "output": f"{scheme}://{rest.rstrip('/')}"})
    output = _absolute(request.output)
    if here:
        _require_directory(output)
    # A path with a suffix would be taken for a file's.
    named = str(output) if is_directory(str(output)) else f"{output}/"
    return request.model_copy(update={"input": texts, "output": named})


def _texts(texts: TextsSpec, *, here: bool) -> TextsSpec:
    if texts.path.startswith(SNAPSHOT_PREFIX):
        return texts
    source = _absolute(texts.path)
    if here:
        if not _exists(source):
            raise DataNotFound(f"there is no file {texts.path!r} to predict for")
        if source.is_dir():
            raise DataInvalid(f"{source} is a directory, but a file was expected")
        _require_content(source)
    return texts.model_copy(update={"path": str(source)})


def _require_directory(output: Path) -> None:
    if _exists(output):
        if not output.is_dir():
            raise TextsInvalid(f"output {str(output)!r} is a file, but should be a directory")
        place = output
    elif not output.parent.is_dir():
        raise TextsInvalid(f"output directory {str(output.parent)!r} does not exist; create it first")
    else:
        place = output.parent
    if not os.access(place, os.W_OK | os.X_OK):
        raise TextsInvalid(f"output {str(output)!r} cannot be written: Permission denied")


def located_evaluation(request: EvaluationRequest, *, here: bool) -> EvaluationRequest:
    """Make the paths of the data of an evaluation absolute.

    Args:
        request: its data may name files.
        here: the worker is on this machine, so that a missing file can be told at once.

    Raises:
        DataInvalid: a file is empty.
        DataNotFound: a file is not there.
    """
    return request.model_copy(update={"data": located_data(request.data, here=here)})


def located_export(request: ExportRequest, *, here: bool) -> ExportRequest:
    """Make the paths of an export absolute.

    Args:
        request: names a directory to write, and may name data.
        here: the worker is on this machine, so that what cannot be can be told at once.

    Raises:
        DataNotFound: the data are not there.
        OutputInUse: the output is a file, or would lie in a directory that is not there.
    """
    output = _absolute(request.output)
    if here and output.is_file():
        raise OutputInUse(f"output {str(output)!r} is a file, but should be a new directory")
    if here and not output.parent.is_dir():
        raise OutputInUse(f"output directory {str(output.parent)!r} does not exist; create it first")
    data = None if request.data is None else located_data(request.data, here=here)
    return request.model_copy(update={"output": str(output), "data": data})


def _data(field: str, value: str, *, here: bool) -> str:
    if value.startswith(SNAPSHOT_PREFIX):
        return value
    path = _absolute(value)
    if _exists(path):
        if here:
            _require_content(path)
        return str(path)
    if here and (field != "source" or _no_hub_id(value)):
        role = "" if field == "source" else f" for the {field} rows"
        raise DataNotFound(f"there is no file or directory {_shown(value)}{role}")
    return value


def located_model(name: str, *, here: bool) -> str:
    """Make the path of a model absolute; a known name or a hub id stays as it is."""
    path = _absolute(name)
    if name == OFFLINE_MODEL or not _exists(path):
        if here and name.startswith(("/", ".", "~")):
            raise ModelNotFound(f"there is no model directory {_shown(name)}")
        return name
    if here and not path.is_dir():
        raise ModelInvalid(f"model {name!r} is a file; expected a directory with config.json and weights")
    return str(path)


def _absolute(value: str) -> Path:
    try:
        return Path(value).expanduser().resolve()
    except (OSError, RuntimeError, ValueError):
        # A loop of links, no such user, a NUL byte: it is not there, which the caller finds out.
        return Path(value)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        # A name that is too long, or a directory that is closed to the user.
        return False


def _require_content(path: Path) -> None:
    if path.is_file() and not path.stat().st_size:
        raise DataInvalid(f"{path} is empty; at least one row was expected")


def _require_place(output: Path, source: Path) -> None:
    if output.is_dir():
        raise TextsInvalid(f"output {str(output)!r} is a directory, but should be a file")
    if not output.parent.is_dir():
        raise TextsInvalid(f"output directory {str(output.parent)!r} does not exist; create it first")
    if output == source:
        raise TextsInvalid(f"output {str(output)!r} is the input file, which would be lost")


def _no_hub_id(value: str) -> bool:
    return value.startswith(("/", ".", "~")) or value.lower().endswith(DATA_SUFFIXES)


def _shown(value: str) -> str:
    return repr(value if len(value) <= 200 else f"{value[:197]}...")
