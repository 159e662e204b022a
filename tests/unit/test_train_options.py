"""What ``durabert train`` makes of its options on checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest

from durabert.cli.train import spec_from_options
from durabert.errors import NameInvalid, SpecInvalid
from durabert.specs import CheckpointRef


@pytest.fixture
def reviews(tmp_path: Path) -> str:
    path = tmp_path / "reviews.csv"
    path.write_text("text,label\ngood,1\n")
    return str(path)


def made(data: str, *, toml: Path | None = None, **options):
    return spec_from_options(
        data, name="films", config=toml, fields={}, data_fields={}, runs=[], in_order=False, profile=None,
        **options,
    )  # fmt: skip


def test_without_options_checkpoints_are_made_by_their_cost(reviews):
    spec = made(reviews)

    assert (spec.checkpoints.every_steps, spec.checkpoints.keep_last, spec.start_from) == (None, 2, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("other", CheckpointRef(run="other")), ("other.2@40", CheckpointRef(run="other.2", step=40))],
)
def test_from_names_a_run_or_one_of_its_checkpoints(reviews, text, expected):
    assert made(reviews, start_from=text).start_from == expected


def test_a_table_says_it_in_a_file_and_options_win(reviews, tmp_path):
    toml = tmp_path / "films.toml"
    toml.write_text('start_from = {run = "other"}\n[checkpoints]\nevery_steps = 5\nkeep_last = 9\n')

    assert made(reviews, toml=toml).checkpoints.every_steps == 5
    assert made(reviews, toml=toml).start_from == CheckpointRef(run="other")
    chosen = made(reviews, toml=toml, checkpoint_every="7").checkpoints
    assert (chosen.every_steps, chosen.keep_last) == (7, 9)


@pytest.mark.parametrize("every", ["0", "-1", "soon", "1.5"])
def test_an_interval_that_is_no_number_of_steps_is_refused(reviews, every):
    with pytest.raises(SpecInvalid, match="every_steps"):
        made(reviews, checkpoint_every=every)


def test_checkpoints_that_are_no_table_are_refused(reviews, tmp_path):
    toml = tmp_path / "films.toml"
    toml.write_text("checkpoints = 5\n")

    for options in ({}, {"checkpoint_every": "7"}):
        with pytest.raises(SpecInvalid, match="checkpoints"):
            made(reviews, toml=toml, **options)


@pytest.mark.parametrize("text", ["films", "films@3", "films.2"])
def test_a_run_does_not_begin_from_its_own_experiment(reviews, text):
    with pytest.raises(SpecInvalid, match="other than 'films' itself"):
        made(reviews, start_from=text)


@pytest.mark.parametrize(
    ("text", "error"), [("../etc", NameInvalid), ("other@", SpecInvalid), ("other@-1", SpecInvalid)]
)
def test_what_is_no_checkpoint_is_refused(reviews, text, error):
    with pytest.raises(error):
        made(reviews, start_from=text)
