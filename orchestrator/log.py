"""The program's log: one event per line on stderr, JSON for machines or text for people.

Rules: no line leaves without passing the redaction filter, exception texts and libraries' lines
included; whatever a field holds, it stays one line; a log that can't be written never raises.

`enqueue` is off: a line is out when the call returns, so that the last words before a kill are
there. The price: whoever reads our stderr and stops reading stops us, as it would any program.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC
from typing import TYPE_CHECKING, Literal, TextIO

from loguru import logger

from orchestrator import meters
from orchestrator.redaction import HIDDEN, Redactor, is_secret_field

if TYPE_CHECKING:
    from loguru import Message, Record

LogFormat = Literal["json", "text"]
AUDIT_ONLY = "only"
"""As `audit`: what people or a CLI have said, for the audit log and not for this one."""

# What a line may hold: names and reasons are short, a traceback is some 50 lines of 100.
_MAX_FIELD_CHARS = 4096
_MAX_TRACEBACK_CHARS = 32768
# Redaction goes first, so that a cut leaves no half of a secret; this bounds what it looks at.
_REDACT_AHEAD = 8
_RESERVED = frozenset({"time", "level", "action", "message", "source", "error", "traceback"})
# Their DEBUG and INFO lines hold tokens and message bodies (nio prints both), or are noise.
_QUIET_LIBRARIES = ("nio", "peewee", "docker", "urllib3", "aiohttp", "asyncio", "markdown_it")

_redactor = Redactor()


def configure_logging(
    *,
    fmt: LogFormat,
    level: str,
    sink: TextIO | None = None,
    secrets: Iterable[str] = (),
) -> None:
    """Send everything that is logged to one stream, and nothing anywhere else. Can be repeated.

    Args:
        fmt: `json` for one flat object per line, `text` for people.
        level: the least level that is written: TRACE, DEBUG, INFO, WARNING or ERROR.
        sink: an open text stream; stderr where it is None. It is not closed.
        secrets: values to hide from now on; `register_secret` adds more.
    """
    for secret in secrets:
        register_secret(secret)
    stream = sys.stderr if sink is None else sink
    render = render_json if fmt == "json" else render_text

    def write(message: Message) -> None:
        if message.record["level"].no >= logger.level("ERROR").no:
            meters.ERRORS.labels(str(message.record["extra"].get("action", "none"))).inc()
        # A full disk or a closed pipe must not end the daemon, and there is nobody to tell.
        with suppress(OSError, ValueError):
            stream.write(render(message.record) + "\n")
            stream.flush()

    logger.remove()
    # catch=False: loguru would print the raw record, secrets included, when a sink fails.
    logger.add(
        write,
        level=level,
        filter=lambda record: record["extra"].get("audit") != AUDIT_ONLY,
        format="{message}",
        colorize=False,
        backtrace=False,
        diagnose=False,
        enqueue=False,
        catch=False,
    )
    _route_standard_library()


def register_secret(value: str) -> None:
    """Hide a value in every line from now on, in any spelling; one under 4 characters is not."""
    _redactor.register(value)


def forget_secrets() -> None:
    """Forget all registered values; for tests."""
    _redactor.clear()


def redact(text: str) -> str:
    """The text without any secret, for what is shown elsewhere than in the log."""
    return _redactor.redact(text)


def render_json(record: Record) -> str:
    """One flat JSON object: time, level, action, message, the bound fields, error, traceback."""
    # ASCII alone: any reader takes it, whatever its encoding, and a lone surrogate passes.
    return json.dumps(_flatten(record), ensure_ascii=True, allow_nan=False)


def render_text(record: Record) -> str:
    """`time level action: message key=value …`, then the traceback, indented."""
    fields = _flatten(record)
    head = f"{fields.pop('time')} {fields.pop('level'):<7} {_one_line(fields.pop('action'))}: "
    head += _one_line(fields.pop("message"))
    trace = str(fields.pop("traceback", ""))
    rest = "".join(f" {_one_line(name)}={_one_line(value)}" for name, value in fields.items())
    below = "".join(f"\n    {_one_line(line)}" for line in trace.splitlines())
    return head + rest + below


def _flatten(record: Record) -> dict[str, str | int | float | bool | None]:
    extra: Mapping[str, object] = record["extra"]
    fields: dict[str, str | int | float | bool | None] = {
        "time": record["time"].astimezone(UTC).isoformat(timespec="milliseconds"),
        "level": record["level"].name,
        "action": _text(extra.get("action", "log")),
        "message": _text(record["message"]),
    }
    if "library" not in extra:
        fields["source"] = f"{record['name']}:{record['line']}"
    for name, value in extra.items():
        if name != "action":
            fields[_field_name(name)] = HIDDEN if is_secret_field(name) else _simple(value)
    fields.update(_exception(record))
    return fields


def _exception(record: Record) -> Iterator[tuple[str, str]]:
    exception = record["exception"]
    if exception is None or exception.type is None:
        return
    yield "error", exception.type.__name__
    try:
        lines = traceback.format_exception(exception.type, exception.value, exception.traceback)
    except Exception:  # noqa: BLE001 - a __str__ of anybody's may raise anything
        lines = ["(the traceback can't be shown)"]
    yield "traceback", _text("".join(lines).rstrip(), limit=_MAX_TRACEBACK_CHARS)


def _field_name(name: str) -> str:
    clean = _text(name, limit=100)
    return f"{clean}_" if clean in _RESERVED else clean


def _simple(value: object) -> str | int | float | bool | None:
    # Subclasses (StrEnum, IntEnum) go the way of their base type's text.
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    # JSON readers keep 53 bits; a longer one is a text, and a giant one can't even be printed.
    if isinstance(value, int) and abs(value) < 1 << 53:
        return int(value)
    return _text(value)


def _text(value: object, *, limit: int = _MAX_FIELD_CHARS) -> str:
    try:
        text = str(value)
    except Exception:  # noqa: BLE001 - a __str__ of anybody's may raise anything
        return f"({type(value).__name__} can't be shown)"
    text = redact(text[: limit * _REDACT_AHEAD])
    return text if len(text) <= limit else f"{text[:limit]}…"


def _one_line(value: object) -> str:
    """Control characters, line ends and lone surrogates as escapes: nobody can forge a line."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(value))


class _Router(logging.Handler):
    """Hands the standard library's records to loguru."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.WARNING and _is_quiet(record.name):
            return
        try:
            text = record.getMessage()
        except Exception:  # noqa: BLE001 - a library's wrong arguments are no reason to fail
            text = "(a log line that can't be shown)"
        bound = logger.bind(action="library", library=record.name)
        # Without arguments loguru takes the text as it is, braces included.
        bound.opt(exception=record.exc_info).log(_level_of(record), text)


def _route_standard_library() -> None:
    logging.root.handlers = [_Router()]
    # The quiet ones are stopped here, and again in the router, should a child set its own level.
    logging.root.setLevel(logging.INFO)
    for name in _QUIET_LIBRARIES:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)


def _is_quiet(name: str) -> bool:
    return name.partition(".")[0] in _QUIET_LIBRARIES


def _level_of(record: logging.LogRecord) -> str | int:
    try:
        return logger.level(record.levelname).name
    except ValueError:
        return record.levelno
