"""The log: one flat line per event, and no secret in any of it."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator

import pytest
from loguru import logger

from orchestrator.log import configure_logging, forget_secrets, redact, register_secret
from orchestrator.model import JsonObject

SECRETS = {
    "matrix_password": "corr'ect \"horse\\ battery",
    "matrix_access_token": "syt_Y2xhdWRl_qWeRtYuIoP_0a1b2c",
    "anthropic_api_key": "sk-ant-api03-0123456789-abcdef",
    "claude_code_oauth_token": "sk-ant-oat01-fedcba9876543210",
    "room_placeholder": "room-7f9c2ba4e88f827d61604550760585",
    "embedded_password": "pässwörd-🔑",
}


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError(SECRETS["matrix_password"])


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logger.remove()
    logging.captureWarnings(capture=False)
    logging.root.handlers, logging.root.level = handlers, level
    forget_secrets()


def _open(fmt: str = "json", level: str = "TRACE") -> io.StringIO:
    stream = io.StringIO()
    assert fmt in {"json", "text"}
    configure_logging(
        fmt="json" if fmt == "json" else "text",
        level=level,
        sink=stream,
        secrets=SECRETS.values(),
    )
    return stream


def _events(stream: io.StringIO) -> list[JsonObject]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def _nested(secret: str) -> None:
    def innermost() -> None:
        raise KeyError(secret)

    try:
        innermost()
    except KeyError as e:
        msg = f"while reading {secret}"
        raise ValueError(msg) from e


def _assert_hidden(stream: io.StringIO, secret: str) -> None:
    text = stream.getvalue()
    assert "[hidden]" in text
    decoded = text.encode().decode("unicode_escape", "replace")
    for part in (secret, secret[4:16]):
        for spelled in (part, json.dumps(part)[1:-1], repr(part)[1:-1]):
            assert spelled not in text
            assert spelled not in decoded


def test_an_event_is_one_flat_json_object_per_line() -> None:
    stream = _open()
    logger.bind(room="!a:b", turn="t1").info("turn queued", action="turn_queue", waiting=3)
    logger.warning("second")
    first, second = _events(stream)
    assert first["message"] == "turn queued"
    assert (first["level"], first["action"], first["room"], first["turn"], first["waiting"]) == (
        "INFO",
        "turn_queue",
        "!a:b",
        "t1",
        3,
    )
    assert str(first["time"]).endswith("+00:00")
    assert second["action"] == "log"
    assert all(not isinstance(value, dict | list) for value in first.values())


@pytest.mark.parametrize("fmt", ["json", "text"])
@pytest.mark.parametrize("kind", SECRETS)
def test_a_secret_is_hidden_in_message_fields_and_field_values_of_any_type(
    kind: str, fmt: str
) -> None:
    secret = SECRETS[kind]
    stream = _open(fmt)
    logger.info(f"a message with {secret} in it")
    logger.bind(reason=secret, nested={"a": [secret, {"b": secret.encode()}]}, pair=(secret,)).info(
        "fields", action=secret
    )
    logger.bind(error_object=ValueError(secret)).info("an object", action="test")
    logger.bind(**{secret: 1}).info("a name", action="test")
    _assert_hidden(stream, secret)


@pytest.mark.parametrize("fmt", ["json", "text"])
@pytest.mark.parametrize("kind", SECRETS)
def test_a_secret_is_hidden_in_exceptions_their_causes_and_their_groups(
    kind: str, fmt: str
) -> None:
    secret = SECRETS[kind]
    stream = _open(fmt)
    try:
        _nested(secret)
    except ValueError:
        logger.exception("failed", action="test")
    group = ExceptionGroup(f"several: {secret}", [RuntimeError(secret), KeyError(f"'{secret}'")])
    logger.opt(exception=group).error("failed together", action="test")
    _assert_hidden(stream, secret)
    assert "KeyError" in stream.getvalue()
    assert "ExceptionGroup" in stream.getvalue()


def test_variables_are_not_shown_in_a_traceback() -> None:
    stream = _open()
    unregistered = "only-in-a-variable-".upper()
    try:
        assert int(unregistered[:0] or "x") == len(unregistered)
    except ValueError:
        logger.exception("failed", action="test")
    assert unregistered not in stream.getvalue()
    assert "ValueError" in stream.getvalue()


@pytest.mark.parametrize("kind", SECRETS)
def test_a_secret_in_a_librarys_line_is_hidden(kind: str) -> None:
    secret = SECRETS[kind]
    stream = _open()
    log = logging.getLogger("nio.client.async_client")
    log.warning("sent %s", {"Authorization": f"Bearer {secret}"})
    try:
        _nested(secret)
    except ValueError:
        log.exception("died of %r", secret)
    _assert_hidden(stream, secret)
    assert {event["library"] for event in _events(stream)} == {"nio.client.async_client"}


def test_a_field_named_after_a_secret_is_hidden_whatever_its_value() -> None:
    stream = _open()
    logger.bind(access_token="never-registered").info("x", action="test")
    assert "never-registered" not in stream.getvalue()


def test_a_secret_registered_later_is_hidden_from_then_on() -> None:
    stream = _open()
    register_secret("learnt-at-run-time")
    logger.info("has learnt-at-run-time in it")
    assert "learnt" not in stream.getvalue()
    assert redact("learnt-at-run-time") == "[hidden]"


def test_a_cut_leaves_no_half_of_a_secret() -> None:
    secret = SECRETS["room_placeholder"]
    stream = _open()
    for pad in (4096 - 10, 32768 - 10):
        logger.bind(reason="x" * pad + secret).info("long", action="test")
    assert "room-7f" not in stream.getvalue()
    assert all(len(str(event["reason"])) <= 4097 for event in _events(stream))


@pytest.mark.parametrize("level", ["DEBUG", "INFO"])
def test_nio_says_nothing_below_warning_even_where_it_sets_its_own_level(level: str) -> None:
    stream = _open(level="TRACE")
    child = logging.getLogger("nio.responses")
    child.setLevel(logging.DEBUG)
    try:
        child.log(getattr(logging, level), "token and body")
        logging.getLogger("docker.api").log(getattr(logging, level), "noise")
    finally:
        child.setLevel(logging.NOTSET)
    assert stream.getvalue() == ""


def test_other_libraries_are_routed_in_and_so_are_warnings() -> None:
    stream = _open()
    logging.getLogger("somelib").info("a line with {braces} and %s", "an argument")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        warnings.warn("left open", ResourceWarning, stacklevel=1)
        logging.captureWarnings(capture=False)
    first, second = _events(stream)
    assert first["message"] == "a line with {braces} and an argument"
    assert (first["level"], first["library"]) == ("INFO", "somelib")
    assert "left open" in str(second["message"])


def test_a_librarys_wrong_arguments_and_odd_levels_do_not_raise() -> None:
    stream = _open()
    logging.getLogger("somelib").error("%d", "not a number")
    logging.getLogger("somelib").log(33, "between the levels")
    assert [event["level"] for event in _events(stream)] == ["ERROR", "Level 33"]


@pytest.mark.parametrize("fmt", ["json", "text"])
def test_nothing_that_a_field_holds_makes_a_second_line(fmt: str) -> None:
    stream = _open(fmt)
    hostile = 'a\nb\r{"level":"CRITICAL"}\x1b[31m\u2028\x85\ud800\x00'
    logger.bind(room=hostile, action=hostile).info(f"m {hostile}")
    text = stream.getvalue()
    assert len(text.splitlines()) == 1
    assert "\x1b" not in text
    text.encode()


def test_values_that_json_does_not_know_become_texts() -> None:
    stream = _open()
    logger.bind(nan=float("nan"), big=10**5000, small=7, flag=True, none=None, obj=object()).info(
        "odd", action="test"
    )
    (event,) = _events(stream)
    assert event["nan"] == "nan"
    assert (event["small"], event["flag"], event["none"]) == (7, True, None)
    assert isinstance(event["big"], str)


def test_a_field_can_not_replace_what_the_line_itself_says() -> None:
    stream = _open()
    logger.bind(level="NONE", time="never", message="forged").info("true", action="test")
    (event,) = _events(stream)
    assert (event["level"], event["message"], event["level_"]) == ("INFO", "true", "NONE")


def test_what_can_not_be_shown_is_named_and_does_not_raise() -> None:
    stream = _open()
    logger.bind(value=UnprintableError()).info("x", action="test")
    logger.opt(exception=UnprintableError()).error("failed", action="test")
    assert "UnprintableError" in stream.getvalue()
    assert "battery" not in stream.getvalue()
    assert len(_events(stream)) == 2


def test_a_closed_or_full_stream_does_not_end_the_program() -> None:
    class FullDisk(io.StringIO):
        def write(self, text: str, /) -> int:
            raise OSError(28, "No space left on device")

    configure_logging(fmt="json", level="INFO", sink=FullDisk())
    logger.info("lost")
    closed = io.StringIO()
    closed.close()
    configure_logging(fmt="json", level="INFO", sink=closed)
    logger.info("lost, too")


def test_lines_below_the_level_are_left_out() -> None:
    stream = _open(level="WARNING")
    logger.info("no")
    logger.warning("yes")
    assert [event["message"] for event in _events(stream)] == ["yes"]


def test_a_second_configuration_replaces_the_first() -> None:
    first = _open()
    second = _open("text")
    logger.bind(room="!a:b").info("once", action="test")
    assert first.getvalue() == ""
    assert second.getvalue().count("once") == 1
    assert "INFO    test: once" in second.getvalue()
    assert "room=!a:b" in second.getvalue()


def test_the_log_goes_to_stderr_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(fmt="text", level="INFO")
    logger.info("hello", action="test")
    out, err = capsys.readouterr()
    assert out == ""
    assert "test: hello" in err
