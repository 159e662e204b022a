"""A trained model as a directory for other tools: copied, or as ONNX behind the gate."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from pydantic import ValidationError

from durabert.bert.atomic import disk_full
from durabert.bert.batches import PaddedLayout
from durabert.bert.card import FACTS, ModelFacts, versions
from durabert.bert.data import TrainingData
from durabert.bert.loss import label_array
from durabert.bert.model import load_classifier
from durabert.bert.onnx_engine import OnnxEngine
from durabert.bert.onnx_export import onnx_versions, quantize, require_onnx, write_onnx
from durabert.bert.parity import compare, require_parity
from durabert.bert.predict import Predictor
from durabert.bert.progress import Reporter
from durabert.bert.quiet import quiet_libraries
from durabert.bert.scoring import Scorer
from durabert.bert.tokens import load_tokenizer
from durabert.bert.weights import INDEX, check_weights, stored_sha256
from durabert.errors import LabelsInvalid, ModelInvalid
from durabert.specs import ExportFormat, OnnxFormat, ParityReport

ONNX_FILE: Final = "model.onnx"
_CARD: Final = "README.md"


@dataclass(frozen=True)
class ExportFacts:
    """What an exported directory is, beside what ``ModelFacts`` says."""

    run: str
    format: ExportFormat
    model_sha256: str
    onnx_sha256: str | None
    """Digest of the ONNX file; of it and its weights, where those are in a second one."""
    parity: ParityReport | None
    versions: dict[str, str]

    @classmethod
    def read(cls, directory: Path) -> ExportFacts | None:
        """Return what a directory says of itself, None if it holds no whole export."""
        try:
            fields = json.loads((directory / FACTS).read_bytes())
            parity = fields["parity"]
            facts = cls(
                run=str(fields["run"]),
                format=fields["format"],
                model_sha256=fields["model_sha256"],
                onnx_sha256=fields["onnx_sha256"],
                parity=None if parity is None else ParityReport.model_validate(parity, extra="ignore"),
                versions=dict(fields["versions"]),
            )
        except (OSError, ValueError, KeyError, TypeError, ValidationError):
            return None
        return facts if facts._is_whole(directory) else None

    def _is_whole(self, directory: Path) -> bool:
        try:
            if self.onnx_sha256 is None:
                return stored_sha256(directory) == self.model_sha256
            return onnx_sha256(directory) == self.onnx_sha256
        except (OSError, ModelInvalid):
            return False


def export_hf(model: Path, directory: Path, *, run: str) -> ExportFacts:
    """Copy a model directory into an empty one.

    Raises:
        ModelInvalid: the weights are not those that were trained.
        StoreUnavailable: the disk is full.
    """
    facts = ModelFacts.read(model)
    with disk_full(directory):
        for file in model.iterdir():
            shutil.copyfile(file, directory / file.name)
        if stored_sha256(directory) != facts.model_sha256:
            raise ModelInvalid(f"the weights in {str(model)!r} are not those that were trained")
        export = ExportFacts(run, "hf", facts.model_sha256, None, None, versions())
        _write_facts(directory, facts, export)
    return export


def export_onnx(
    model: Path,
    directory: Path,
    *,
    run: str,
    format: OnnxFormat,  # noqa: A002 - the name that it has everywhere
    data: TrainingData,
    metric: str,
    reporter: Reporter,
) -> ExportFacts:
    """Write a model as ONNX into an empty directory, if it predicts as the trained one does.

    Args:
        model: directory of the trained model.
        directory: is there, and empty.
        run: name of the run.
        format: ``onnx`` or ``onnx-int8``.
        data: its validation rows decide.
        metric: the metric of the run.
        reporter: told how far it is.

    Raises:
        DependencyMissing: the libraries are not installed.
        ExportRefused: it predicts otherwise than the trained model in fp32.
        LabelsInvalid: the data have other labels than the model.
        ModelInvalid: a model of this type cannot be exported.
        StoreUnavailable: the disk is full.
    """
    require_onnx()
    facts = ModelFacts.read(model)
    if (data.task, tuple(data.labels)) != (facts.task, facts.labels):
        raise LabelsInvalid(
            f"{data.name} is a {data.task} task with the labels {', '.join(data.labels)}, but run {run!r} "
            f"was trained on a {facts.task} task with the labels {', '.join(facts.labels)}"
        )
    rows = data.validation
    reporter.phase("loading model")
    trained = Predictor.load(model, precision="fp32", device="cpu")
    reporter.phase("validating")
    _, reference_NC = trained.logits(rows.texts, rows.pairs, on_batch=reporter.tick)
    del trained
    reporter.phase("exporting")
    with disk_full(directory):
        _write_model(model, directory, facts, format)
    reporter.phase("validating")
    exported = _predictor(directory, facts, format)
    _, exported_NC = exported.logits(rows.texts, rows.pairs, on_batch=reporter.tick)
    report = compare(
        data.task,
        metric,
        data.labels,
        label_array(data.task, rows.labels),
        reference_NC=reference_NC,
        exported_NC=exported_NC,
        data_sha256=data.sha256,
    )
    require_parity(report, what=f"the {format} export of run {run!r}")
    export = ExportFacts(
        run, format, facts.model_sha256, onnx_sha256(directory), report, {**versions(), **onnx_versions()}
    )
    with disk_full(directory):
        _write_facts(directory, facts, export)
        _add_to_card(directory, export)
    return export


def load_exported(directory: Path) -> Predictor:
    """Load what ``export_onnx`` wrote.

    Raises:
        DependencyMissing: the libraries are not installed.
        ModelInvalid: the directory is not whole.
    """
    export = ExportFacts.read(directory)
    if export is None or export.format == "hf":
        raise ModelInvalid(f"{str(directory)!r} holds no whole ONNX model of durabert")
    return _predictor(directory, ModelFacts.read(directory), export.format)


def onnx_sha256(directory: Path) -> str:
    """Return the digest of the ONNX file, and of its weights where they are in a second one."""
    digest = hashlib.sha256()
    for file in [directory / ONNX_FILE, *sorted(directory.glob(f"{ONNX_FILE}?*"))]:
        with file.open("rb") as opened:
            while chunk := opened.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def _predictor(directory: Path, facts: ModelFacts, format: OnnxFormat) -> Predictor:  # noqa: A002
    engine = OnnxEngine.load(directory / ONNX_FILE, name=format, num_labels=len(facts.labels))
    with quiet_libraries():
        tokenizer = load_tokenizer(directory)
    layout = PaddedLayout(tokenizer.pad_token_id, facts.max_length, torch.device("cpu"))
    return Predictor(facts, tokenizer, Scorer(engine, layout), engine.uses_types)


def _write_model(model: Path, directory: Path, facts: ModelFacts, format: OnnxFormat) -> None:  # noqa: A002
    weights = {file.name for file in check_weights(model)}
    for file in model.iterdir():
        if file.name not in {*weights, INDEX, FACTS}:
            shutil.copyfile(file, directory / file.name)
    classifier = load_classifier(
        model, task=facts.task, labels=facts.labels, max_length=facts.max_length, seed=0
    )
    target = directory / ONNX_FILE
    if format == "onnx":
        write_onnx(classifier, target)
        return
    exact = directory / "fp32"
    exact.mkdir()
    write_onnx(classifier, exact / ONNX_FILE)
    quantize(exact / ONNX_FILE, target)
    shutil.rmtree(exact)


def _write_facts(directory: Path, facts: ModelFacts, export: ExportFacts) -> None:
    document: dict[str, Any] = {**asdict(facts), **asdict(export)}
    document["parity"] = None if export.parity is None else export.parity.model_dump()
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    (directory / FACTS).write_text(f"{text}\n", encoding="utf-8")


def _add_to_card(directory: Path, export: ExportFacts) -> None:
    assert export.parity is not None
    parity = export.parity
    rows = [
        ("Format", export.format),
        ("SHA-256", f"`{export.onnx_sha256}`"),
        (
            f"validation {parity.metric}",
            f"{parity.exported:.4f}; of the trained model in fp32 {parity.reference:.4f}",
        ),
        *([] if parity.labels_equal is None else [("same label", f"{parity.labels_equal:.2%} of the rows")]),
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    with (directory / _CARD).open("a", encoding="utf-8") as card:
        card.write(f"\n## Export\n\n| | |\n|---|---|\n{table}\n")
