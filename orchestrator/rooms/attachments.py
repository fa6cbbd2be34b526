"""Files that came with a turn's messages: fetched, and put into the workspace before it runs.

Rules: nothing of a file touches this host's disk, and its bytes are not looked into but for their
beginning; it is written by the program in the room's runner, as the room's own uid. A turn runs
without a file that can't be had, and the room and the agent are told. Fetched again after a crash,
a file goes to the path that was chosen for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from loguru import logger

from orchestrator.core.attachment import Attachment, choose_path, sniff
from orchestrator.core.cli_input import Image, build_user_message, message_uuid
from orchestrator.core.going_on import build_prompt_again
from orchestrator.core.policy import Message
from orchestrator.core.shown_image import choose_image
from orchestrator.core.texts import file as texts
from orchestrator.errors import FileRefusedError, MatrixError, RunnerError
from orchestrator.room_profile import RoomProfile
from orchestrator.rooms.connection import Connection
from orchestrator.rooms.copies import files_of
from orchestrator.rooms.kit import Kit
from orchestrator.store.api import TurnRow

_ATTEMPTS = 3
_PAUSE_S = 2.0
# Of one file, from the homeserver into the workspace.
_MOST_S = 180.0


@dataclass(frozen=True, slots=True)
class Brought:
    """What stands below the messages of a turn, for the agent, and what it is shown."""

    note: str = ""
    images: tuple[Image, ...] = ()

    def line(self, turn: TurnRow) -> str:
        """The message that the CLI is given."""
        prompt = build_prompt_again(turn.prompt) if turn.continues else turn.prompt
        text = f"{prompt}\n\n{self.note}" if self.note else prompt
        uuid = message_uuid(turn.turn_id)
        return build_user_message(text, message_uuid=uuid, images=self.images)

    def below(self, words: str) -> Brought:
        """The same with more words before it."""
        return replace(self, note="\n\n".join(part for part in (words, self.note) if part))


NOTHING = Brought()


class RoomAttachments:
    """Stateless: what came, and where it goes, is in the store."""

    def __init__(self, kit: Kit, profile: RoomProfile) -> None:
        self._kit = kit
        self._files = profile.files

    def __repr__(self) -> str:
        return "<RoomAttachments>"

    async def bring(
        self, turn: TurnRow, messages: Sequence[Message], connection: Connection | None
    ) -> Brought:
        """Put a turn's files into the workspace. Only the store's errors come out."""
        came = [message for message in messages if message.attachment]
        if not came or connection is None:
            return NOTHING
        return await self._bring_all(turn, came, connection)

    async def _bring_all(
        self, turn: TurnRow, came: Sequence[Message], connection: Connection
    ) -> Brought:
        lines: list[str] = []
        images: list[Image] = []
        for number, message in enumerate(came):
            if number < self._files.received_per_turn:
                lines.append(await self._bring(turn, message, connection, images))
            else:
                lines.append(await self._refuse(turn, message, texts.TOO_MANY))
        return Brought(note=texts.note(lines), images=tuple(images))

    async def _bring(
        self, turn: TurnRow, message: Message, connection: Connection, images: list[Image]
    ) -> str:
        """A line on the file; one that can be shown is added to `images`."""
        attachment = message.attachment
        if attachment is None:
            return ""
        limit = self._files.max_size
        if attachment.size_bytes is not None and attachment.size_bytes > limit:
            return await self._refuse(turn, message, texts.too_large(attachment.size_bytes, limit))
        try:
            async with asyncio.timeout(_MOST_S):
                data = await self._fetch(attachment)
                if len(data) > limit:
                    return await self._refuse(turn, message, texts.too_large(len(data), limit))
                path = await self._place(turn, message, connection)
                await files_of(connection).write(path, data)
        except ValueError:
            return await self._refuse(turn, message, texts.DAMAGED)
        except FileRefusedError as e:
            return await self._refuse(turn, message, str(e))
        except (MatrixError, RunnerError, TimeoutError) as e:
            logger.bind(action="file.failed", room=turn.room_id, error=type(e).__name__).warning(
                "a file did not come into the workspace"
            )
            return await self._refuse(turn, message, texts.NOT_FETCHED)
        logger.bind(action="file.received", room=turn.room_id, bytes=len(data)).info("a file came")
        if (image := choose_image(data, images)) is not None:
            images.append(image)
        return texts.brought(path, sniff(data), len(data), is_shown=image is not None)

    async def _fetch(self, attachment: Attachment) -> bytes:
        for attempt in range(_ATTEMPTS):
            try:
                return await self._kit.download(attachment)
            except MatrixError as e:
                if not e.retryable or attempt == _ATTEMPTS - 1:
                    raise
                await asyncio.sleep(_PAUSE_S * (attempt + 1))
        raise AssertionError

    async def _place(self, turn: TurnRow, message: Message, connection: Connection) -> str:
        """Where it goes; once chosen, that stands."""
        known = await self._kit.store.files.paths(turn.turn_id)
        if message.event_id in known:
            return known[message.event_id]
        name = message.attachment.name if message.attachment else ""
        names = await _names(connection)
        return await self._kit.store.files.choose_path(
            turn.turn_id, message.event_id, names, partial(choose_path, name)
        )

    async def _refuse(self, turn: TurnRow, message: Message, reason: str) -> str:
        name = message.attachment.name if message.attachment else ""
        await self._kit.tell(turn, f"file:{message.event_id}", texts.not_taken(name, reason))
        return texts.not_brought(name, reason)


async def _names(connection: Connection) -> Sequence[str]:
    try:
        return [entry.path for entry in await files_of(connection).list("uploads")]
    except FileRefusedError:
        return []  # no such folder yet
