"""Run the blocks of one page, top to bottom, as a reader would."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from temporalio.envconfig import ClientConfigProfile

from durabert.specs import experiment_from_toml, sweep_from_toml
from tests.docs.blocks import Block, Command, commands_of, missing_line
from tests.docs.conftest import Site

SECONDS = 60
DOCUMENTED_ADDRESS = "localhost:7233"
"""In the pages, a server of the reader's own; here, the one of these tests."""

UNTIL_STOPPED = ("durabert up", "durabert worker")
"""Commands that run until Ctrl-C: started, stopped once they have printed what the page shows."""

NOT_RUN = {
    "make demo": "trains the real model for minutes; continuous integration runs it",
    "make test": "is the test suite",
    "make slow": "is what runs these commands",
    "pip install": "would change the environment of the tests; the extras are looked up in pyproject.toml",
    "WANDB_MODE=offline durabert track": "needs W&B; make trackers installs it, and tests this",
    "wandb sync": "needs an account at Weights & Biases",
    "tcld": "needs an account at Temporal Cloud; the attributes are checked against durabert.contract",
}
"""Commands that no test runs, each with its reason."""

PICTURES = {
    ("architecture.md", "cli"): "the layers; checked against the import contract in pyproject.toml",
    ("architecture.md", "durabert train reviews.csv"): "the flow of a run, a drawing",
    ("inference.md", "the input"): "the flow of a batch, a drawing",
    ("durability.md", "an attempt"): "the states of an attempt, a drawing",
    ("architecture.md", "DURABERT_HOME/"): "the layout of a home directory, a drawing",
}
"""Blocks of the language ``text`` other than help texts, by page and first line, each with its reason."""


@dataclass
class Reader:
    """Someone who types what a page says, in one directory."""

    site: Site
    directory: Path
    namespace: dict[str, Any] = field(default_factory=lambda: {"__name__": "__page__"})
    exported: dict[str, str] = field(default_factory=dict)

    def follow(self, block: Block) -> None:
        """Do what a block says; a language that nothing checks is refused."""
        if "file" in block.options:
            target = self.directory / block.options["file"]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(self._local(block.text), encoding="utf-8")
        checks = {
            "console": self._type_all,
            "python": self._execute,
            "toml": self._load,
            "jsonl": _parse_lines,
            "csv": _require_file,
            "text": _require_reason,
        }
        checks[block.language](block)

    def _type_all(self, block: Block) -> None:
        self.exported = {}
        for command in commands_of(block):
            self._type(command, exit_code=int(block.options.get("exit", 0)))

    def _execute(self, block: Block) -> None:
        # A script is run by the command below it; a test sees to it that there is one.
        if "file" not in block.options:
            exec(compile(block.text, str(block), "exec"), self.namespace)

    def _load(self, block: Block) -> None:
        _load_toml(block, self.directory)

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "DURABERT_HOME": str(self.site.home),
            "PYTHONPATH": self.site.search_path,
            "COLUMNS": "200",
            **self.exported,
        }

    def _local(self, text: str) -> str:
        return text.replace(DOCUMENTED_ADDRESS, self.site.address)

    def _type(self, command: Command, *, exit_code: int) -> None:
        line = self._local(command.line)
        if line.startswith("export "):
            self._export(line)
        elif line.startswith(UNTIL_STOPPED):
            self._run_until_shown(line, command.shown)
        elif not line.startswith(tuple(NOT_RUN)):
            done = subprocess.run(
                ["bash", "-c", line], capture_output=True, text=True, timeout=SECONDS, check=False,
                cwd=self.directory, env=self.environment(), stdin=subprocess.DEVNULL,
            )  # fmt: skip
            printed = done.stdout + done.stderr
            assert done.returncode == exit_code, f"{line}: exit code {done.returncode}\n{printed}"
            missing = missing_line(command.shown, printed)
            assert missing is None, f"{line} does not print {missing!r}, but\n{printed}"

    def _export(self, line: str) -> None:
        for assignment in shlex.split(line)[1:]:
            name, _, value = assignment.partition("=")
            assert name.startswith("TEMPORAL_") or is_a_variable_of_durabert(name), name
            self.exported[name] = value
        if "TEMPORAL_ADDRESS" in self.exported:
            _load_profile(self.exported, self.directory)

    def _run_until_shown(self, line: str, shown: list[str]) -> None:
        assert shown, f"{line} runs until it is stopped: show what it prints once it is up"
        log = self.directory / "until-stopped.log"
        with log.open("w+") as output:
            process = subprocess.Popen(
                shlex.split(line, comments=True), stdout=output, stderr=output,
                cwd=self.directory, env=self.environment(), stdin=subprocess.DEVNULL,
            )  # fmt: skip
            try:
                deadline = time.monotonic() + SECONDS
                while missing_line(shown, log.read_text()) is not None:
                    assert process.poll() is None, log.read_text()
                    assert time.monotonic() < deadline, f"{line} does not print {shown}: {log.read_text()}"
                    time.sleep(0.05)
                process.send_signal(signal.SIGINT)
                assert process.wait(SECONDS) == 0, log.read_text()
            finally:
                process.kill()
                process.wait()


def title_of(block: Block) -> str:
    """Return the beginning of a picture, up to the first gap."""
    return re.split(r"\s{2,}", block.text)[0]


def _parse_lines(block: Block) -> None:
    _require_file(block)
    for line in block.text.splitlines():
        json.loads(line)


def _require_file(block: Block) -> None:
    assert "file" in block.options, f"{block} is used by no command"


def _require_reason(block: Block) -> None:
    assert "help" in block.options or (block.page.name, title_of(block)) in PICTURES, block


def is_a_variable_of_durabert(name: str) -> bool:
    sources = Path(__file__).parents[2] / "src" / "durabert"
    return any(f'"{name}"' in path.read_text(encoding="utf-8") for path in sources.rglob("*.py"))


def _load_toml(block: Block, directory: Path) -> None:
    document = tomllib.loads(block.text)
    if "profile" in document:
        assert block.options.get("file", "").endswith("temporal.toml"), block
        for name in document["profile"]:
            profile = ClientConfigProfile.load(
                name,
                config_source=directory / block.options["file"],
                config_file_strict=True,
                disable_env=True,
            )
            assert profile.address, f"{block}: {name}"
            _connectable(profile, directory)
    elif "space" in document:
        sweep_from_toml({"name": "page", "data": "reviews.csv", **document})
    else:
        experiment_from_toml(document)


def _load_profile(variables: dict[str, str], directory: Path) -> None:
    profile = ClientConfigProfile.load(disable_file=True, override_env_vars=variables)
    assert profile.address == variables["TEMPORAL_ADDRESS"]
    _connectable(profile, directory)


def _connectable(profile: ClientConfigProfile, directory: Path) -> None:
    """Turn a profile into what a client connects with; that reads certificates, so there must be some."""
    for source in (profile.tls.client_cert, profile.tls.client_private_key) if profile.tls else ():
        if isinstance(source, Path):
            (directory / source).write_text("a certificate")
    before = Path.cwd()
    os.chdir(directory)
    try:
        assert profile.to_client_connect_config()["target_host"] == profile.address
    finally:
        os.chdir(before)


def variables_in(text: str) -> set[str]:
    """Return the environment variables that a page names."""
    return set(re.findall(r"\b(?:TEMPORAL|DURABERT)_[A-Z_]+[A-Z]\b", text))
