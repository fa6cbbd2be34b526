"""Where the daemon is looked at: its control socket, its metrics, its status page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from orchestrator.config import StatusTokens
from orchestrator.control.api import Pages, Text
from orchestrator.control.server import open_control
from orchestrator.core.page_action import PageAction
from orchestrator.core.status_page import render_overview
from orchestrator.core.status_text import render_text
from orchestrator.gateway.outbound import OutboxSender
from orchestrator.metrics.server import open_metrics
from orchestrator.metrics.source import MetricsSource
from orchestrator.model import EventId, RoomId
from orchestrator.overview import Overview
from orchestrator.rooms.kit import Kit
from orchestrator.rooms.manager import RoomManager
from orchestrator.status.server import open_status
from orchestrator.status.source import StatusSource
from orchestrator.store.api import InboxKind, NewInboxRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Views:
    """What is looked at, and who may."""

    kit: Kit
    manager: RoomManager
    sender: OutboxSender
    overview: Overview
    state_dir: Path
    status_tokens: StatusTokens | None
    notify_inbox: Callable[[], None]

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[None]:
        """Answer for as long as the context lasts, however it ends.

        Raises:
            PreconditionError: the socket can't be made, or an address that was named can't be had.
        """
        settings = self.kit.config.observability
        figures = self._figures()
        status = StatusSource(
            kit=self.kit,
            manager=self.manager,
            overview=self.overview,
            look=figures.problems,
            state_dir=self.state_dir,
        )
        is_named = "metrics" in settings.model_fields_set
        async with (
            open_control(self.state_dir, self.overview, _pages(status)),
            open_metrics(settings.metrics, figures.read, look=figures.problems, required=is_named),
            open_status(settings.status, self.status_tokens, status, self.act),
        ):
            yield

    async def act(self, room_id: RoomId, once: str, action: PageAction) -> bool:
        """Take on what somebody asks for on the page; False: that form was taken before."""
        row = NewInboxRow(
            kind=InboxKind.PAGE,
            room_id=room_id,
            event_id=EventId(f"page:{once}"),
            raw=action.model_dump_json(),
        )
        is_new = await self.kit.store.inbox.add(row, now=self.kit.wall_clock())
        self.notify_inbox()
        return is_new

    def _figures(self) -> MetricsSource:
        return MetricsSource(
            store=self.kit.store,
            sender=self.sender,
            overview=self.overview,
            places=self.kit.places,
            starts=self.kit.starts,
            state_dir=self.state_dir,
            by_room=self.kit.config.observability.metrics_by_room,
            clock=self.kit.wall_clock,
        )


def _pages(status: StatusSource) -> Pages:
    """The page for whoever may use the control socket: to be read, there is nothing to press."""

    async def html() -> Text:
        return Text(media_type="text/html", text=render_overview(await status.view()))

    async def lines() -> Text:
        return Text(media_type="text/plain", text=render_text(await status.view()))

    return {"/v1/page": html, "/v1/page.txt": lines}
