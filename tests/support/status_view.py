"""A look at an installation for the status page, and a source and a hand for its server."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field, replace
from typing import Any

from orchestrator.core.approval import ApprovalKind
from orchestrator.core.page_action import PageAction
from orchestrator.core.status_view import (
    SeenEnd,
    SeenExit,
    SeenQuestion,
    SeenRoom,
    SeenRunner,
    SeenTurn,
    Stage,
    StatusView,
    Subject,
)
from orchestrator.model import RoomId, RoomSlug, TurnId, TurnOutcome

NOW = 1_800_000_000.0


def make_room(name: str = "release", **more: Any) -> SeenRoom:
    """A busy room, with what the test says of it."""
    room = SeenRoom(
        room_id=RoomId("!release:example.org"),
        slug=RoomSlug("release---0123456789abcdef"),
        name=name,
        encrypted=True,
        members=3,
        runner=SeenRunner(
            state="running",
            session="resumable",
            cli_runs=True,
            up_s=5400.0,
            memory_bytes=312 << 20,
            memory_limit_bytes=2 << 30,
            processes=14,
        ),
        turns=(
            SeenTurn(
                turn_id=TurnId("t1"),
                stage=Stage.WORKS,
                age_s=95.0,
                sender="@alice:example.org",
                tools=("Bash: npm run build",),
            ),
            SeenTurn(
                turn_id=TurnId("t2"), stage=Stage.WAITS, age_s=12.0, sender="@bob:example.org"
            ),
        ),
        today_micro_usd=1_840_000,
        month_micro_usd=27_300_000,
        usd_per_day=5.0,
    )
    return replace(room, **more)


def make_question(**more: Any) -> SeenQuestion:
    """A tool that wants to be run."""
    question = SeenQuestion(
        approval_id="a-1",
        room="release",
        room_id=RoomId("!release:example.org"),
        kind=ApprovalKind.TOOL,
        what="Bash: npm publish --access public ./dist",
        deciders=("@alice:example.org", "@*:ops.example.org"),
        asked_at=NOW - 60,
        expires_at=NOW + 540,
    )
    return replace(question, **more)


def make_subject(whole: str | None = "```bash\nnpm publish\n```", **more: Any) -> Subject:
    """A question with all that it asks."""
    digest = hashlib.sha256(repr(whole).encode()).hexdigest()
    return Subject(question=make_question(**more), whole=whole, digest=digest)


def make_view(**more: Any) -> StatusView:
    """A look with something in each part."""
    view = StatusView(
        at=NOW,
        version="0.1.0",
        started_at=NOW - 93_600,
        user_id="@claude:example.org",
        problems=(),
        waiting_to_be_sent=2,
        has_engine=True,
        rooms=(make_room(),),
        questions=(make_question(),),
        ends=(
            SeenEnd(
                room="release",
                sender="@alice:example.org",
                outcome=TurnOutcome.TIMED_OUT,
                ended_at=NOW - 300,
                took_s=301.25,
            ),
        ),
        exits=(
            SeenExit(
                at="2027-01-15T07:58:00.123+00:00",
                room="release---0123456789abcdef",
                target="registry.npmjs.org:443",
                is_allowed=True,
                note="3 KiB up, 1.2 MiB down",
            ),
            SeenExit(
                at="2027-01-15T07:57:00.123+00:00",
                room="release---0123456789abcdef",
                target="evil.example:443",
                is_allowed=False,
                note="host_not_allowed",
            ),
        ),
    )
    return replace(view, **more)


@dataclass
class MemoryPages:
    """Shows what it is given, and keeps what is asked of it."""

    seen: StatusView = field(default_factory=make_view)
    subjects: dict[str, Subject] = field(default_factory=lambda: {"a-1": make_subject()})
    acts: list[tuple[str, str, PageAction]] = field(default_factory=list)
    error: Exception | None = None
    is_stuck: bool = False

    async def view(self) -> StatusView:
        """As the server's protocol says."""
        if self.is_stuck:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error
        return self.seen

    async def subject(self, approval_id: str) -> Subject | None:
        """As the server's protocol says."""
        return self.subjects.get(approval_id)

    async def act(self, room_id: RoomId, once: str, action: PageAction) -> bool:
        """Taken on, once for each form."""
        is_new = once not in [taken for _, taken, _ in self.acts]
        self.acts += [(room_id, once, action)] if is_new else []
        return is_new
