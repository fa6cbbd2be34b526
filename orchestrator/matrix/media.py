"""Files for the homeserver's media repository, sealed where their room is encrypted."""

from __future__ import annotations

import asyncio
import time
from urllib.parse import quote

from loguru import logger
from nio.crypto.attachments import decrypt_attachment, encrypt_attachment
from nio.exceptions import EncryptionError

from orchestrator.core.attachment import Attachment
from orchestrator.errors import (
    HomeserverUnreachableError,
    LoginRefusedError,
    MatrixError,
    RequestRefusedError,
)
from orchestrator.matrix.encryption import Encryption
from orchestrator.matrix.http import MatrixHttp, api_path
from orchestrator.matrix.translate import error_from, unreadable
from orchestrator.model import JsonObject, RoomId

# A megabyte over a slow line; it holds up its own room alone.
UPLOAD_TIMEOUT_S = 120.0
UPLOAD_PATH = "/_matrix/media/v3/upload"
DOWNLOAD_TIMEOUT_S = 120.0
_NOT_FOUND = 404
# What is sealed says nothing of what it is.
_SEALED_TYPE = "application/octet-stream"


class Media:
    """Uploads of one account. Knows the homeserver's size limit once that was told."""

    def __init__(self, http: MatrixHttp, encryption: Encryption) -> None:
        self._http = http
        self._encryption = encryption
        self._max_bytes: int | None = None

    def __repr__(self) -> str:
        return f"<Media max_bytes={self._max_bytes}>"

    async def upload(self, room_id: RoomId, data: bytes, *, mimetype: str) -> JsonObject:
        """Upload a file for a room; see `ports.Homeserver.upload_file`. At most two minutes."""
        what = "uploading a file"
        try:
            async with asyncio.timeout(UPLOAD_TIMEOUT_S):
                is_sealed = await self._encryption.seals(room_id)
                await self._check_size(len(data))
                keys: JsonObject = {}
                if is_sealed:
                    data, keys = await asyncio.to_thread(encrypt_attachment, data)
                answer = await self._http.request(
                    "POST",
                    UPLOAD_PATH,
                    what=what,
                    body=data,
                    content_type=_SEALED_TYPE if is_sealed else mimetype,
                    timeout_s=UPLOAD_TIMEOUT_S,
                )
        except TimeoutError:
            msg = f"{what}: not done within {UPLOAD_TIMEOUT_S:.0f} s"
            raise HomeserverUnreachableError(msg) from None
        uri = answer.get("content_uri")
        if not isinstance(uri, str) or not uri.startswith("mxc://"):
            raise unreadable(what)
        return {"file": {**keys, "url": uri}} if is_sealed else {"url": uri}

    async def download(self, attachment: Attachment) -> bytes:
        """A file in clear; see `MatrixClient.download_file`. At most two minutes."""
        what = "fetching a file"
        try:
            async with asyncio.timeout(DOWNLOAD_TIMEOUT_S):
                data = await self._get(attachment, what)
                if attachment.key is None:
                    return data
                return await asyncio.to_thread(_open, data, attachment)
        except TimeoutError:
            msg = f"{what}: not done within {DOWNLOAD_TIMEOUT_S:.0f} s"
            raise HomeserverUnreachableError(msg) from None

    async def _get(self, attachment: Attachment, what: str) -> bytes:
        """From the endpoint that asks who we are; from the older one where that is not there."""
        names = (attachment.server, attachment.media_id)
        paths = (api_path("media", "download", *names, version="v1"), api_path_of_old_media(*names))
        for path in paths:
            answer = await self._http.exchange("GET", path, what, timeout_s=DOWNLOAD_TIMEOUT_S)
            if answer.is_ok:
                return answer.body
            if answer.status != _NOT_FOUND or answer.errcode() not in {None, "M_UNRECOGNIZED"}:
                break
        raise error_from(answer, what=what, now=time.time())

    async def _check_size(self, size_bytes: int) -> None:
        if self._max_bytes is None:
            self._max_bytes = await self._ask_max_bytes()
        if self._max_bytes is not None and size_bytes > self._max_bytes:
            what = "uploading a file that is larger than the homeserver's m.upload.size"
            raise RequestRefusedError(errcode="M_TOO_LARGE", status=0, what=what)

    async def _ask_max_bytes(self) -> int | None:
        """The homeserver's limit; None where it names none, or can't be asked now."""
        try:
            answer = await self._http.get(
                api_path("media", "config", version="v1"), what="asking for the size of uploads"
            )
        except LoginRefusedError:
            raise
        except MatrixError as e:
            logger.bind(action="matrix.media_config", error=type(e).__name__).debug("not told")
            return None
        size = answer.get("m.upload.size")
        return size if isinstance(size, int) and not isinstance(size, bool) and size > 0 else None


def api_path_of_old_media(server: str, media_id: str) -> str:
    """Where homeservers from before version 1.11 of the specification give files."""
    return "/".join(
        ("/_matrix/media/v3/download", quote(server, safe=""), quote(media_id, safe=""))
    )


def _open(data: bytes, attachment: Attachment) -> bytes:
    try:
        return bytes(
            decrypt_attachment(
                data, attachment.key or "", attachment.sha256 or "", attachment.iv or ""
            )
        )
    except (EncryptionError, ValueError, TypeError):
        msg = "the file is not what its sender encrypted"
        raise ValueError(msg) from None
