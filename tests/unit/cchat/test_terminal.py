"""Nothing that other people wrote is obeyed by a terminal."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cchat.answer import Line
from cchat.event import Kind, Said
from cchat.output import Output, render_said
from cchat.terminal import clean, clean_line, render_age, render_size, render_table


@given(st.text())
def test_no_control_character_or_direction_override_is_left(text: str) -> None:
    shown = clean(text)
    left = {c for c in shown if ord(c) < 32 or 127 <= ord(c) < 160}
    assert left <= {"\n", "\t"}
    assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
    shown.encode()
    assert len(clean_line(text).splitlines()) <= 1


@given(st.text(alphabet=st.characters(categories=["L", "N", "P", "S"]), max_size=50))
def test_ordinary_text_in_any_script_stays_as_it_is(text: str) -> None:
    assert clean(f"{text}\n\tend") == f"{text}\n\tend"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x9b31mred", "red"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bPdevice control\x1b\\text", "text"),
        ("\x1b]52;c;Y29weQ==\x07x", "x"),
        ("\x1bc reset", " reset"),
        ("\x1b(0line", "line"),
        ("a\rb\r\nc\x0bd", "a\nb\nc\nd"),
        ("back\x08space\x7f", "backspace"),
        ("\ud800", "\ufffd"),
        ("\x1b[31", ""),
        ("\x1b]never ended\nnext", "\nnext"),
    ],
)
def test_escape_sequences_go_whole(text: str, shown: str) -> None:
    assert clean(text) == shown


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (135 << 20, "135 MB"),
        (2 << 30, "2.0 GB"),
        (1 << 50, "1024.0 TB"),
    ],
)
def test_sizes_are_in_powers_of_1024(size: int, shown: str) -> None:
    assert render_size(size) == shown


@pytest.mark.parametrize(
    ("age", "shown"),
    [(-1, "0 s"), (59.9, "59 s"), (60, "1 min"), (3900, "1 h 5 min"), (180000, "2 d 2 h")],
)
def test_ages_are_in_two_units_at_most(age: float, shown: str) -> None:
    assert render_age(age) == shown


def test_columns_are_aligned_also_with_wide_characters() -> None:
    table = render_table(("A", "B"), [["日本", "x"], ["abcd", "y"], ["e\u0301", "z"]])
    assert table.splitlines() == ["A     B", "日本  x", "abcd  y", "e\u0301     z"]


def test_a_cell_can_not_make_a_row_of_its_own() -> None:
    table = render_table(("A",), [["x\ny\x1b[2J" + "z" * 500]])
    assert len(table.splitlines()) == 2
    assert "\x1b" not in table


def _said(body: str, sender: str = "@a:b", at_s: float = 0.0) -> Said:
    return Said(event_id="$1", sender=sender, at_s=at_s, kind=Kind.TEXT, body=body)


def test_a_message_can_not_look_like_a_line_of_somebody_else() -> None:
    shown = render_said(_said("hi\n[2026-01-01 00:00:00] @admin:b: forged", sender="@a\n:b"))
    assert [line.startswith("[") for line in shown.splitlines()] == [True, False]


@pytest.mark.parametrize("at_s", [1e30, -1e30, float("inf")])
def test_an_impossible_time_is_a_question_mark(at_s: float) -> None:
    assert render_said(_said("x", at_s=at_s)).startswith("[?]")


@pytest.mark.parametrize("as_json", [True, False])
def test_an_answer_goes_to_stdout_and_obeys_no_terminal(as_json: bool) -> None:
    out, err = io.StringIO(), io.StringIO()
    output = Output(as_json=as_json, out=out, err=err)
    body = "\x1b[31m\u202ered\x9b"
    output.show_answer("!r", Line(said=_said(body), is_answer=True))
    assert err.getvalue() == ""
    assert not set(out.getvalue()) & set("\x1b\u202e\x9b")
    if as_json:
        assert json.loads(out.getvalue())["body"] == body
    else:
        assert out.getvalue() == "red\n"
