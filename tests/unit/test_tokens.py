"""Texts as tokens."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from durabert.bert.tokens import CHUNK, load_tokenizer, tokenize, truncation_notice
from durabert.errors import ModelInvalid
from tests import tiny


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return tiny.build_model(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def tokenizer(bert):
    return load_tokenizer(bert)


def row(tokens, number):
    return tokens.ids[tokens.offsets[number] : tokens.offsets[number + 1]].tolist()


def test_tokens_are_those_of_transformers(tokenizer):
    texts = ["the film was good", "", "awful plot , great music", "x" * 40, "çà 🙂"]
    tokens = tokenize(tokenizer, texts, None, 12)
    expected = PreTrainedTokenizerFast.__call__(tokenizer, texts, truncation=True, max_length=12)["input_ids"]
    assert [row(tokens, number) for number in range(len(tokens))] == expected
    assert tokens.lengths.tolist() == [len(ids) for ids in expected]


def test_pairs_keep_which_text_a_token_belongs_to(tokenizer):
    tokens = tokenize(tokenizer, ["good film", "a"], ["bad", "the plot"], 20, types=True)
    expected = tokenizer(["good film", "a"], ["bad", "the plot"])
    assert [row(tokens, 0), row(tokens, 1)] == expected["input_ids"]
    assert tokens.types.tolist() == [kind for kinds in expected["token_type_ids"] for kind in kinds]


def test_the_longer_text_of_a_pair_is_cut_first(tokenizer):
    tokens = tokenize(tokenizer, ["good " * 50], ["bad film"], 10)
    decoded = tokenizer.decode(row(tokens, 0))
    assert len(row(tokens, 0)) == 10
    assert decoded.endswith("[SEP] bad film [SEP]")
    assert tokens.num_truncated == 1


def test_truncated_texts_are_counted(tokenizer):
    texts = ["good", "the " * 6, "the " * 7, "the " * 500]
    tokens = tokenize(tokenizer, texts, None, 8)
    assert tokens.num_truncated == 2
    assert tokens.lengths.max() == 8


def test_the_notice_says_how_many_were_truncated():
    assert truncation_notice("test", num_truncated=0, num_texts=9, max_length=8) == []
    assert truncation_notice("validation", num_truncated=14, num_texts=2000, max_length=128) == [
        "validation: 14 of 2,000 texts are longer than max_length 128 tokens and were truncated"
    ]


def test_a_stop_between_chunks_ends_the_work(tokenizer):
    class Enough(Exception):
        pass

    seen = []

    def stop():
        seen.append(1)
        if len(seen) == 2:
            raise Enough

    with pytest.raises(Enough):
        tokenize(tokenizer, ["a"] * (3 * CHUNK), None, 8, on_chunk=stop)
    assert len(seen) == 2


def test_chunks_join_without_a_seam(tokenizer):
    texts = [tiny.WORDS[number % len(tiny.WORDS)] * (1 + number % 3) for number in range(CHUNK + 7)]
    tokens = tokenize(tokenizer, texts, None, 16)
    assert len(tokens) == len(texts)
    assert row(tokens, CHUNK + 3) == tokenizer(texts[CHUNK + 3])["input_ids"]


def test_half_a_surrogate_pair_is_read_as_an_unknown_character(tokenizer):
    tokens = tokenize(tokenizer, ["good \ud83d film"], None, 16)
    assert row(tokens, 0) == tokenizer("good � film")["input_ids"]


def test_no_texts_give_no_tokens(tokenizer):
    assert len(tokenize(tokenizer, [], None, 16)) == 0


def test_a_tokenizer_file_with_padding_of_its_own_does_not_pad(bert, tmp_path):
    path = shutil.copytree(bert, tmp_path / "padded")
    backend = load_tokenizer(path).backend_tokenizer
    backend.enable_padding(length=32)
    backend.save(str(path / "tokenizer.json"))
    assert np.diff(tokenize(load_tokenizer(path), ["good"], None, 16).offsets).tolist() == [3]


def test_a_model_without_a_tokenizer_is_refused(bert, tmp_path):
    path = shutil.copytree(bert, tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*"))
    with pytest.raises(ModelInvalid, match=r"has no tokenizer; expected tokenizer\.json"):
        load_tokenizer(path)


def test_a_broken_tokenizer_is_refused(bert, tmp_path):
    path = shutil.copytree(bert, tmp_path / "broken")
    (path / "tokenizer.json").write_text('{"version": "1.0", ')
    with pytest.raises(ModelInvalid, match="cannot be read"):
        load_tokenizer(path)


def test_a_tokenizer_that_cannot_pad_is_refused(tmp_path):
    tokenizer = tiny.build_tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelInvalid, match="has no padding token"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_that_does_not_tell_texts_apart_is_followed(tmp_path):
    path = tiny.build_model(tmp_path, "distilbert")
    assert tokenize(load_tokenizer(path), ["good"], ["bad"], 10, types=True).types is None
