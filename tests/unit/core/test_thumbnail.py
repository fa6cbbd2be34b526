"""Small pictures: which images need one, what counts as one, and what is uploaded of a message."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.thumbnail import (
    MOST_BYTES,
    Thumbnail,
    add_info,
    drop_thumbnail,
    name_upload,
    needs_thumbnail,
    next_upload,
    parse_thumbnail,
    waits_for_thumbnail,
)
from orchestrator.model import JsonObject


def png(width: int, height: int, more: bytes = b"") -> bytes:
    """The beginning of one."""
    head = struct.pack(">II", width, height)
    return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + head + b"x" * 20 + more


def thumbnail(width: int = 800, height: int = 600) -> Thumbnail:
    made = parse_thumbnail(png(width, height))
    assert made is not None
    return made


@pytest.mark.parametrize(
    ("image", "needed"),
    [
        (png(800, 600), False),
        (png(801, 10), True),
        (png(10, 601), True),
        (b"GIF89a" + struct.pack("<HH", 1000, 1000), True),
        (b"GIF89a" + struct.pack("<HH", 10, 1000)[:3], False),
        (b"%PDF-" + png(1000, 1000), False),
        (b"", False),
    ],
)
def test_an_image_that_is_larger_than_its_thumbnail_needs_one(image: bytes, needed: bool) -> None:
    assert needs_thumbnail(image) is needed


@pytest.mark.parametrize(
    "given_for_one",
    [
        b"",
        b"\x89PNG",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"GIF89a" + struct.pack("<HH", 10, 10),
        png(801, 600),
        png(800, 601),
        png(800, 600, b"x" * MOST_BYTES),
    ],
)
def test_what_is_no_small_jpeg_or_png_is_no_thumbnail(given_for_one: bytes) -> None:
    assert parse_thumbnail(given_for_one) is None


@given(st.binary(max_size=80) | st.binary(max_size=80).map(lambda rest: png(9, 9)[:16] + rest))
def test_any_bytes_are_a_thumbnail_within_the_limits_or_none(data: bytes) -> None:
    needs_thumbnail(data)
    made = parse_thumbnail(data)
    assert made is None or (0 < made.width <= 800 and 0 < made.height <= 600)


def test_an_image_that_its_camera_turned_has_the_sides_that_people_see() -> None:
    info: JsonObject = {"mimetype": "image/jpeg", "size": 9, "w": 4000, "h": 3000}
    upright = add_info(info, thumbnail(450, 600))
    assert (upright["w"], upright["h"]) == (3000, 4000)
    same = add_info(info, thumbnail(800, 600))
    assert (same["w"], same["h"]) == (4000, 3000)
    assert same["thumbnail_info"] == {"mimetype": "image/png", "size": 44, "w": 800, "h": 600}


@pytest.mark.parametrize(
    ("addresses", "named"),
    [
        (({"url": "mxc://a/1"}, {"url": "mxc://a/2"}), {"thumbnail_url": "mxc://a/2"}),
        (({"file": {"url": "1"}}, {"file": {"url": "2"}}), {"thumbnail_file": {"url": "2"}}),
    ],
)
def test_a_file_is_uploaded_first_and_then_its_thumbnail(
    addresses: tuple[JsonObject, JsonObject], named: JsonObject
) -> None:
    small = thumbnail()
    content: JsonObject = {"info": add_info({"mimetype": "image/png", "size": 3}, small)}
    first = next_upload(content, b"abc" + small.data)
    assert (first.data, first.mimetype, first.rest) == (b"abc", "image/png", small.data)
    content = name_upload(content, first, addresses[0])
    assert waits_for_thumbnail(content)
    assert first.rest is not None
    second = next_upload(content, first.rest)
    assert (second.data, second.rest) == (small.data, None)
    whole = name_upload(content, second, addresses[1])
    info = whole["info"]
    assert isinstance(info, dict)
    assert named.items() <= info.items()
    assert addresses[0].items() <= whole.items()
    assert drop_thumbnail(whole)["info"] == {"mimetype": "image/png", "size": 3}


def test_a_file_without_a_thumbnail_is_all_that_waits() -> None:
    content: JsonObject = {"info": {"mimetype": "text/plain"}}
    upload = next_upload(content, b"words")
    assert (upload.data, upload.mimetype, upload.rest) == (b"words", "text/plain", None)
    assert not waits_for_thumbnail({**content, "url": "mxc://a/1"})
    assert next_upload({}, b"x").mimetype == "application/octet-stream"
