"""What is invisible or active in text is gone or can be seen; the rest is untouched."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.sanitise import sanitise


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b[38;2;1;2;3mx\x1b[K", "x"),
        ("\x9b31mred", "red"),
        ("\x1b]0;title\x07x", "x"),
        ("\x1b]8;;https://e.org\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b(Bx\x1b7", "x"),
        ("\x1b]0;never ends\nkept", "]0;never ends\nkept"),
        ("a\x00b\x08c\x7fd\x85e", "abcd\ne"),
        ("a\r\nb\rc\u2028d", "a\nb\nc\nd"),
        ("a\tb", "a\tb"),
        ("x = '\u202e'cba", "x = '[U+202E]'cba"),
        ("\u2066a\u2069", "[U+2066]a[U+2069]"),
        ("a\u200bb\ufeffc\u00add\u200ee", "abcde"),
        ("a\U000e0041\U000e0042b", "ab"),
        ("a\ud800b", "a\ufffdb"),
        ("👩\u200d💻 می\u200cخواهم e\u0301 ☺\ufe0f", "👩\u200d💻 می\u200cخواهم e\u0301 ☺\ufe0f"),
    ],
)
def test_what_acts_or_hides_is_removed_or_made_visible(text: str, expected: str) -> None:
    assert sanitise(text) == expected


@given(st.text(alphabet=st.characters() | st.sampled_from("\x1b[]m;\x07\x9b\u202e\r\n")))
def test_sanitising_leaves_no_control_and_can_be_repeated(text: str) -> None:
    once = sanitise(text)
    assert [c for c in once if unicodedata.category(c) in {"Cc", "Cs"} and c not in "\t\n"] == []
    assert sanitise(once) == once


@given(st.text(alphabet=st.characters(categories=["L", "N", "P", "Zs", "Sm"], max_codepoint=0x2AF)))
def test_ordinary_text_is_left_as_it_is(text: str) -> None:
    assert sanitise(text) == text
