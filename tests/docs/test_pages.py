"""README and docs: what they show is run, and what they list is all there is."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from typer.main import get_command

from durabert import errors
from durabert.cli.app import app
from durabert.client import RunView
from durabert.contract import SEARCH_ATTRIBUTES
from durabert.errors import DurabertError, Retry
from durabert.specs import DataSpec, FineTuneConfig
from tests.docs.blocks import PAGES, ROOT, blocks_of, commands_of
from tests.docs.help_pages import PAGE as COMMAND_LINE
from tests.docs.help_pages import with_help
from tests.docs.running import NOT_RUN, PICTURES, Reader, title_of, variables_in

DOCUMENTS = [*PAGES, ROOT / "CHANGELOG.md"]
BLOCKS = [block for page in PAGES for block in blocks_of(page)]
COMMANDS = [command.line for block in BLOCKS if block.language == "console" for command in commands_of(block)]


@pytest.mark.pages
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_blocks_of_a_page_run_from_top_to_bottom(page, site, scratch, monkeypatch):
    monkeypatch.chdir(scratch)
    monkeypatch.setenv("DURABERT_HOME", str(site.home))
    reader = Reader(site, scratch)
    for block in blocks_of(page):
        reader.follow(block)


def test_every_exception_from_running_is_needed():
    unused = [prefix for prefix in NOT_RUN if not any(line.startswith(prefix) for line in COMMANDS)]
    pictures = {(block.page.name, title_of(block)) for block in BLOCKS}

    assert not unused
    assert PICTURES.keys() <= pictures


def test_every_script_that_a_page_shows_is_run_by_a_command():
    scripts = [
        block.options["file"] for block in BLOCKS if block.language == "python" and "file" in block.options
    ]

    assert scripts
    assert [name for name in scripts if not any(name in line for line in COMMANDS)] == []


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 150


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: page.name)
def test_the_links_of_a_page_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\s-]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_help_texts_are_what_the_commands_print():
    page = COMMAND_LINE.read_text(encoding="utf-8")

    assert with_help(page) == page, "run: python -m tests.docs.help_pages"


def test_every_command_has_a_section():
    headings = re.findall(r"^## (.*)$", COMMAND_LINE.read_text(encoding="utf-8"), re.MULTILINE)
    told = {name for heading in headings for name in re.findall(r"`(?:durabert )?(\w+)`", heading)}

    assert set(get_command(app).commands) <= told


def test_the_make_targets_of_the_readme_are_there():
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    wanted = [line.split()[1] for line in COMMANDS if line.startswith("make ")]

    assert wanted
    assert set(wanted) <= set(targets)


def test_the_extras_that_are_installed_are_there():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [extra for line in COMMANDS for extra in re.findall(r"pip install '\.\[(\w+)\]'", line)]

    assert wanted
    assert set(wanted) <= set(project["optional-dependencies"])


@pytest.mark.parametrize(
    ("page", "heading", "kind"),
    [("python.md", "### FineTuneConfig", FineTuneConfig), ("data.md", "## Fields", DataSpec)],
)
def test_every_field_is_documented_with_its_default(page, heading, kind):
    documented = {row[0].strip("`"): row[1].strip("`") for row in table_under(page, heading)}

    assert documented == {name: shown_default(field) for name, field in kind.model_fields.items()}


def shown_default(field) -> str:
    if field.is_required():
        return ""
    return "none" if field.default is None else str(field.default)


def table_under(page: str, heading: str) -> list[list[str]]:
    section = (ROOT / "docs" / page).read_text(encoding="utf-8").split(f"\n{heading}\n", 1)[1]
    rows = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)
    assert rows is not None
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[0].splitlines()[2:]]


def test_the_json_fields_of_a_run_are_documented():
    documented = [
        name for row in table_under("cli.md", "## `--json`") for name in re.findall(r"`(\w+)`", row[0])
    ]
    view = RunView(run="a", experiment="a", status="queued", config=FineTuneConfig())

    assert sorted(documented) == sorted(view.as_json())


def test_every_error_is_documented_with_its_retries():
    retries = {Retry.NEVER: "never", Retry.ALWAYS: "always", Retry.TWICE: "twice"}
    for name, retried, exit_code, examples in table_under("architecture.md", "## Errors"):
        kind = getattr(errors, name.strip("`"))
        assert (retries[kind.retry], str(kind.exit_code)) == (retried, exit_code)
        listed = set(re.findall(r"`(\w+)`", examples))
        assert listed == {
            child.__name__ for child in kind.__subclasses__() if child.__module__ == errors.__name__
        }
    assert {row[0].strip("`") for row in table_under("architecture.md", "## Errors")} == {
        kind.__name__ for kind in DurabertError.__subclasses__() if kind.__module__ == errors.__name__
    }


def test_the_layers_are_those_of_the_import_contract():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = project["tool"]["importlinter"]["contracts"][0]["layers"]
    contract = [set(re.split(r"\s*[|:]\s*", layer)) for layer in layers]
    block = next(block for block in BLOCKS if block.page.name == "architecture.md")
    shown = [set(re.split(r"\s*\|\s*", line[:29].strip())) for line in block.text.splitlines()]
    drawn = [{re.split(r"\s{2,}", name)[0] for name in layer} for layer in shown]

    # Left out of the drawing: the start of the program, its version and its demo data.
    assert drawn == [layer for layer in contract if not layer & {"__main__", "version"}]


def test_the_search_attributes_are_documented_with_their_types():
    page = (ROOT / "docs" / "workers.md").read_text(encoding="utf-8")

    assert dict(re.findall(r"--search-attribute (\w+)=(\w+)", page)) == SEARCH_ATTRIBUTES


def test_every_variable_that_durabert_reads_is_documented():
    read = set()
    for path in (ROOT / "src" / "durabert").rglob("*.py"):
        read |= set(re.findall(r'environ\S*?["\'](DURABERT_\w+)', path.read_text(encoding="utf-8")))

    assert read
    assert read <= variables_in((ROOT / "docs" / "workers.md").read_text(encoding="utf-8"))


def test_every_dependency_has_its_reason():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    wanted = [
        *project["project"]["dependencies"],
        *(requirement for extra in extras.values() for requirement in extra),
        *project["dependency-groups"]["dev"],
        *project["dependency-groups"]["bench"],
    ]
    names = {re.split(r"[\[<>=!~]", requirement)[0] for requirement in wanted} - {"durabert"}
    page = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")

    assert set(re.findall(r"`([\w-]+)`(?=[,| ].*\|)", page)) == names


def test_the_picture_is_a_drawing():
    picture = (ROOT / "docs" / "demo.svg").read_text(encoding="utf-8")

    assert picture.startswith("<svg")
    assert "durabert" in picture
