"""Waiting for a workflow whose server goes away."""

from __future__ import annotations

import pytest
from temporalio.service import RPCError, RPCStatusCode

from durabert.client.running import ended


class Handle:
    """Answers in turn."""

    def __init__(self, *answers):
        self.answers = list(answers)

    async def result(self):
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


class Engine:
    revived = 0

    def revive(self):
        self.revived += 1


def lost(status=RPCStatusCode.UNAVAILABLE):
    return RPCError("transport error", status, b"")


async def test_the_embedded_engine_is_started_again_as_often_as_it_goes():
    engine = Engine()

    assert await ended(Handle(lost(), lost(RPCStatusCode.CANCELLED), "result"), engine) == "result"

    assert engine.revived == 2


async def test_another_server_that_goes_away_is_told():
    with pytest.raises(RPCError, match="transport error"):
        await ended(Handle(lost(), "result"), None)


async def test_a_workflow_that_the_engine_has_not_is_told():
    engine = Engine()

    with pytest.raises(RPCError):
        await ended(Handle(lost(RPCStatusCode.NOT_FOUND), "result"), engine)

    assert engine.revived == 0
