"""What a room's people set by command, over the configuration: how it is written and bounded. Pure.

Rule: whoever may run turns makes a room's agent more careful, up to what the operator configured;
only admins go beyond that.
"""

from __future__ import annotations

import re
from enum import StrEnum

from orchestrator.model import Permissions

# As the API names models: `claude-opus-4-1-20250805`, `sonnet`, `opus[1m]`.
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:\[\]-]{0,63}")
_DURATION = re.compile(r"(\d{1,6})\s*(s|sec|m|min|h|d)?", re.IGNORECASE)
_UNIT_S = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
# As Claude Code 2.1.330 takes them (docs/cli-facts.md).
EFFORTS = ("low", "medium", "high", "xhigh", "max")
# Less is no time for a single request to the API; more than a day is no limit.
LEAST_TIMEOUT_S = 10
MOST_TIMEOUT_S = 86_400
# From the most careful on.
_BY_FREEDOM = (Permissions.PLAN, Permissions.ASK, Permissions.ACCEPT_EDITS, Permissions.BYPASS)


class Setting(StrEnum):
    """The keys in the table `settings` that a room's profile is made with."""

    MODEL = "model"
    MODE = "mode"
    EFFORT = "effort"
    TIMEOUT = "timeout"


def parse_setting(setting: Setting, text: str) -> str | None:
    """A value as it is stored; None for one that has no sense."""
    text = text.strip()
    match setting:
        case Setting.MODEL:
            return text if _MODEL.fullmatch(text) else None
        case Setting.MODE:
            name = text.lower().replace("-", "_")
            return name if name in Permissions.__members__.values() else None
        case Setting.EFFORT:
            return text.lower() if text.lower() in EFFORTS else None
        case Setting.TIMEOUT:
            seconds = parse_duration(text)
            if seconds is None or not LEAST_TIMEOUT_S <= seconds <= MOST_TIMEOUT_S:
                return None
            return str(seconds)


def parse_duration(text: str) -> int | None:
    """Seconds from `90`, `90s`, `10m`, `2h`, `1d`; None for anything else."""
    found = _DURATION.fullmatch(text.strip())
    return int(found[1]) * _UNIT_S[(found[2] or "s").lower()] if found else None


def is_freer(mode: Permissions, than: Permissions) -> bool:
    """Whether an agent may do more without being allowed to."""
    return _BY_FREEDOM.index(mode) > _BY_FREEDOM.index(than)
