"""`!ls` and `!get`: what the workspace holds, and one file of it, sent into the room."""

from __future__ import annotations

from orchestrator.core.texts import file as texts
from orchestrator.errors import FileRefusedError
from orchestrator.rooms.copies import files_of
from orchestrator.rooms.errand import Answer, ErrandWork, refuse
from orchestrator.rooms.outgoing_file import read_out_file


async def list_files(work: ErrandWork) -> Answer:
    """What is in a folder."""
    path = _clean(work.errand.argument)
    connection = await work.connect()
    try:
        found = await files_of(connection).list(path)
    except FileRefusedError as e:
        return refuse(f"{texts.not_listed(path, str(e))} {texts.LS_FORM}")
    lines = [(entry.path, entry.kind, entry.size_bytes) for entry in found]
    return Answer(text=texts.listed(lines) if lines else texts.EMPTY)


async def get_file(work: ErrandWork) -> Answer:
    """One file, as it is now."""
    path = _clean(work.errand.argument)
    if not path:
        return refuse(texts.GET_FORM)
    connection, limit = await work.connect(), work.profile.files.max_size
    try:
        file = await read_out_file(files_of(connection), path, max_bytes=limit)
    except FileRefusedError as e:
        return refuse(f"{texts.not_listed(path, str(e))} {texts.GET_FORM}")
    return Answer(text=texts.gotten(path, len(file.data)), file=file)


def _clean(argument: str) -> str:
    """As people write paths of the workspace: `./a`, `/workspace/a`, `a/`."""
    path = argument.strip().strip("`")
    for start in ("/workspace/", "./"):
        path = path.removeprefix(start)
    return "" if path in {".", "/workspace", "/"} else path.rstrip("/")
