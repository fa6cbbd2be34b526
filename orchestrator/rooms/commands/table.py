"""Which function carries out which command."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from types import MappingProxyType

from orchestrator.core import texts
from orchestrator.core.command import (
    COMMANDS,
    PREFIX,
    Command,
    CommandName,
    UnknownCommand,
    find_nearest,
    render_command_help,
    render_help,
)
from orchestrator.core.role import name_who_may
from orchestrator.core.room_setting import Setting
from orchestrator.core.texts import person as person_texts
from orchestrator.rooms.commands.approval import approve, deny
from orchestrator.rooms.commands.budget import change_budget, cost
from orchestrator.rooms.commands.conversation import (
    begin_anew,
    cancel,
    list_sessions,
    resume,
    retry,
    steer,
)
from orchestrator.rooms.commands.errand import begin_errand
from orchestrator.rooms.commands.invite import invite_agent
from orchestrator.rooms.commands.queue import queue, restart
from orchestrator.rooms.commands.schedule import schedule
from orchestrator.rooms.commands.setting import change_setting
from orchestrator.rooms.room_command import Refused, RoomCommand
from orchestrator.rooms.status import render_status
from orchestrator.store.errand_table import ErrandKind

Handler = Callable[[RoomCommand, str], Awaitable[None]]
"""Carries out one command with what stood behind its name, and answers it."""


async def _help(doing: RoomCommand, argument: str) -> None:
    name = argument.removeprefix(PREFIX).lower()
    if not name:
        await doing.say(render_help(doing.permissions))
    elif name in CommandName.__members__.values():
        await doing.say(render_command_help(CommandName(name)))
    else:
        await doing.say(Refused(texts.unknown_command(name, find_nearest(name))))


async def _status(doing: RoomCommand, _: str) -> None:
    await doing.say(await render_status(doing.worker, doing.kit))


async def _egress(doing: RoomCommand, argument: str) -> None:
    await doing.asking.obey(
        doing.worker.room_id, doing.seq, doing.event_id, sender=doing.sender, argument=argument
    )


HANDLERS: Mapping[CommandName, Handler] = MappingProxyType(
    {
        CommandName.HELP: _help,
        CommandName.STATUS: _status,
        CommandName.CANCEL: cancel,
        CommandName.STEER: steer,
        CommandName.NEW: begin_anew,
        CommandName.RETRY: retry,
        CommandName.APPROVE: approve,
        CommandName.DENY: deny,
        CommandName.EGRESS: _egress,
        CommandName.COST: cost,
        CommandName.BUDGET: change_budget,
        CommandName.MODEL: partial(change_setting, Setting.MODEL),
        CommandName.MODE: partial(change_setting, Setting.MODE),
        CommandName.EFFORT: partial(change_setting, Setting.EFFORT),
        CommandName.TIMEOUT: partial(change_setting, Setting.TIMEOUT),
        CommandName.SESSIONS: list_sessions,
        CommandName.RESUME: resume,
        CommandName.COMPACT: partial(begin_errand, ErrandKind.COMPACT),
        CommandName.QUEUE: queue,
        CommandName.SCHEDULE: schedule,
        CommandName.DIFF: partial(begin_errand, ErrandKind.DIFF),
        CommandName.UNDO: partial(begin_errand, ErrandKind.UNDO),
        CommandName.EXPORT: partial(begin_errand, ErrandKind.EXPORT),
        CommandName.CLONE: partial(begin_errand, ErrandKind.CLONE),
        CommandName.LS: partial(begin_errand, ErrandKind.LS),
        CommandName.GET: partial(begin_errand, ErrandKind.GET),
        CommandName.RESTART: restart,
        CommandName.INVITE_AGENT: invite_agent,
    }
)


async def execute(doing: RoomCommand, command: Command | UnknownCommand | None) -> None:
    """Do it and answer it, if the sender may. Only the store's errors come out."""
    if isinstance(command, Command) and COMMANDS[command.name].needs not in doing.permissions:
        who = name_who_may(COMMANDS[command.name].needs)
        await doing.say(Refused(person_texts.may_not(command.name, who)))
    elif isinstance(command, Command) and command.argument and not COMMANDS[command.name].usage:
        await doing.say(Refused(texts.takes_nothing(command.name)))
    elif isinstance(command, Command):
        await HANDLERS[command.name](doing, command.argument)
    else:
        name, nearest = (command.name, command.nearest) if command else ("", None)
        await doing.say(Refused(texts.unknown_command(name, nearest)))
