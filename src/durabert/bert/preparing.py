"""What a training needs before its first step: model and tokenizer loaded, texts turned into tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from durabert.bert.batches import BatchOrder, Layout, PaddedLayout
from durabert.bert.data import Split, TrainingData
from durabert.bert.device import Compute
from durabert.bert.layout import choose_layout
from durabert.bert.loss import build_loss, label_array
from durabert.bert.model import load_classifier, require_vocabulary, resolve_model
from durabert.bert.peers import Peers
from durabert.bert.profile import ModelOperations
from durabert.bert.progress import Reporter
from durabert.bert.steps import TO_THE_END, Examples, Stopping, TrainPlan
from durabert.bert.token_cache import cached_tokens, tokens_key
from durabert.bert.tokens import Tokens, load_tokenizer, tokenize, truncation_notice
from durabert.specs import FineTuneConfig


@dataclass(frozen=True)
class PreparedJob:
    """A model, its data and all that does not change during a training."""

    model: Any
    tokenizer: Any
    plan: TrainPlan
    test: Examples | None
    deterministic: bool
    notices: tuple[str, ...]

    def shared_with(self, peers: Peers, *, stopping: Stopping = TO_THE_END) -> PreparedJob:
        """Return the same job, whose steps these processes make together until it is to be left."""
        return replace(self, plan=replace(self.plan, peers=peers, stopping=stopping))


def prepare(
    config: FineTuneConfig,
    data: TrainingData,
    compute: Compute,
    metric: str,
    reporter: Reporter,
    *,
    base_model: Path | None = None,
    token_cache: Path | None = None,
) -> PreparedJob:
    """Load model and tokenizer, and turn the texts into tokens."""
    reporter.phase("loading model", epochs=config.epochs)
    path = base_model or resolve_model(config.model)
    tokenizer = load_tokenizer(path)
    classifier = load_classifier(
        path, task=data.task, labels=data.labels, max_length=config.max_length, seed=config.seed
    )
    require_vocabulary(tokenizer, classifier.model)
    model = classifier.model.to(compute.device)
    padded = PaddedLayout(tokenizer.pad_token_id, config.max_length, compute.device)
    deterministic = _hold_to_deterministic_kernels(model, padded, compute)
    layout, notices = choose_layout(model, padded, compute, first_position=classifier.first_position)
    if compute.device.type == "cpu":
        # The optimizer takes it from there.
        model.get_input_embeddings().sparse = True
    reporter.phase("tokenizing")
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    notices = [*data.notices, *notices]
    texts = _Texts(data, config, tokenizer, classifier.uses_types, reporter, token_cache, notices)
    examples = {name: texts.examples(name, split) for name, split in splits.items() if split is not None}
    plan = _plan(config, data, compute, metric, examples, layout, ModelOperations.of(model))
    return PreparedJob(model, tokenizer, plan, examples.get("test"), deterministic, tuple(notices))


@dataclass(frozen=True)
class _Texts:
    """Turns the texts of one split after the other into tokens."""

    data: TrainingData
    config: FineTuneConfig
    tokenizer: Any
    types: bool
    reporter: Reporter
    cache: Path | None
    notices: list[str]

    def examples(self, name: str, split: Split) -> Examples:
        max_length = self.config.max_length
        key = tokens_key(
            self.tokenizer, data_sha256=self.data.sha256, split=name, max_length=max_length, types=self.types
        )
        tokens = cached_tokens(
            self.cache, key=key, make=lambda: self._tokens(split), on_notice=self.notices.append
        )
        self.notices.extend(
            truncation_notice(
                name, num_truncated=tokens.num_truncated, num_texts=len(split), max_length=max_length
            )
        )
        return Examples(tokens, label_array(self.data.task, split.labels))

    def _tokens(self, split: Split) -> Tokens:
        return tokenize(
            self.tokenizer,
            split.texts,
            split.pairs,
            self.config.max_length,
            types=self.types,
            on_chunk=self.reporter.tick,
        )


def _plan(
    config: FineTuneConfig,
    data: TrainingData,
    compute: Compute,
    metric: str,
    examples: dict[str, Examples],
    layout: Layout,
    operations: ModelOperations,
) -> TrainPlan:
    train_examples = examples["train"]
    loss = build_loss(
        config, task=data.task, names=data.labels, labels=train_examples.labels, device=compute.device
    )
    return TrainPlan(
        config=config,
        task=data.task,
        label_names=tuple(data.labels),
        train=train_examples,
        validation=examples["validation"],
        loss=loss,
        metric=metric,
        compute=compute,
        layout=layout,
        order=BatchOrder(len(train_examples), config.batch_size, config.seed),
        operations=operations,
    )


def _hold_to_deterministic_kernels(model: Any, layout: Layout, compute: Compute) -> bool:
    # Some model types have operations without a deterministic kernel on some devices; a small
    # step tells, and training goes on without the promise rather than not at all.
    tokens = Tokens(np.ones(14, np.int32), np.array([0, 6, 14]), None, 0)
    model.train()
    try:
        with compute.autocast():
            logits = model(**layout.batch(tokens, np.arange(2)).inputs).logits
        logits.float().sum().backward()
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        torch.use_deterministic_algorithms(False)  # until deterministic_kernels() restores it
        return False
    finally:
        model.zero_grad(set_to_none=True)
    return True
