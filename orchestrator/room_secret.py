"""The rooms' own secrets: their values from the environment, and what the configuration lacks.

A value is read once, at the start, and goes to the rooms' doors and to the log's filter, nowhere
else: not to the store, not into a specification, not into an error's text.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.config import Config, read_secret
from orchestrator.core.egress_rules import (
    DEFAULT_PORTS,
    HostRule,
    Scheme,
    Target,
    is_covered,
    parse_rule,
)
from orchestrator.core.surrogate import MIN_HIDDEN_CHARS, hidden_chars
from orchestrator.errors import ConfigError
from orchestrator.room_profile import RoomProfile

# A header's value, and no longer than servers take one.
_VALUE = re.compile(r"[\x21-\x7e]{1,4096}")
# A name that no rule is likely to have, to ask whether every name is covered.
_ANY_NAME = "any-name-at-all"


@dataclass(frozen=True, slots=True)
class RoomSecrets:
    """The values of all secrets that the configuration names, by the orchestrator's variable."""

    by_variable: Mapping[str, str] = field(default_factory=dict, repr=False)

    def values(self) -> list[str]:
        """All of them, for the log's filter."""
        return list(self.by_variable.values())

    def of(self, profile: RoomProfile) -> dict[str, str]:
        """A room's secrets: name and value.

        Raises:
            KeyError: the profile names a variable that was not read at the start.
        """
        return {
            name: self.by_variable[secret.variable or name]
            for name, secret in profile.secrets.items()
        }


def load_room_secrets(config: Config, environ: Mapping[str, str] = os.environ) -> RoomSecrets:
    """Every secret that a room may have, from VARIABLE or VARIABLE_FILE.

    Raises:
        ConfigError: one line for each that is missing, set twice, or not usable; no value is shown.
    """
    values: dict[str, str] = {}
    problems: dict[str, str] = {}
    for place, name, variable in _named(config):
        if variable in values or variable in problems:
            continue
        try:
            value = read_secret(variable, environ)
        except ConfigError as e:
            problems[variable] = f"{place}.{name}: {e}"
            continue
        wrong = _problem(value, variable)
        if value is None or wrong:
            problems[variable] = f"{place}.{name}: {variable} {wrong}"
        else:
            values[variable] = value
    if problems:
        raise ConfigError(list(problems.values()))
    return RoomSecrets(values)


def readable_secrets(config: Config, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Those that are there now, by their names in rooms; for whoever looks for them elsewhere.

    Never raises: what is missing or set twice is left out.
    """
    found: dict[str, str] = {}
    for _, name, variable in _named(config):
        with contextlib.suppress(ConfigError):
            if value := read_secret(variable, environ):
                found[name] = value
    return found


def uncovered_secrets(config: Config) -> list[str]:
    """One line for each host of a secret where the secret would never arrive; in order."""
    found: list[str] = []
    for place, profile in _profiles(config):
        allow = [parse_rule(text) for text in profile.egress.allow]
        intercept = [parse_rule(text) for text in profile.egress.intercept]
        for name, secret in profile.secrets.items():
            for host in secret.hosts:
                why = _gap(parse_rule(host), allow, intercept)
                # What `defaults` lacks is not said again for each room.
                line = f"secrets.{name}: {host}: {why}"
                if why and f"defaults.{line}" not in found:
                    found.append(f"{place}.{line}")
    return found


def _profiles(config: Config) -> Iterator[tuple[str, RoomProfile]]:
    yield "defaults", config.defaults
    for room, profile in config.rooms.items():
        yield f"rooms.{room}", profile


def _named(config: Config) -> Iterator[tuple[str, str, str]]:
    for place, profile in _profiles(config):
        for name, secret in profile.secrets.items():
            yield f"{place}.secrets", name, secret.variable or name


def _problem(value: str | None, variable: str) -> str:
    if value is None:
        return f"is not set; set it to the secret, or {variable}_FILE to a file that holds it"
    if _VALUE.fullmatch(value) is None:
        return "must be printable ASCII without blanks, at most 4096 characters"
    if hidden_chars(value) < MIN_HIDDEN_CHARS:
        return f"must have {MIN_HIDDEN_CHARS} letters and digits at least"
    return ""


def _gap(host: HostRule, allow: Sequence[HostRule], intercept: Sequence[HostRule]) -> str:
    if not _covers(allow, host):
        return "is not covered by egress.allow, so it can't be reached"
    # A rule with another port may be meant for plain HTTP, where nothing has to be opened.
    is_tls = host.port in {None, DEFAULT_PORTS[Scheme.HTTPS]}
    if is_tls and not _covers(intercept, host):
        return "is not covered by egress.intercept, so the surrogate would go out unchanged"
    return ""


def _covers(rules: Sequence[HostRule], host: HostRule) -> bool:
    """Whether all that `host` covers is covered by the rules; with TLS, but for port 80."""
    name = f"{_ANY_NAME}.{host.host}" if host.subdomains else host.host
    scheme = Scheme.HTTP if host.port == DEFAULT_PORTS[Scheme.HTTP] else Scheme.HTTPS
    port = host.port or DEFAULT_PORTS[scheme]
    return is_covered(Target(host=name, port=port, scheme=scheme), rules)
