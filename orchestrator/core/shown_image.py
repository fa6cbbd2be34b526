"""Which of the files that came with a message the model is shown as images. Pure.

By their first bytes alone: nothing is decoded on this host. One that is damaged further on is told
by the API, and taken out of the conversation by the CLI (docs/cli-facts.md).
"""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.core.attachment import sniff
from orchestrator.core.cli_input import Image
from orchestrator.core.image_size import read_size

_KINDS = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
# The API takes 5 MB of base64 an image, and 8,000 px a side.
_MAX_BYTES = 5_000_000 * 3 // 4
_MAX_SIDE = 8000
# All images of a turn: as base64 they are two thirds of the longest line that a runner takes
# (runners.wire.MAX_INPUT_LINE_BYTES, 8 MiB), so that the words fit beside them.
MAX_ALL_BYTES = 4_000_000


def choose_image(data: bytes, shown: Sequence[Image]) -> Image | None:
    """The file as an image to be shown beside these; None where it is only put into the files."""
    mimetype = sniff(data)
    size = read_size(data) if mimetype in _KINDS else None
    if size is None or max(size) > _MAX_SIDE or len(data) > _MAX_BYTES:
        return None
    if sum(len(image.data) for image in shown) + len(data) > MAX_ALL_BYTES:
        return None
    return Image(mimetype=mimetype, data=data)
