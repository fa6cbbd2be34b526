"""Reading JSON that a homeserver passes on from anybody."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.matrix.rawjson import MAX_DEPTH, cut_depth, dump_json, parse_json, parse_object

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_ordinary_json_comes_back_as_it_was(value: object) -> None:
    assert parse_json(json.dumps(value).encode()) == value


@pytest.mark.parametrize("depth", [2000, 100_000])
def test_a_deeply_nested_neighbour_leaves_the_rest_readable(depth: int) -> None:
    deep = "[" * depth + "]" * depth
    data = f'{{"a":{deep},"b":[1,{{"c":{deep}}}],"d":"[[[\\"{{"}}'.encode()
    value = parse_object(data)
    assert value["d"] == '[[["{'
    assert json.dumps(value["b"]).startswith('[1, {"c": ')


def test_nesting_up_to_the_limit_is_left_alone() -> None:
    fits = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert cut_depth(fits) == fits
    assert cut_depth(f"[{fits},5]") != f"[{fits},5]"
    assert json.loads(cut_depth(f"[{fits},5]"))[1] == 5


def test_numbers_that_python_refuses_become_text_or_null() -> None:
    data = b'{"big":' + b"9" * 5000 + b',"nan":NaN,"inf":1e999,"ok":-12,"pi":3.5}'
    value = parse_object(data)
    assert value == {"big": "9" * 5000, "nan": None, "inf": "1e999", "ok": -12, "pi": 3.5}
    assert json.loads(dump_json(value)) == value


def test_lone_surrogates_and_broken_utf8_become_storable_text() -> None:
    value = parse_object(b'{"a":"\\ud800","b":"\xff"}')
    text = dump_json(value)
    assert text.isascii()
    assert text == '{"a":"\\ud800","b":"\\ufffd"}'


@pytest.mark.parametrize(
    "data", [b"", b"{", b'{"a":', b"<html>", b"[1]", b"5", b"null", b"[" * 5000, b'{"a":1}x']
)
def test_what_is_no_json_object_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - json's own message
        parse_object(data)
