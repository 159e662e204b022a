"""Base models from a hub: a real HTTP server with the hub's routes, asked by the real client."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from tests import tiny

COMMIT = "0123456789abcdef0123456789abcdef01234567"
RESOLVE = """
import sys
from durabert.bert import hub_models
from durabert.bert.model import resolve_model
hub_models._SECONDS_TO_ANSWER = 1.0
print(resolve_model(sys.argv[1]))
"""


class Hub(BaseHTTPRequestHandler):
    repositories: ClassVar[dict[str, Path]] = {}
    asked: ClassVar[list[str]] = []

    def do_GET(self):
        path = self.path.split("?")[0]
        self.asked.append(path)
        parts = path.strip("/").split("/")
        if parts[4:5] == ["tree"]:
            return self.tree(self.repositories["/".join(parts[2:4])])
        if parts[:2] == ["api", "models"]:
            return self.information("/".join(parts[2:4]))
        if parts[2:3] != ["resolve"]:
            return self.answer(404, b"", {})
        owner, name, _, _, *file = parts
        return self.content(self.repositories[f"{owner}/{name}"] / "/".join(file))

    do_HEAD = do_GET  # noqa: N815  # the name that http.server calls

    def information(self, name):
        directory = self.repositories.get(name)
        if directory is None:
            return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        siblings = [{"rfilename": file} for file in self.files(directory)]
        document = {"id": name, "sha": COMMIT, "siblings": siblings, "private": False}
        return self.answer(200, json.dumps(document).encode(), {"Content-Type": "application/json"})

    def files(self, directory):
        return [str(file.relative_to(directory)) for file in directory.rglob("*") if file.is_file()]

    def tree(self, directory):
        entries = [
            {"type": "file", "path": name, "size": (directory / name).stat().st_size, "oid": "0" * 40}
            for name in self.files(directory)
        ]
        return self.answer(200, json.dumps(entries).encode(), {"Content-Type": "application/json"})

    def content(self, file):
        if not file.is_file():
            return self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        data = file.read_bytes()
        return self.answer(200, data, {"ETag": f'"{hash(data)}"', "X-Repo-Commit": COMMIT})

    def answer(self, status, body, headers):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    whole = tiny.build_model(root / "whole")
    (whole / "pytorch_model.bin").write_bytes(b"pickle")
    (whole / "modeling_evil.py").write_text("raise SystemExit")
    (whole / "onnx").mkdir()
    (whole / "onnx" / "config.json").write_text("{}")
    pickled = tiny.build_model(root / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    Hub.repositories.update({"tiny/whole": whole, "tiny/pickled": pickled})
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def resolve(name, endpoint, cache, *, offline="0"):
    environment = {
        **os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "HF_HUB_OFFLINE": offline,
    }  # fmt: skip
    run = subprocess.run(
        [sys.executable, "-c", RESOLVE, name],
        capture_output=True, text=True, check=False, env=environment, timeout=120,
    )  # fmt: skip
    return run.stdout.strip(), run.stderr.strip().splitlines()[-1:]


def test_only_files_that_cannot_execute_code_are_downloaded(hub, tmp_path):
    found, error = resolve("tiny/whole", hub, tmp_path)
    assert error == []
    names = {str(file.relative_to(found)) for file in Path(found).rglob("*") if file.is_file()}
    assert names == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert not [path for path in Hub.asked if path.endswith((".bin", ".py"))]
    again, error = resolve("tiny/whole", hub, tmp_path, offline="1")
    assert (again, error) == (found, [])


def test_a_model_that_the_hub_does_not_have_is_named(hub, tmp_path):
    _, (error,) = resolve("tiny/none", hub, tmp_path)
    assert "ModelNotFound: model 'tiny/none' is neither a known name" in error
    assert error.endswith("and the hub has no public model of that name")


def test_a_hub_model_with_pickles_alone_is_refused_before_the_download(hub, tmp_path):
    _, (error,) = resolve("tiny/pickled", hub, tmp_path)
    assert "ModelInvalid: model 'tiny/pickled' on the hub has no model.safetensors" in error


def test_a_hub_that_never_answers_is_given_up_soon(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        _, (error,) = resolve("tiny/whole", f"http://127.0.0.1:{silent.getsockname()[1]}", tmp_path)
        assert time.monotonic() - began < 30
    assert "ModelNotFound: model 'tiny/whole'" in error
    assert "the hub cannot be asked" in error
