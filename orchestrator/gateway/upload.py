"""A row's file: uploaded, and named in the payload before the event is sent; or given up in time.

A crash between the upload and the transaction that names it leaves a file that nothing names, and
the next life uploads it again. An image's thumbnail is uploaded after it, as a step of its own; one
that can't be had there is left out.
"""

from __future__ import annotations

import asyncio

from orchestrator.core.thumbnail import (
    drop_thumbnail,
    name_upload,
    next_upload,
    waits_for_thumbnail,
)
from orchestrator.errors import (
    AiAgentChatError,
    HomeserverUnreachableError,
    RateLimitedError,
    RequestRefusedError,
)
from orchestrator.faultpoint import FaultPoint, reach
from orchestrator.gateway.outbox_port import EventSender, OutboxStore
from orchestrator.store.api import OutboxRow

# Above the Matrix client's own bound; only a hang of its own reaches this.
UPLOAD_TIMEOUT_S = 180.0
# An upload that keeps failing for some two minutes, or is told to wait for longer than that, is
# given up: the room's other messages wait behind it, and its text can be sent as messages.
MOST_UPLOAD_FAILURES = 8
LONGEST_UPLOAD_WAIT_S = 120.0
# For an upload that is asked to slow down, and not for how long.
_PAUSE_S = 5.0


async def upload_file(row: OutboxRow, store: OutboxStore, homeserver: EventSender) -> None:
    """Upload the row's file, or then its thumbnail, and store its address in the payload.

    Raises:
        MatrixError: as `ports.Homeserver.upload_file`.
        StoreError: it may be uploaded, and nothing names it; the row is as it was.
    """
    data = await store.file(row.seq)
    if data is None:
        return  # dropped since it was listed
    upload = next_upload(row.content, data)
    try:
        async with asyncio.timeout(UPLOAD_TIMEOUT_S):
            address = await homeserver.upload_file(
                row.room_id, upload.data, mimetype=upload.mimetype
            )
    except TimeoutError as error:
        raise HomeserverUnreachableError from error
    reach(FaultPoint.OUTBOX_UPLOADED)
    content = name_upload(row.content, upload, address)
    await store.store_uploaded(row.seq, content, rest=upload.rest)


async def leave_thumbnail_out(row: OutboxRow, store: OutboxStore) -> bool:
    """Whether it was the row's thumbnail that was refused: it is sent without one then."""
    if not waits_for_thumbnail(row.content):
        return False
    await store.store_uploaded(row.seq, drop_thumbnail(row.content))
    return True


def upload_verdict(
    error: AiAgentChatError, failures: int, *, is_outage: bool
) -> RequestRefusedError | float | None:
    """What follows from an upload that failed, `failures` times in a row by now.

    In an outage failures say nothing about uploads, and are not counted against this one.

    Returns:
        A refusal: give it up. Seconds: wait so long, as the homeserver asked. None: it is an error
        as any other.
    """
    if isinstance(error, RequestRefusedError):
        return error
    is_over = failures >= MOST_UPLOAD_FAILURES and not is_outage
    wait_s: float | None = None
    if isinstance(error, RateLimitedError):
        wait_s = _PAUSE_S if error.retry_after_s is None else error.retry_after_s
        is_over = is_over or wait_s > LONGEST_UPLOAD_WAIT_S
    if error.retryable and is_over:
        what = f"uploading a file, given up after {type(error).__name__}"
        return RequestRefusedError(errcode="UPLOAD_FAILED", status=0, what=what)
    return wait_s
