"""What the model is shown of what people send: whole images that the API takes, and no more."""

from __future__ import annotations

import json
import struct

import pytest

from orchestrator.core.cli_input import Image, build_user_message
from orchestrator.core.shown_image import MAX_ALL_BYTES, choose_image
from orchestrator.runners.wire import MAX_INPUT_LINE_BYTES


def png(width: int = 10, height: int = 10, *, size: int = 100) -> bytes:
    head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", width, height)
    return head.ljust(size, b"\0")


GIF = b"GIF89a" + struct.pack("<HH", 3, 4) + b"\0" * 20
JPEG = b"\xff\xd8\xff\xc0\x00\x11\x08\x00\x04\x00\x03" + b"\0" * 20
WEBP = b"RIFF\0\0\0\0WEBPVP8X" + b"\0" * 8 + b"\x02\0\0\x03\0\0"


@pytest.mark.parametrize(
    ("data", "kind"),
    [(png(), "png"), (GIF, "gif"), (JPEG, "jpeg"), (WEBP, "webp"), (png(8000, 8000), "png")],
)
def test_images_that_the_api_takes_are_shown(data: bytes, kind: str) -> None:
    assert choose_image(data, []) == Image(mimetype=f"image/{kind}", data=data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"words",
        b"%PDF-1.7",
        png()[:20],
        png(0, 10),
        png(8001, 10),
        png(size=3_750_001),
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    ],
)
def test_what_is_none_or_too_much_is_only_a_file(data: bytes) -> None:
    assert choose_image(data, []) is None


def test_all_of_a_turn_fit_into_one_line_with_its_words() -> None:
    shown: list[Image] = []
    while (image := choose_image(png(size=900_000), shown)) is not None:
        shown.append(image)
    assert len(shown) == MAX_ALL_BYTES // 900_000
    line = build_user_message("w" * 1_000_000, message_uuid="u", images=shown)
    assert len(line) < MAX_INPUT_LINE_BYTES


def test_images_stand_before_the_words() -> None:
    image = Image(mimetype="image/gif", data=GIF)
    line = json.loads(build_user_message("/look", message_uuid="u", images=[image]))
    first, last = line["message"]["content"]
    assert first["source"]["media_type"] == "image/gif"
    assert last == {"type": "text", "text": " /look"}
