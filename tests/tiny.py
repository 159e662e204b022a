"""Tiny models of every family with a tokenizer of their own, and data that they can learn; no hub."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    ElectraConfig,
    ElectraModel,
    ModernBertConfig,
    ModernBertModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
)

from durabert.bert.data import Split, TrainingData
from durabert.bert.quiet import quiet_libraries
from durabert.specs import Task

# Threads cost more than they give on matrices this small.
torch.set_num_threads(1)

GOOD = ("good", "great", "fine", "lovely")
BAD = ("bad", "awful", "poor", "dull")
FILLERS = ("the", "film", "was", "a", "story", "and", "actors", "plot", "music", "it", "very", "so")
WORDS = (*GOOD, *BAD, *FILLERS)
POSITIONS = 64
"""Longest input of the tiny models."""

BERT_SPECIALS = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
ROBERTA_SPECIALS = {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"}
SIZES = {
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "hidden_size": 32,
    "intermediate_size": 64,
    "initializer_range": 0.2,
}
FAMILIES = ("bert", "roberta", "distilbert", "electra", "modernbert")


def build_tokenizer(
    specials: dict[str, str] = BERT_SPECIALS, *, types: bool = True
) -> PreTrainedTokenizerFast:
    """Return a word-piece tokenizer, or a byte-pair one for RoBERTa's special tokens."""
    tokens = list(specials.values())
    if specials is BERT_SPECIALS:
        letters = [*"abcdefghijklmnopqrstuvwxyz", *(f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz")]
        vocabulary = {
            token: number for number, token in enumerate(dict.fromkeys([*tokens, *WORDS, *letters]))
        }
        backend = Tokenizer(models.WordPiece(vocabulary, unk_token=specials["unk"]))
        backend.normalizer = normalizers.BertNormalizer()
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    else:
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocabulary = {token: number for number, token in enumerate([*tokens, *alphabet])}
        backend = Tokenizer(models.BPE(vocabulary, []))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    cls, sep = specials["cls"], specials["sep"]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B:1 {sep}:1",
        special_tokens=[(cls, vocabulary[cls]), (sep, vocabulary[sep])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_input_names=["input_ids", *(["token_type_ids"] if types else []), "attention_mask"],
        **{f"{name}_token": token for name, token in specials.items()},
    )


def build_model(directory: Path, family: str = "bert", *, seed: int = 0, **options: Any) -> Path:
    """Write a random model without a head, and its tokenizer."""
    specials = ROBERTA_SPECIALS if family == "roberta" else BERT_SPECIALS
    tokenizer = build_tokenizer(specials, types=family in {"bert", "electra"})
    common = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, **SIZES}
    sized = {**common, "max_position_embeddings": POSITIONS, **options}
    torch.manual_seed(seed)
    match family:
        case "bert":
            model = BertModel(BertConfig(**sized))
        case "roberta":
            sized["max_position_embeddings"] += 2
            model = RobertaModel(RobertaConfig(type_vocab_size=1, **sized))
        case "electra":
            model = ElectraModel(ElectraConfig(embedding_size=16, **sized))
        case "modernbert":
            special = {"cls_token_id": 2, "bos_token_id": 2, "sep_token_id": 3, "eos_token_id": 3}
            model = ModernBertModel(ModernBertConfig(**sized, **special))
        case "distilbert":
            model = DistilBertModel(
                DistilBertConfig(
                    vocab_size=len(tokenizer),
                    pad_token_id=tokenizer.pad_token_id,
                    max_position_embeddings=sized["max_position_embeddings"],
                    dim=32,
                    hidden_dim=64,
                    n_layers=2,
                    n_heads=2,
                    initializer_range=0.2,
                )
            )
    with quiet_libraries():
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
    return directory


def set_config(directory: Path, **fields: Any) -> None:
    """Change fields of a model's config.json."""
    file = directory / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def sentence(rng: random.Random, *words: str, length: int = 6) -> str:
    """Return words hidden among fillers."""
    mixed = [*words, *rng.choices(FILLERS, k=max(0, length - len(words)))]
    rng.shuffle(mixed)
    return " ".join(mixed)


def sentiments(rows: int, *, seed: int = 0) -> Split:
    """Return texts with one good or one bad word; label 1 is good."""
    rng = random.Random(seed)
    labels = [number % 2 for number in range(rows)]
    texts = [sentence(rng, rng.choice((BAD, GOOD)[label]), length=rng.randint(2, 9)) for label in labels]
    return Split(texts, None, labels)


def topics(rows: int, *, seed: int = 0) -> Split:
    """Return texts that are any of good, bad and about music; multi-hot labels."""
    rng = random.Random(seed)
    labels = [[rng.randint(0, 1) for _ in range(3)] for _ in range(rows)]
    texts = []
    for good, bad, music in labels:
        words = [rng.choice(GOOD)] * good + [rng.choice(BAD)] * bad + ["music"] * music
        texts.append(" ".join([*words, "the", "film"]))
    return Split(texts, None, labels)


def degrees(rows: int, *, seed: int = 0) -> Split:
    """Return texts whose value is their number of good words less that of bad ones."""
    rng = random.Random(seed)
    values, texts = [], []
    for _ in range(rows):
        good, bad = rng.randint(0, 3), rng.randint(0, 3)
        texts.append(sentence(rng, *rng.choices(GOOD, k=good), *rng.choices(BAD, k=bad), length=8))
        values.append(float(good - bad))
    return Split(texts, None, values)


def agreements(rows: int, *, seed: int = 0) -> Split:
    """Return pairs of which the second text decides: label 1 if it is good, whatever the first says."""
    rng = random.Random(seed)
    labels = [number % 2 for number in range(rows)]
    firsts = [sentence(rng, rng.choice((*GOOD, *BAD)), length=4) for _ in labels]
    seconds = [sentence(rng, rng.choice((BAD, GOOD)[label]), length=4) for label in labels]
    return Split(firsts, seconds, labels)


def training_data(
    train: Split,
    validation: Split,
    *,
    test: Split | None = None,
    task: Task = "binary",
    labels: tuple[str, ...] = ("bad", "good"),
) -> TrainingData:
    """Return splits as what a training takes."""
    return TrainingData(
        name="reviews",
        task=task,
        labels=labels,
        text_columns=("text",) if train.pairs is None else ("text", "text2"),
        label_column="label",
        train=train,
        validation=validation,
        test=test,
        sha256=hashlib.sha256(repr((train, validation, test)).encode()).hexdigest(),
        notices=(),
    )


def sentiment_data(rows: int = 96, *, test: bool = False) -> TrainingData:
    """Return a small binary task."""
    return training_data(
        sentiments(rows), sentiments(32, seed=1), test=sentiments(16, seed=2) if test else None
    )
