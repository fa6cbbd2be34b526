"""`!model`, `!mode`, `!effort`, `!timeout`: how a room works from its next turn on."""

from __future__ import annotations

from functools import partial

from orchestrator.core.command import Permission
from orchestrator.core.room_setting import Setting, is_freer, parse_setting
from orchestrator.core.texts import setting as texts
from orchestrator.model import Permissions
from orchestrator.room_profile import RoomProfile
from orchestrator.rooms.room_command import Refused, RoomCommand
from orchestrator.store.setting_table import store_setting

_DEFAULT = "default"


async def change_setting(setting: Setting, doing: RoomCommand, argument: str) -> None:
    """Show what holds, or set it; beyond what is configured admins alone."""
    configured = _value(setting, doing.worker.configured)
    if not argument:
        held = (await doing.kit.store.settings.setters(doing.worker.room_id)).get(setting)
        value = _value(setting, doing.worker.profile)
        await doing.say(texts.setting(setting, value, by=held, configured=configured))
        return
    if argument.lower() == _DEFAULT:
        await _store(setting, doing, None, texts.taken_back(setting, configured))
        return
    wanted = parse_setting(setting, argument)
    if wanted is None:
        await doing.say(Refused(texts.FORMS[setting]))
    elif _is_beyond(setting, wanted, doing.worker.configured) and (
        Permission.ADMINISTER not in doing.permissions
    ):
        await doing.say(Refused(texts.beyond(setting, configured)))
    else:
        await _store(setting, doing, wanted, texts.changed(setting, _shown(setting, wanted)))


async def _store(setting: Setting, doing: RoomCommand, value: str | None, text: str) -> None:
    effect = partial(
        store_setting,
        room_id=doing.worker.room_id,
        key=str(setting),
        value=value,
        by=doing.sender,
        now=doing.now,
    )
    await doing.do(effect, lambda _: text)
    await doing.worker.read_settings()


def _value(setting: Setting, profile: RoomProfile) -> str:
    match setting:
        case Setting.MODEL:
            return profile.model or _DEFAULT
        case Setting.MODE:
            return profile.permissions
        case Setting.EFFORT:
            return profile.effort or _DEFAULT
        case Setting.TIMEOUT:
            return _shown(setting, f"{profile.timeout_s:.0f}")


def _shown(setting: Setting, value: str) -> str:
    return f"{value} s" if setting is Setting.TIMEOUT else value


def _is_beyond(setting: Setting, value: str, configured: RoomProfile) -> bool:
    match setting:
        case Setting.MODE:
            return is_freer(Permissions(value), configured.permissions)
        case Setting.TIMEOUT:
            return float(value) > configured.timeout_s
        case _:
            return False
