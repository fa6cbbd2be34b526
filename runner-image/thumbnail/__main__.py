"""A small picture of the image on stdin, on stdout; nothing, and exit code 1, where there is none.

    thumbnail WIDTH HEIGHT MOST_BYTES

What it decodes may be made to break what decodes it. So it is a process of its own, with the room's
uid in the room's container, with limits on its memory and its time, and it knows nothing. The first
picture of a moving one, turned as a camera says; JPEG, or PNG where something shines through.
"""

from __future__ import annotations

import contextlib
import io
import os
import resource
import sys

TYPE_CHECKING = False  # as typing's, without importing it
if TYPE_CHECKING:
    from PIL import Image

# Debian's python3-pil; without `site` nothing else of it is on the path.
_PACKAGES = "/usr/lib/python3/dist-packages"
_FORMATS = ("JPEG", "PNG", "GIF", "WEBP")
# As cameras make them. As RGBA these are 160 MB, twice while they are made smaller.
_MOST_PIXELS = 40_000_000
_MEMORY_BYTES = 512 << 20
_CPU_S = 5
_ORIENTATION = 0x0112
# A picture that needs more bytes than it may have is made half as large, so often.
_ROUNDS = 3
_JPEG_QUALITY = 80


def main() -> int:
    """Make it; the exit code."""
    width, height, most_bytes = (int(value) for value in sys.argv[1:4])
    _limit(most_bytes)
    sys.path.append(_PACKAGES)
    try:
        made = _make(sys.stdin.buffer.read(), (width, height), most_bytes)
    except Exception:  # noqa: BLE001 -- whatever is wrong with it: there is no picture
        made = None
    if made is None:
        return 1
    sys.stdout.buffer.write(made)
    sys.stdout.buffer.flush()
    return 0


def _limit(most_bytes: int) -> None:
    # A runner has a limit of core dumps, which nothing in it may change (core/seccomp.py).
    for what, most in (
        (resource.RLIMIT_AS, _MEMORY_BYTES),
        (resource.RLIMIT_CPU, _CPU_S),
        (resource.RLIMIT_FSIZE, most_bytes),
    ):
        hard = resource.getrlimit(what)[1]
        least = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (least, least))
    # Where the room is short of memory this goes, and not what its agent works with.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
        file.write("1000")


def _make(data: bytes, size: tuple[int, int], most_bytes: int) -> bytes | None:
    from PIL import Image

    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        if image.width * image.height > _MOST_PIXELS:
            return None
        held = image.getexif().get(_ORIENTATION, 1)
        turn, is_sideways = _turns(Image.Transpose).get(held), held in range(5, 9)
        bounds = size[::-1] if is_sideways else size
        image.draft("RGB", (2 * bounds[0], 2 * bounds[1]))
        small = _plain(image)
    small.thumbnail(bounds, Image.Resampling.BICUBIC, reducing_gap=2.0)
    if turn is not None:
        small = small.transpose(turn)
    for _ in range(_ROUNDS):
        made = _encode(small)
        if len(made) <= most_bytes:
            return made
        small.thumbnail((max(1, small.width // 2), max(1, small.height // 2)))
    return None


def _turns(turn: type[Image.Transpose]) -> dict[int, Image.Transpose]:
    """What puts a picture upright, by how its camera says that it was held; from 5 on sideways."""
    return {
        2: turn.FLIP_LEFT_RIGHT,
        3: turn.ROTATE_180,
        4: turn.FLIP_TOP_BOTTOM,
        5: turn.TRANSPOSE,
        6: turn.ROTATE_270,
        7: turn.TRANSVERSE,
        8: turn.ROTATE_90,
    }


def _plain(image: Image.Image) -> Image.Image:
    """Its first picture as grey, colours, or colours with what shines through."""
    if image.mode.startswith("I"):  # 16 bits a pixel
        return image.point(lambda value: value * (1 / 256)).convert("L")
    if "A" not in image.mode and "transparency" not in image.info:
        return _as(image, "L" if image.mode in {"1", "L"} else "RGB")
    clear = _as(image, "RGBA")
    least, _ = clear.getchannel("A").getextrema()
    return clear.convert("RGB") if least == 255 else clear


def _as(image: Image.Image, mode: str) -> Image.Image:
    """Without a copy where it is that already: each is as large as the picture."""
    image.load()
    return image if image.mode == mode else image.convert(mode)


def _encode(image: Image.Image) -> bytes:
    out = io.BytesIO()
    if image.mode == "RGBA":
        image.save(out, "PNG", optimize=True, icc_profile=None)
    else:
        image.save(out, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    return out.getvalue()


if __name__ == "__main__":
    os.umask(0o077)
    sys.exit(main())
