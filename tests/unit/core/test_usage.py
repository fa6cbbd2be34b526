"""What an answer used is read from it in passing, in whatever pieces it comes."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core import usage as usage_module
from orchestrator.core.usage import MAX_LINE_BYTES, Usage, UsageReader
from orchestrator.model import JsonObject, JsonValue


def _event(kind: str, **fields: JsonValue) -> bytes:
    data = json.dumps({"type": kind, **fields}, ensure_ascii=False)
    return f"event: {kind}\ndata: {data}\n\n".encode()


def _start(**usage: JsonValue) -> bytes:
    return _event("message_start", message={"model": "claude-opus-5-5", "usage": usage})


def _text(text: str) -> bytes:
    delta: JsonObject = {"type": "text_delta", "text": text}
    return _event("content_block_delta", index=0, delta=delta)


STREAM = (
    _start(
        input_tokens=10,
        cache_creation_input_tokens=30,
        cache_creation={"ephemeral_1h_input_tokens": 20, "ephemeral_5m_input_tokens": 10},
        cache_read_input_tokens=400,
        output_tokens=1,
        service_tier="standard",
    )
    + _event("ping")
    + _text('he says "usage": {"output_tokens": 9999} 🎉')
    + _event(
        "message_delta",
        delta={"stop_reason": "end_turn"},
        usage={"output_tokens": 55, "server_tool_use": {"web_search_requests": 2}},
    )
    + _event("message_stop")
)
USED = Usage(
    input_tokens=10,
    write_5m_tokens=10,
    write_1h_tokens=20,
    read_tokens=400,
    output_tokens=55,
    searches=2,
)


def _read(*pieces: bytes, is_stream: bool = True) -> UsageReader:
    reader = UsageReader(is_stream=is_stream)
    for piece in pieces:
        reader.feed(piece)
    reader.end()
    return reader


def _own(reader: UsageReader) -> Usage:
    return reader.shares()[0].usage


@given(st.lists(st.integers(0, len(STREAM)), max_size=30))
def test_wherever_a_stream_is_cut_into_pieces_it_says_the_same(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    reader = _read(*(STREAM[a:b] for a, b in itertools.pairwise(edges)))
    assert _own(reader) == USED
    assert reader.is_complete
    assert reader.model == "claude-opus-5-5"


def test_lines_may_end_as_windows_ends_them() -> None:
    assert _own(_read(STREAM.replace(b"\n", b"\r\n"))) == USED


def test_an_answer_in_one_piece_says_the_same() -> None:
    body = {"model": "m", "content": [], "usage": {"input_tokens": 3, "output_tokens": 4}}
    raw = json.dumps(body).encode()
    reader = _read(raw[:7], raw[7:], is_stream=False)
    assert _own(reader) == Usage(input_tokens=3, output_tokens=4)
    assert reader.is_complete


def test_a_text_that_speaks_of_usage_is_text() -> None:
    words = _text('{"type":"message_delta","usage":{"output_tokens":1}}')
    reader = _read(_start(input_tokens=1, output_tokens=1), words)
    assert _own(reader).output_tokens == 1
    assert not reader.is_complete
    assert reader.written_tokens >= 15


def test_a_stream_that_breaks_off_is_counted_by_what_was_written() -> None:
    reader = _read(_start(input_tokens=7, output_tokens=1), *[_text("word " * 40)] * 10)
    assert _own(reader).input_tokens == 7
    assert 600 <= reader.written_tokens <= 1200
    assert _read(*[_text("")] * 50).written_tokens >= 50


def test_a_stream_without_usage_has_none_and_is_not_free() -> None:
    reader = _read(_text("some words that were written"))
    assert reader.shares() == []
    assert not reader.has_usage
    assert reader.written_tokens > 0


def test_other_models_of_an_answer_are_counted_as_what_they_are() -> None:
    counts = {"input_tokens": 100, "output_tokens": 10}
    reader = _read(
        _start(input_tokens=1, output_tokens=1),
        _event(
            "message_delta",
            usage={
                "output_tokens": 30,
                "iterations": [
                    {"type": "message", **counts},
                    {"type": "advisor_message", "model": "claude-fable-5-2", **counts},
                    {"type": "compaction", **counts},
                    "nonsense",
                ],
            },
        ),
    )
    own, advisor, compaction = reader.shares()
    assert own.usage == Usage(input_tokens=100, output_tokens=30)
    assert (advisor.model, compaction.model) == ("claude-fable-5-2", "claude-opus-5-5")
    assert advisor.usage == compaction.usage == Usage(input_tokens=100, output_tokens=10)


def test_speed_and_region_are_those_that_the_answer_names() -> None:
    own = _own(_read(_start(input_tokens=1, output_tokens=1, speed="fast", inference_geo="us")))
    assert own.is_fast
    assert own.is_us


@pytest.mark.parametrize("count", [-5, "7", None, True, 1.5, [], 10**40])
def test_a_count_that_is_no_count_harms_nothing(count: JsonValue) -> None:
    own = _own(_read(_start(input_tokens=count, output_tokens=2)))
    assert 0 <= own.input_tokens <= 10**9
    assert own.output_tokens == 2


def test_a_line_of_any_length_is_held_only_up_to_the_limit() -> None:
    reader = UsageReader(is_stream=True)
    for _ in range(40):
        reader.feed(b"x" * 100_000)
        assert len(reader._held) <= MAX_LINE_BYTES
    reader.feed(b"\n" + STREAM)
    reader.end()
    assert _own(reader) == USED
    assert reader.written_bytes > 1_000_000


def test_an_endless_answer_in_one_piece_is_held_only_up_to_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(usage_module, "MAX_WHOLE_BYTES", 1000)
    reader = UsageReader(is_stream=False)
    for _ in range(100):
        reader.feed(b"x" * 100)
        assert len(reader._held) <= 1000
    reader.end()
    assert not reader.has_usage
    assert reader.written_bytes == 10_000


@given(st.lists(st.binary(max_size=200), max_size=10), st.booleans())
def test_no_bytes_raise_and_no_number_is_negative(pieces: list[bytes], is_stream: bool) -> None:
    reader = _read(*pieces, is_stream=is_stream)
    for share in reader.shares():
        assert share.usage.prompt_tokens >= 0
    assert reader.written_tokens >= 0


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@given(_json, _json, _json)
def test_any_values_in_the_events_are_read_without_harm(
    usage: JsonValue, model: JsonValue, iterations: JsonValue
) -> None:
    reader = _read(
        _event("message_start", message={"model": model, "usage": usage}),
        _event("message_delta", usage={"output_tokens": 3, "iterations": iterations}),
    )
    assert _own(reader).output_tokens == 3
