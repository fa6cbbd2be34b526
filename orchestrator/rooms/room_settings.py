"""How a room works: the configuration, and over it what its people set by command."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.core.room_setting import Setting, parse_setting
from orchestrator.model import Permissions
from orchestrator.room_profile import RoomProfile


def apply_settings(profile: RoomProfile, settings: Mapping[str, str]) -> RoomProfile:
    """The profile with a room's settings; what this version can't read counts as not set."""
    update: dict[str, object] = {}
    for setting in Setting:
        value = settings.get(setting)
        known = None if value is None else parse_setting(setting, value)
        if known is None:
            continue
        match setting:
            case Setting.MODEL:
                update["model"] = known
            case Setting.MODE:
                update["permissions"] = Permissions(known)
            case Setting.EFFORT:
                update["effort"] = known
            case Setting.TIMEOUT:
                # The whole turn has at least the time that one silence may have.
                update["timeout_s"] = float(known)
                update["ceiling_s"] = max(profile.ceiling_s, float(known))
    return profile.model_copy(update=update) if update else profile
