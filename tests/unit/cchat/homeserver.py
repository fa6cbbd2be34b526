"""A homeserver in memory: it answers in the order it was told, and a sleep only counts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import SecretStr

from cchat.account import Account
from cchat.matrix import MatrixClient
from cchat.transport import Answer, Exchange
from orchestrator.errors import HomeserverUnreachableError

DOWN = HomeserverUnreachableError()


def ok(body: Mapping[str, object]) -> Answer:
    return Answer(status=200, raw=json.dumps(body).encode())


def refused(status: int, errcode: str) -> Answer:
    return Answer(status=status, raw=json.dumps({"errcode": errcode}).encode())


@dataclass
class MemoryTransport:
    """Gives out the answers one by one; an exception among them is raised."""

    answers: list[Answer | Exception]
    asked: list[Exchange] = field(default_factory=list)

    async def exchange(self, request: Exchange) -> Answer:
        self.asked.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@dataclass
class World:
    """A client on a MemoryTransport, what it said, and how long it slept."""

    transport: MemoryTransport
    client: MatrixClient
    said: list[str]
    slept: list[float]


def make_world(
    *answers: Answer | Exception, session_path: Path | None = None, token: str | None = "tok-en"
) -> World:
    transport = MemoryTransport(list(answers))
    said: list[str] = []
    slept: list[float] = []

    async def sleep(wait_s: float) -> None:
        slept.append(wait_s)

    account = Account(
        homeserver="http://hs",
        user_id="@me:hs",
        password=None if token else SecretStr("pass-word"),
        access_token=SecretStr(token) if token else None,
        session_path=session_path,
    )
    client = MatrixClient(transport, account, say=said.append, sleep=sleep)
    return World(transport=transport, client=client, said=said, slept=slept)
