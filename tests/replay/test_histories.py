"""Every workflow version ever released decides again as it did."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from durabert.client.replaying import read_history, replay
from durabert.errors import DataInvalid
from durabert.workflows import WORKFLOWS

HISTORIES = sorted((Path(__file__).parent / "histories").glob("*.json"))


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
async def test_a_stored_history_replays(path):
    report = await replay(read_history(path))

    assert report.same, report.difference


def test_every_workflow_has_a_history():
    types = {
        json.loads(path.read_text())["events"][0]["workflowExecutionStartedEventAttributes"]["workflowType"][
            "name"
        ]
        for path in HISTORIES
    }

    assert types == {workflow.__temporal_workflow_definition.name for workflow in WORKFLOWS}


@pytest.mark.parametrize(
    ("recorded", "otherwise"),
    [("fine_tune_bert", "another_activity"), ('"activityId": "one-run"', '"activityId": "another-run"')],
)
async def test_a_history_of_other_decisions_is_told_apart(tmp_path, recorded, otherwise):
    original = next(path for path in HISTORIES if path.stem == "0.1.0-one-run").read_text()
    assert recorded in original
    changed = tmp_path / "changed.json"
    changed.write_text(original.replace(recorded, otherwise))

    report = await replay(read_history(changed))

    assert not report.same
    assert "another" in report.difference


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", "not json", '{"events": []}', '{"events": [{"eventId": "x"}]}']
)
def test_a_file_that_is_no_history_is_refused(tmp_path, content):
    path = tmp_path / "history.json"
    path.write_text(content)

    with pytest.raises(DataInvalid, match="is not a workflow history in JSON"):
        read_history(path)
