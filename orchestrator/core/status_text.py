"""What the status page shows, as lines for a terminal. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.core.status_view import SeenRoom, StatusView
from orchestrator.core.texts import status_page as texts
from orchestrator.core.texts import utc_time


def render_text(view: StatusView) -> str:
    """All of it; every line is one, whatever a room is called."""
    return "\n".join(_lines(view)) + "\n"


def _lines(view: StatusView) -> Iterator[str]:
    up = texts.up(max(0.0, view.at - view.started_at))
    yield f"{texts.name(view.user_id)}, {texts.name(view.version)}, {up}, {utc_time(view.at)}"
    yield from (f"! {texts.line(one)}" for one in view.problems)
    yield from () if view.has_engine else (f"! {texts.NO_ENGINE}",)
    yield from () if view.problems else (texts.WELL,)
    yield from ("", texts.HEADS["questions"])
    for question in view.questions:
        who = texts.deciders(question.deciders, utc_time(question.expires_at))
        yield f"  {texts.KINDS[question.kind]}: {texts.line(question.what)}"
        yield f"    {texts.asked_in(texts.name(question.room), who)}"
    yield from () if view.questions else (f"  {texts.NO_QUESTIONS}",)
    yield from ("", texts.HEADS["rooms"])
    for room in view.rooms:
        yield from _room(room, has_engine=view.has_engine)
    yield from () if view.rooms else (f"  {texts.NO_ROOMS}",)
    yield from ("", texts.HEADS["ends"])
    for end in view.ends:
        what = f"{texts.outcome(end.outcome)}, {texts.took(end.took_s)}"
        who = f"{texts.name(end.room)}, {texts.name(end.sender)}"
        yield f"  {utc_time(end.ended_at)}  {who}: {what}"
    yield from () if view.ends else (f"  {texts.NO_ENDS}",)
    yield from ("", texts.HEADS["exits"])
    for one in view.exits:
        word = texts.LET_THROUGH if one.is_allowed else texts.REFUSED
        where = f"{texts.name(one.room)}: {texts.line(one.target)}"
        yield f"  {texts.moment(one.at)}  {where} {word} ({texts.name(one.note)})"
    yield from () if view.exits else (f"  {texts.NO_EXITS}",)


def _room(room: SeenRoom, *, has_engine: bool) -> Iterator[str]:
    yield f"  {texts.name(room.name)} ({texts.name(room.slug)})"
    if room.runner is not None:
        yield f"    {texts.runner(room.runner)}; {texts.session(room.runner)}"
    elif has_engine:
        yield f"    {texts.NO_RUNNER}"
    for turn in room.turns:
        tools = "".join(f"; {texts.line(tool)}" for tool in turn.tools)
        by = texts.asked_by(texts.name(turn.sender))
        yield f"    {texts.TURN.lower()}: {texts.turn(turn)}, {by}{tools}"
    if room.month_micro_usd:
        yield f"    {texts.today(room.today_micro_usd)}, {texts.month(room.month_micro_usd)}"
