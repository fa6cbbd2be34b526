"""What follows from one message of a room: a turn, a command, a word to its sender, nothing."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import ValidationError

from orchestrator import meters
from orchestrator.config import Config
from orchestrator.core import texts
from orchestrator.core.attachment import (
    FILE_TYPES,
    Attachment,
    parse_attachment,
    parse_caption,
)
from orchestrator.core.command import Permission, is_for_approvers, parse_command
from orchestrator.core.edit import parse_edited, parse_new_content, read_said
from orchestrator.core.policy import (
    Circumstances,
    Message,
    MessageContent,
    RoomEvent,
    Verdict,
    decide,
    read_tolerantly,
    strip_quote,
)
from orchestrator.core.texts import file as file_texts
from orchestrator.core.texts import person as person_texts
from orchestrator.core.turn_mark import parse_reply
from orchestrator.faultpoint import FaultPoint, reach
from orchestrator.gateway.courtesy import Courtesies
from orchestrator.gateway.inbound import InboundGate
from orchestrator.model import EventId, RoomId, TurnOutcome, UserId
from orchestrator.rooms.flood import Flood, FloodGauge
from orchestrator.rooms.hearing import Heard, Rooms
from orchestrator.rooms.outgoing import build_notice_rows
from orchestrator.rooms.people import People
from orchestrator.rooms.reaction import Reply
from orchestrator.store.api import InboxRow, InboxState, RoomRow
from orchestrator.store.store import Once, Store

_REPLACED = "room replaced"
# What nothing is said about, or only once ever.
_UNLIMITED = (Verdict.IGNORE, Verdict.TELL_NOT_ALLOWED, Verdict.TELL_READER)


class MessageIntake:
    """Stateless but for the gate and the gauge: a row is followed from what is stored."""

    def __init__(
        self,
        *,
        config: Config,
        me: UserId,
        store: Store,
        rooms: Rooms,
        gate: InboundGate[Heard],
        courtesies: Courtesies,
        clock: Callable[[], float],
        notify_outbox: Callable[[], None],
    ) -> None:
        self._config = config
        self._people = People.build(config, store)
        self._agents = config.agent_accounts
        self._me = me
        self._store = store
        self._rooms = rooms
        self._gate = gate
        self._courtesies = courtesies
        self._clock = clock
        self._notify_outbox = notify_outbox
        self._floods = FloodGauge(config.gateway, me=me, outbox=store.outbox)

    async def take(self, room: RoomRow, row: InboxRow, event: RoomEvent) -> None:
        """Follow a message, and mark its row; in clear, from whoever its homeserver says."""
        if room.moved_seq is not None:
            # What somebody allowed in the old room they did not allow in the new one.
            is_for_old = is_for_approvers(read_tolerantly(event.content).body)
            was_late = row.seq > room.moved_seq or is_for_old
            room = await self._store.rooms.current(room.room_id) or room
            if was_late:
                await self._tell_moved(room, row, event)
                return
        said = read_said(event.content)
        if not said:
            await self._done(row, "live" if said is None else "redacted")
        elif (target := parse_edited(said)) is not None:
            await self._edited(room, row, event, target)
        else:
            await self._take(room, row, event.model_copy(update={"content": said}))

    async def _take(self, room: RoomRow, row: InboxRow, event: RoomEvent) -> None:
        if event.sent_at is not None:
            meters.RECEIVED.observe(max(0.0, row.received_at - event.sent_at))
        try:
            content = MessageContent.model_validate(event.content)
        except ValidationError:
            await self._malformed(room, row, event)
            return
        is_file = content.msgtype in FILE_TYPES
        attachment = parse_attachment(event.content) if is_file else None
        message = Message(
            event_id=EventId(event.event_id),
            sender=UserId(event.sender),
            text=_words_of(event, attachment) if attachment else content.body,
            attachment=attachment,
            name=await self._people.name(room.room_id, UserId(event.sender)),
            thread=row.thread,
            quotes=None if content.body.startswith("> <") else parse_reply(event.content),
        )
        if await self._answers(room, row, message, event):
            return
        verdict, reason = await self._decide(room, event, content)
        await self._note_person(room, row, event)
        if verdict is Verdict.PROMPT and is_file and attachment is None:
            text = file_texts.not_taken(content.body, file_texts.UNREADABLE)
            await self.tell(room.room_id, row, text, reason="file")
            return
        if verdict is Verdict.PROMPT and await self._is_paused(room, row, message.sender):
            return
        if verdict not in _UNLIMITED:
            why = await self._find_flood(row, event, asks_for_words=verdict is not Verdict.PROMPT)
            if why is not None:
                await self._rooms.refuse(room, row, message, why)
                return
        await self._follow(verdict, reason, room, row, message)

    async def _answers(
        self, room: RoomRow, row: InboxRow, message: Message, event: RoomEvent
    ) -> bool:
        """Whether it was the answer to a question of ours; then nothing else follows from it."""
        to = parse_reply(event.content)
        words = strip_quote(message.text)
        if to is None or parse_command(words) is not None or not words:
            return False
        reply = Reply(to=to, by=message.sender, words=words)
        return await self._rooms.reply(row, room.room_id, reply)

    async def _note_person(self, room: RoomRow, row: InboxRow, event: RoomEvent) -> None:
        """Whatever a person says lets agents be heard again, if there are any besides this one."""
        if len(self._agents) < 2 or event.sender in self._agents:
            return
        if await self._people.may(Permission.RUN, room.room_id, event.sender):
            await self._store.people.note_person(room.room_id, row.seq)

    async def _is_paused(self, room: RoomRow, row: InboxRow, sender: UserId) -> bool:
        """An agent's message after enough turns for agents is not taken; its first one is told."""
        if sender not in self._agents:
            return False
        budget = self._config.profile(room.room_id, room.alias, room.former).budget
        count, since = await self._store.people.agent_run(room.room_id, self._agents)
        if count < budget.agent_turns_in_a_row:
            return False
        reason = f"agents in a row since {since}"
        once = Once(room_id=room.room_id, user_id=sender, what=reason)
        text = person_texts.agents_only(budget.agent_turns_in_a_row)
        await self.tell(room.room_id, row, text, reason=reason, once=once)
        return True

    async def _edited(
        self, room: RoomRow, row: InboxRow, event: RoomEvent, target: EventId
    ) -> None:
        """Other words in a message that waits; what was a command, or becomes one, stays as it was.

        The message was heard before: its sender could ask for it, and nobody else changes it.
        """
        body = (parse_new_content(event.content) or {}).get("body")
        if event.sender == self._me or not isinstance(body, str) or not body.strip():
            await self._done(row, "edit")
            return
        if parse_command(body) is not None:
            await self._done(row, "edit")
            return
        await self._gate.close_room(room.room_id)
        await self._rooms.edit(row, target, strip_quote(body), by=UserId(event.sender))

    async def redacted(self, room: RoomRow, row: InboxRow, event: RoomEvent) -> None:
        """A message was taken back, by its sender or by whoever the homeserver lets do that."""
        target = event.redacts or event.content.get("redacts")
        if event.sender == self._me or not isinstance(target, str):
            await self._done(row, "redaction")
            return
        await self._gate.close_room(room.room_id)
        await self._rooms.redact(row, EventId(target))

    async def _malformed(self, room: RoomRow, row: InboxRow, event: RoomEvent) -> None:
        """What is readable of it decides whether it was for the agent; then its sender is told."""
        verdict, reason = await self._decide(room, event, read_tolerantly(event.content))
        if not event.content or verdict is Verdict.IGNORE:  # empty: it was redacted
            await self._done(row, "malformed message")
        elif verdict is Verdict.TELL_NOT_ALLOWED:
            await self._tell_stranger(room.room_id, row, UserId(event.sender), reason)
        elif why := await self._find_flood(row, event, asks_for_words=True):
            message = Message(
                event_id=EventId(event.event_id), sender=UserId(event.sender), text=""
            )
            await self._rooms.refuse(room, row, message, why)
        else:
            await self.tell(room.room_id, row, texts.MALFORMED, reason="malformed message")

    async def _decide(
        self, room: RoomRow, event: RoomEvent, content: MessageContent
    ) -> tuple[Verdict, str]:
        profile = self._config.profile(room.room_id, room.alias, room.former)
        is_file = content.msgtype in FILE_TYPES
        return decide(
            event,
            content,
            Circumstances(
                me=self._me,
                permissions=await self._people.permissions(room.room_id, event.sender),
                trigger=profile.trigger,
                joined_members=room.joined_members,
                looks_like_command=not is_file and parse_command(content.body) is not None,
                takes_files=profile.files.received_per_turn > 0,
            ),
        )

    async def _find_flood(
        self, row: InboxRow, event: RoomEvent, *, asks_for_words: bool
    ) -> Flood | None:
        return await self._floods.measure(
            RoomId(row.room_id or ""),
            event,
            received_at=row.received_at,
            asks_for_words=asks_for_words,
        )

    async def _follow(
        self, verdict: Verdict, reason: str, room: RoomRow, row: InboxRow, message: Message
    ) -> None:
        match verdict:
            case Verdict.IGNORE:
                await self._done(row, reason)
            case Verdict.PROMPT:
                self._courtesies.seen(room.room_id, message.event_id)
                heard = Heard(row.seq, message)
                if self._gate.add(room.room_id, message.sender, heard, thread=message.thread):
                    self._courtesies.typing(room.room_id, typing=True)
                    reach(FaultPoint.WINDOW_JOINED)
                else:
                    await self.tell(
                        room.room_id, row, texts.TOO_MANY_AT_ONCE, reason="too many at once"
                    )
            case Verdict.COMMAND:
                self._courtesies.seen(room.room_id, message.event_id)
                # What was sent before the command is a turn by then: it can be cancelled.
                await self._gate.close_room(room.room_id)
                await self._rooms.execute(room, row, message)
            case Verdict.TELL_NOT_ALLOWED:
                await self._tell_stranger(room.room_id, row, message.sender, reason)
            case Verdict.TELL_READER:
                once = Once(room_id=room.room_id, user_id=message.sender, what=reason)
                text = person_texts.ONLY_READER
                await self.tell(room.room_id, row, text, reason=reason, once=once)
            case Verdict.TELL_NO_FILES:
                await self.tell(room.room_id, row, file_texts.TAKES_NONE, reason=reason)
            case Verdict.TELL_EMPTY:
                await self.tell(room.room_id, row, texts.EMPTY_MESSAGE, reason=reason)

    async def _tell_stranger(
        self, room_id: RoomId, row: InboxRow, sender: UserId, reason: str
    ) -> None:
        once = Once(room_id=room_id, user_id=sender, what=reason)
        await self.tell(room_id, row, texts.NOT_ALLOWED, reason=reason, once=once)

    async def _tell_moved(self, room: RoomRow, row: InboxRow, event: RoomEvent) -> None:
        """A message of a room that was replaced before: its sender is told where to write."""
        verdict, reason = await self._decide(room, event, read_tolerantly(event.content))
        sender = UserId(event.sender)
        match verdict:
            case Verdict.IGNORE:
                await self._done(row, reason)
            case Verdict.TELL_NOT_ALLOWED:
                await self._tell_stranger(room.room_id, row, sender, reason)
            case _:
                once = Once(room_id=room.room_id, user_id=sender, what=_REPLACED)
                await self.tell(room.room_id, row, texts.ROOM_REPLACED, reason=_REPLACED, once=once)

    async def tell(
        self,
        room_id: RoomId,
        row: InboxRow,
        text: str | None,
        *,
        reason: str,
        once: Once | None = None,
    ) -> None:
        """Mark a row, and say in reply why nothing follows; with `once` the first time alone."""
        rows = (
            build_notice_rows(
                room_id,
                f"{row.event_id}:told",
                text,
                max_event_bytes=self._config.gateway.max_event_bytes,
                reply_to=row.event_id,
                outcome=TurnOutcome.REFUSED,
            )
            if text
            else []
        )
        await self._store.answer(row.seq, rows, reason=reason, now=self._clock(), once=once)
        self._notify_outbox()

    async def _done(self, row: InboxRow, reason: str) -> None:
        reach(FaultPoint.INBOX_MARK)
        await self._store.inbox.mark(row.seq, InboxState.IGNORED, reason=reason)


def _words_of(event: RoomEvent, attachment: Attachment) -> str:
    """What was said with a file, and that it is one."""
    caption, sent = parse_caption(event.content), file_texts.sent(attachment.name)
    return f"{caption}\n\n{sent}" if caption else sent
