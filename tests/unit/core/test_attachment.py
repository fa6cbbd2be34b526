"""A file's name becomes one safe part of a path, and its kind is what its bytes say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.attachment import (
    build_safe_name,
    choose_path,
    decode_attachment,
    encode_attachment,
    msgtype_of,
    parse_attachment,
    parse_caption,
    sniff,
)

MXC = "mxc://example.org/AbC_-1"
SEALED = {"url": MXC, "key": {"k": "key"}, "iv": "iv", "hashes": {"sha256": "hash"}}


@given(st.text(max_size=400))
def test_any_name_is_one_visible_part_of_a_path(name: str) -> None:
    safe = build_safe_name(name)
    assert safe
    assert len(safe.encode()) <= 140
    assert "/" not in safe
    assert "\\" not in safe
    assert not safe.startswith((".", "-"))
    assert safe.isprintable()
    assert not any(sign in safe for sign in " \t\n'\"`$;&|<>*?!~#\0")


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("report.pdf", "report.pdf"),
        ("../../etc/passwd", "etc_passwd"),
        ("-rf *", "rf"),
        (".bashrc", "bashrc"),
        ("Größe (1).txt", "Größe_(1).txt"),
        ("", "file"),
        ("\u202egpj.exe", "U+202E_gpj.exe"),
        ("a" * 300 + ".txt", "a" * 116 + ".txt"),
        ("日本語.md", "日本語.md"),
    ],
)
def test_a_name_stays_readable(name: str, safe: str) -> None:
    assert build_safe_name(name) == safe


def test_a_name_that_is_taken_gets_a_number() -> None:
    taken = {"uploads/a.txt", "uploads/a-2.txt", "uploads/b"}
    assert choose_path("a.txt", taken) == "uploads/a-3.txt"
    assert choose_path("b", taken) == "uploads/b-2"
    assert choose_path("c", taken) == "uploads/c"


@pytest.mark.parametrize(
    ("data", "mime"),
    [
        (b"\x89PNG\r\n\x1a\n....", "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"GIF89a", "image/gif"),
        (b"RIFF....WEBPVP8 ", "image/webp"),
        (b"%PDF-1.7", "application/pdf"),
        (b"OggS...", "audio/ogg"),
        (b"....ftypisom", "video/mp4"),
        (b"hello, world", "text/plain"),
        ("größe".encode(), "text/plain"),
        (b"a\0b", "application/octet-stream"),
        (b"\xff\xfe\x80", "application/octet-stream"),
        (b"\xff\xfe\xfd\x80" * 2000, "application/octet-stream"),
        ("é".encode() * 4000 + b"x", "text/plain"),
        (b"x" + "é".encode() * 4000, "text/plain"),
        (b"", "text/plain"),
        (b"<svg onload=x>", "text/plain"),
    ],
)
def test_what_a_file_is_is_said_by_its_bytes(data: bytes, mime: str) -> None:
    assert sniff(data) == mime


def test_how_a_file_is_sent() -> None:
    kinds = ["image/png", "audio/ogg", "video/mp4", "text/plain"]
    assert [msgtype_of(kind) for kind in kinds] == ["m.image", "m.audio", "m.video", "m.file"]


def test_a_plain_and_a_sealed_file_are_read_and_stored() -> None:
    plain = parse_attachment({"url": MXC, "body": "a.txt", "info": {"size": 3}})
    assert plain is not None
    assert (plain.server, plain.media_id, plain.name, plain.size_bytes) == (
        "example.org",
        "AbC_-1",
        "a.txt",
        3,
    )
    sealed = parse_attachment({"file": SEALED, "body": "words", "filename": "b.txt"})
    assert sealed is not None
    assert (sealed.key, sealed.iv, sealed.sha256, sealed.name) == ("key", "iv", "hash", "b.txt")
    for attachment in (plain, sealed, None):
        assert decode_attachment(encode_attachment(attachment)) == attachment


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"url": "https://example.org/x"},
        {"url": "mxc://../../x"},
        {"url": "mxc://example.org/../x"},
        {"url": 7},
        {"file": [1]},
        {"file": {"url": MXC}},
        {"file": {**SEALED, "iv": None}},
        {"file": {**SEALED, "key": "x"}},
    ],
)
def test_what_names_no_file_that_can_be_fetched_is_none(content: dict[str, object]) -> None:
    assert parse_attachment(content) is None


def test_a_caption_is_a_body_that_is_not_the_name() -> None:
    assert parse_caption({"body": "look", "filename": "a.png"}) == "look"
    assert parse_caption({"body": "a.png", "filename": "a.png"}) == ""
    assert parse_caption({"body": "a.png"}) == ""


@given(
    st.dictionaries(
        st.sampled_from(["url", "file", "body", "filename", "info"]),
        st.none() | st.text(max_size=30) | st.integers() | st.dictionaries(st.text(), st.text()),
    )
)
def test_any_content_is_read_without_an_error(content: dict[str, object]) -> None:
    parse_attachment(content)
    parse_caption(content)
