"""What is fuzzed: each target takes bytes, runs the real code on them, and checks what must hold.

A target raises AssertionError (or anything else) where it does not. They have no state.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from html.parser import HTMLParser

from orchestrator.core.chunking import split_for_event
from orchestrator.core.egress_body import rewrite_body
from orchestrator.core.egress_http import Denial, parse_head
from orchestrator.core.egress_policy import Route, check_request
from orchestrator.core.render import build_text_content
from orchestrator.core.stream import parse_line
from orchestrator.core.turn_view import Ended, TextReady, TurnView
from orchestrator.errors import WireError
from orchestrator.model import Seq
from orchestrator.runners import wire
from orchestrator.runners.event import CliLine, Reassembler, UpEvent

PLACEHOLDER = "sk-ant-api03-placeholder-of-a-room"
_EVENT_BYTES = 55_000
_ALLOWED_TAGS = frozenset(
    {
        *("h1", "h2", "h3", "h4", "h5", "h6", "p", "br", "hr", "blockquote"),
        *("a", "strong", "em", "s", "del", "code", "pre", "ul", "ol", "li"),
        *("table", "thead", "tbody", "tr", "th", "td"),
    }
)


def fuzz_wire(data: bytes) -> None:
    """Bytes of a runner's stdout: through frames, lines and the turn's view to the messages."""
    splitter, reassembler = wire.LineSplitter(), Reassembler(Seq(1))
    view = TurnView(message_uuid="u", now=0.0)
    with contextlib.suppress(WireError):
        for line in splitter.feed(data):
            wire.is_welcome(line)
            frame = wire.parse_frame(line)
            if not isinstance(frame, wire.PongFrame | wire.FaultFrame):
                _show(reassembler.accept(frame), view)


def fuzz_cli_line(data: bytes) -> None:
    """A line that stands for one of the CLI's."""
    _show(
        CliLine(q=Seq(1), session="s", line=data.decode("utf-8", "replace")),
        TurnView(message_uuid="u", now=0.0),
    )


def fuzz_text(data: bytes) -> None:
    """A text that the model, a tool or a process of the room has the agent say."""
    text = data.decode("utf-8", "surrogatepass" if _is_surrogate(data) else "replace")
    check_content(build_text_content(text))
    for content in split_for_event(text, max_event_bytes=_EVENT_BYTES):
        check_content(content)


def fuzz_head(data: bytes) -> None:
    """The head of a request from a room."""
    head = parse_head(data)
    if isinstance(head, Denial):
        assert 400 <= head.status < 600
        return
    request = check_request(head, placeholder=PLACEHOLDER)
    if not isinstance(request, Denial):
        assert head.method == "POST"
        assert PLACEHOLDER not in "".join(request.headers.values())


def fuzz_body(data: bytes) -> None:
    """The body of a request to the Messages API."""
    checked = rewrite_body(data, route=Route.MESSAGES, user_tag="tag")
    if isinstance(checked, Denial):
        return
    value = json.loads(checked.data)
    assert value["metadata"] == {"user_id": "tag"}
    assert not set(value) & {"mcp_servers", "container"}


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__.removeprefix("fuzz_"): target
    for target in (fuzz_wire, fuzz_cli_line, fuzz_text, fuzz_head, fuzz_body)
}


def check_content(content: object) -> None:
    """A message's content can be sent, pings nobody, loads nothing, runs nothing, hides nothing."""
    assert isinstance(content, dict)
    encoded = json.dumps(content, ensure_ascii=False).encode()  # no lone surrogate
    assert len(encoded) < 65_536
    assert content["m.mentions"] == {}
    body = content["body"]
    for char in body:
        assert char in "\n\t" or not (ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0), repr(char)
        assert not 0x202A <= ord(char) <= 0x202E
        assert not 0x2066 <= ord(char) <= 0x2069
        assert not 0xE0000 <= ord(char) <= 0xE0FFF
    if (html := content.get("formatted_body")) is not None:
        _Checker().check(html)


class _Checker(HTMLParser):
    """The HTML as a parser that is not the sanitiser's sees it."""

    def check(self, html: str) -> None:
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Allowed tags and attributes; links go to the web or to a mailbox, never into Matrix."""
        assert tag in _ALLOWED_TAGS, tag
        for name, value in attrs:
            assert (tag, name) in {
                ("a", "href"),
                ("a", "title"),
                ("code", "class"),
                ("ol", "start"),
                ("th", "style"),
                ("td", "style"),
            }, (tag, name)
            if name == "href":
                assert value is not None
                assert value.lower().startswith(("https://", "http://", "mailto:")), value
                assert "matrix.to" not in value.lower().split("/")[2:3], value

    def handle_comment(self, data: str) -> None:
        """There are none."""
        raise AssertionError(data)


def _show(event: UpEvent | None, view: TurnView) -> None:
    if not isinstance(event, CliLine):
        return
    for show in view.feed(parse_line(event.line), seq=event.q, now=1.0):
        if isinstance(show, TextReady):
            check_content(build_text_content(show.text))
        if isinstance(show, Ended) and show.reason is not None:
            check_content(build_text_content(show.reason, notice=True))


def _is_surrogate(data: bytes) -> bool:
    try:
        data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True


if __name__ == "__main__":
    print(*TARGETS)  # noqa: T201
