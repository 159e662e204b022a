"""What W&B's client asks a server for, answered from memory: no W&B, but enough for the client to go on.

Written from what the client of version 0.31 sends. It says what durabert lets the client do, and nothing of
what a real server makes of that.
"""

from __future__ import annotations

import gzip
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

VIEWER = {"id": "me", "entity": "me", "username": "me", "email": "", "flags": "{}", "teams": {"edges": []}}


@dataclass
class KeptRun:
    """A run as the client has told it."""

    lines: list[str] = field(default_factory=list)
    summary: dict = field(default_factory=dict)
    config: str = "{}"
    end: tuple[int, bool] | None = None
    """Exit code, and whether the client said before that the run was preempted."""
    preempting: bool = False

    @property
    def rows(self) -> list[dict]:
        return [json.loads(line) for line in self.lines]


class StandIn(ThreadingHTTPServer):
    """A server on a free port."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.runs: dict[str, KeptRun] = {}
        self.address = f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> StandIn:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: object) -> None:
        """Say nothing: the client leaves connections open when it ends."""

    def stream(self, name: str, told: dict) -> None:
        run = self.runs.setdefault(name, KeptRun())
        files = told.get("files") or {}
        if history := files.get("wandb-history.jsonl"):
            first = history["offset"]
            run.lines[first : first + len(history["content"])] = history["content"]
        if summary := files.get("wandb-summary.json"):
            run.summary = json.loads(summary["content"][-1])
        run.preempting |= bool(told.get("preempting"))
        if told.get("complete"):
            run.end, run.preempting = (told["exitcode"], run.preempting), False

    def answer(self, operation: str, asked: dict) -> dict:
        project = {"id": "project", "name": asked.get("project"), "entity": {"id": "entity", "name": "me"}}
        if operation == "Viewer":
            return {"viewer": VIEWER}
        if operation == "RunResumeStatus":
            run = self.runs.get(asked["name"])
            return {"model": project | {"bucket": None if run is None else _resumed(asked["name"], run)}}
        if operation == "UpsertBucket":
            run = self.runs.setdefault(asked["name"], KeptRun())
            run.config = asked.get("config") or run.config
            bucket = _resumed(asked["name"], run) | {"project": project}
            return {"upsertBucket": {"bucket": bucket, "inserted": not run.lines}}
        if operation == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": f"{self.address}/{name}"} for name in asked["files"]]
            return {"createRunFiles": {"runID": "run", "uploadHeaders": [], "files": files}}
        return {}


def _resumed(name: str, run: KeptRun) -> dict:
    return {
        "id": "run",
        "name": name,
        "displayName": name,
        "config": run.config,
        "summaryMetrics": json.dumps(run.summary),
        "historyLineCount": len(run.lines),
        "historyTail": json.dumps(run.lines[-1:]),
        "eventsLineCount": 0,
        "eventsTail": "[]",
        "logLineCount": 0,
        "tags": [],
        "wandbConfig": '{"t": 1}',
    }


class _Handler(BaseHTTPRequestHandler):
    server: StandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        told = self._body()
        if self.path.endswith("/file_stream"):
            self.server.stream(self.path.split("/")[-2], json.loads(told))
            self._reply({})
        else:
            asked = json.loads(told)
            self._reply(
                {"data": self.server.answer(asked.get("operationName"), asked.get("variables") or {})}
            )

    def do_PUT(self) -> None:
        self._body()
        self._reply({})

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _reply(self, answer: dict) -> None:
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
