"""Small pictures made in a real runner: of images that are well, strange, or made to break."""

from __future__ import annotations

import asyncio
import contextlib
import struct
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from orchestrator.core.thumbnail import HEIGHT, MOST_BYTES, WIDTH, Thumbnail, parse_thumbnail
from orchestrator.errors import FileRefusedError
from orchestrator.runners.event import AsideLine
from orchestrator.runners.file_client import FileClient
from orchestrator.runners.link import RunnerLink
from tests.support.hostile_room import Room, open_rooms
from tests.support.runner_engine import ensure_runner_image

pytestmark = [pytest.mark.docker, pytest.mark.timeout(400)]

# What people and programs make, by the Pillow that the image has.
PHOTO = """
from PIL import Image
def save(name, image, **more):
    image.save(f"/workspace/{name}", **more)
left_red = Image.new("RGB", (1600, 1200), "blue")
left_red.paste("red", (0, 0, 800, 1200))
save("photo.jpg", left_red)
"""
DRAW = (
    PHOTO
    + """
for held in range(1, 9):
    exif = Image.Exif()
    exif[0x0112] = held
    exif[0x010F] = "a camera that says where you live"
    save(f"held{held}.jpg", left_red, exif=exif)
save("flat.png", left_red)
save("wide.webp", left_red.resize((3000, 100)))
clear = left_red.convert("RGBA")
clear.paste((0, 0, 0, 0), (0, 0, 800, 1200))
save("clear.png", clear)
save("opaque.png", left_red.convert("RGBA"))
save("grey16.png", Image.new("I;16", (1000, 1000), 40000))
save("cmyk.jpg", left_red.convert("CMYK"))
save("palette.gif", left_red.convert("P"))
first = left_red.resize((840, 630))
save("moving.gif", first, save_all=True, append_images=[first.rotate(180)] * 5)
save("moving.webp", first, save_all=True, append_images=[first.rotate(180)] * 2)
import random
noise = Image.frombytes("RGBA", (1200, 900), random.Random(1).randbytes(1200 * 900 * 4))
save("noise.png", noise)
"""
)
LOOK = """
from PIL import Image
image = Image.open("/workspace/made"); image.load()
width, height = image.size
corners = [(1, 1), (width - 2, 1), (1, height - 2), (width - 2, height - 2)]
print(json.dumps([image.format, image.mode, sorted(image.getexif()),
                  [image.convert("RGBA").getpixel(corner) for corner in corners]]))
"""


@asynccontextmanager
async def open_files(link: RunnerLink) -> AsyncIterator[FileClient]:
    files = FileClient(link, is_live=False)

    async def hear() -> None:
        async for event in link.events():
            if isinstance(event, AsideLine):
                files.hear_aside(event)
            else:
                files.hear(event)
                await link.ack(event.q)

    async with asyncio.TaskGroup() as group:
        hearing = group.create_task(hear())
        try:
            yield files
        finally:
            hearing.cancel()


async def make(files: FileClient, path: str) -> Thumbnail:
    made = await files.thumbnail(
        path, width=WIDTH, height=HEIGHT, most_bytes=MOST_BYTES, max_bytes=20 << 20
    )
    thumbnail = parse_thumbnail(made)
    assert thumbnail is not None, path
    return thumbnail


async def look(room: Room, thumbnail: Thumbnail) -> tuple[str, str, str]:
    """Its format and mode, and the colours of its corners: R, B, or a dot where it is clear."""
    path = room.spec.workspace / "made"
    path.write_bytes(thumbnail.data)
    path.chmod(0o644)
    kind, mode, exif, corners = await room.attack(LOOK)
    assert exif == [], "what a camera wrote down stays behind"
    return kind, mode, "".join(colour(corner) for corner in corners)


def colour(pixel: list[int]) -> str:
    red, _, blue, alpha = pixel
    return "." if alpha == 0 else "R" if red > 200 > blue else "B" if blue > 200 > red else "?"


def png(width: int, height: int, rows: bytes, *, bits: int = 8, kind: int = 2) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + checksum

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


HARMLESS = {"more-rows.png"}
"""A decoder may stop where the picture is whole; what follows is not even read then."""


def bombs() -> dict[str, bytes]:
    zeros = zlib.compress(bytes(200 << 20), 9)
    jpeg = b"\xff\xd8\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03\x01\x11\x00\x02\x11\x01\x03\x11\x01"
    return {
        "bomb.png": png(30_000, 30_000, zeros),
        "huge-sides.png": png(2**31 - 1, 2**31 - 1, b""),
        "huge-sides.jpg": jpeg + b"\xff\xda" + bytes(5000),
        "huge-sides.gif": b"GIF89a\xff\xff\xff\xff\x80\x00\x00" + bytes(6) + b",",
        "wrong-type.jpg": b"\xff\xd8\xff" + b"not a picture" * 100,
        "page.png": b"%PDF-1.4 (not a picture)",
        "script.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9000 9000\n(x) run\n",
        "empty.png": b"",
        "no-rows.png": png(1000, 1000, b"\x78\x9c"),
        "more-rows.png": png(1000, 1000, zeros),
    }


@pytest.fixture(scope="module")
def image() -> str:
    return ensure_runner_image()


@pytest.mark.filterwarnings("default")
async def test_pictures_are_small_upright_still_and_say_nothing_of_their_cameras(
    tmp_path: Path, image: str
) -> None:
    async with open_rooms(tmp_path, image) as rooms, open_files(rooms.first.link) as files:
        room = rooms.first
        assert await room.attack(DRAW + "print(1)") == 1
        upright = {1: "RBRB", 2: "BRBR", 3: "BRBR", 4: "RBRB"}
        sideways = {5: "RRBB", 6: "RRBB", 7: "BBRR", 8: "BBRR"}
        for held, corners in (upright | sideways).items():
            made = await make(files, f"held{held}.jpg")
            assert (made.width, made.height) == ((450, 600) if held in sideways else (800, 600))
            assert await look(room, made) == ("JPEG", "RGB", corners), held
        for name, seen in {
            "photo.jpg": ("JPEG", "RGB", "RBRB"),
            "flat.png": ("JPEG", "RGB", "RBRB"),
            "wide.webp": ("JPEG", "RGB", "RBRB"),
            "clear.png": ("PNG", "RGBA", ".B.B"),
            "opaque.png": ("JPEG", "RGB", "RBRB"),
            "cmyk.jpg": ("JPEG", "RGB", "RBRB"),
            "palette.gif": ("JPEG", "RGB", "RBRB"),
            "moving.gif": ("JPEG", "RGB", "RBRB"),
            "moving.webp": ("JPEG", "RGB", "RBRB"),
        }.items():
            made = await make(files, name)
            assert await look(room, made) == seen, name
        assert (await make(files, "grey16.png")).mimetype == "image/jpeg"
        noise = await make(files, "noise.png")
        assert noise.mimetype == "image/png"
        assert noise.width < WIDTH, "made smaller until it had few enough bytes"


async def test_what_is_made_to_break_a_decoder_gives_none_and_breaks_nothing(
    tmp_path: Path, image: str
) -> None:
    async with open_rooms(tmp_path, image) as rooms, open_files(rooms.first.link) as files:
        room = rooms.first
        assert await room.attack(PHOTO + "print(1)") == 1
        whole = (room.spec.workspace / "photo.jpg").read_bytes()
        hostile = {**bombs(), "cut.jpg": whole[: len(whole) // 2], "head.jpg": whole[:700]}
        made: set[str] = set()
        for name, data in hostile.items():
            (room.spec.workspace / name).write_bytes(data)
            (room.spec.workspace / name).chmod(0o644)
            with contextlib.suppress(FileRefusedError):
                await make(files, name)
                made.add(name)
        assert made <= HARMLESS
        info = await room.info()
        assert info is not None
        assert not info.oom_killed
        left = await room.attack(
            "print(json.dumps([p for p in os.listdir('/proc') if p.isdigit() "
            "and b'thumbnail' in open(f'/proc/{p}/cmdline', 'rb').read()]))"
        )
        assert left == []
        assert (await make(files, "photo.jpg")).mimetype == "image/jpeg", "the next one is made"
