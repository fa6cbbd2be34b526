"""The offline model: what answers on the embedded homeserver when there is no real one to ask.

It is no AI and says so. It remembers the conversation because the CLI sends it whole, as to the
real API, and calls the CLI's own tools on plain requests, so that container, tools and room can be
tried. After a tool's result it always ends the turn: it can't loop.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from orchestrator.core.going_on import strip_note
from orchestrator.embedded.messages_api import open_messages_api
from orchestrator.embedded.messages_model import (
    ContentPart,
    MessagesRequest,
    Reply,
    Text,
    ToolUse,
    text_reply,
)
from orchestrator.model import JsonObject

HELP = """\
I am the **offline model**: a stand-in without any AI, so that you can try the rest. I understand:

- `run: COMMAND` runs a command in this room's container, for instance `run: ls -la`
- `write FILE: TEXT` writes a file, `read FILE` reads one
- `count to N` takes its time, to see a turn run (stop it with `!cancel`)
- `my name is NAME`, then `what is my name?`
- `what did I say first?`

For a real model, set `ANTHROPIC_API_KEY` and start again."""
# Slow enough to be seen, fast enough not to be in the way.
_TYPING_DELAY_S = 0.02
_COUNT_DELAY_S = 0.5
_MAX_COUNT = 1000
# A tool's output is quoted up to here; the whole of it is in the CLI's own transcript.
_MAX_QUOTED_CHARS = 4000
_MAX_ECHO_CHARS = 500
_DEFAULT_DIRECTORY = "/workspace"

# The gateway may put the sender's name in front of what was said.
# What the CLI puts before the message that follows an interrupted turn.
_INTERRUPTED = re.compile(r"^(\[Request interrupted by user[^\]]*\]\s*)+")
_SENDER = re.compile(r"^\s*[\[<(]?@[^\s:]+:[^\s\]>):]+[\])>]?:?\s+")
_DIRECTORY = re.compile(r"[Ww]orking directory: (/\S*)")
_NAME = re.compile(r"\bmy name is\s+([^\W\d_][\w'-]{0,39})", re.IGNORECASE)

_RUN = re.compile(r"run:\s*(.+)", re.IGNORECASE | re.DOTALL)
_READ = re.compile(r"read\s+(\S+)", re.IGNORECASE)
_WRITE = re.compile(r"write\s+(\S+?):\s*(.*)", re.IGNORECASE | re.DOTALL)
_COUNT = re.compile(r"count to (\d{1,9})\W*", re.IGNORECASE)
_ASK_NAME = re.compile(r"what(?:'s| is) my name\W*", re.IGNORECASE)
_ASK_FIRST = re.compile(r"what did i (?:say|ask)(?: you)? first\W*", re.IGNORECASE)
_HELP = re.compile(r"help\W*", re.IGNORECASE)


class OfflineModel:
    """A `ScriptedModel` without state: everything it knows is in the request."""

    def reply(self, request: MessagesRequest) -> Reply:
        """Answer a turn, a tool's result, or one of the CLI's side requests."""
        side = side_reply(request)
        if side is not None:
            return side
        results = request.tool_results
        if results:
            return _say("\n\n".join(_describe_result(result) for result in results))
        said = _without_sender(request.last_user_text)
        for pattern, answer in _ANSWERS:
            match = pattern.fullmatch(said)
            if match is not None:
                return answer(match, request)
        return _chat(said, request)


@asynccontextmanager
async def open_offline_model() -> AsyncIterator[str]:
    """Serve the offline model on loopback, on a free port, while the context lasts.

    Yields:
        Its base URL, for use as the API's address.
    """
    async with open_messages_api(OfflineModel()) as base_url:
        yield base_url


def side_reply(request: MessagesRequest) -> Reply | None:
    """Requests that the CLI makes for itself: quota checks, titles, summaries of topics."""
    if request.max_tokens == 1:
        return text_reply(".")
    wanted = request.output_config.format
    if wanted is not None and wanted.type == "json_schema":
        return text_reply(json.dumps({"title": "Offline conversation"}))
    if not request.tools and "title" in request.system_text.lower():
        return text_reply("Offline conversation")
    return None


def _run(match: re.Match[str], request: MessagesRequest) -> Reply:
    command = match[1].strip().strip("`")
    return _call(request, "Bash", {"command": command, "description": "Run what the user asked"})


def _read(match: re.Match[str], request: MessagesRequest) -> Reply:
    return _call(request, "Read", {"file_path": _absolute(match[1], request)})


def _write(match: re.Match[str], request: MessagesRequest) -> Reply:
    arguments: JsonObject = {"file_path": _absolute(match[1], request), "content": match[2] + "\n"}
    return _call(request, "Write", arguments)


def _count(match: re.Match[str], _request: MessagesRequest) -> Reply:
    limit = min(int(match[1]), _MAX_COUNT)
    # Five characters a number, so that each is a piece; the blanks are Markdown for a line's end.
    body = "".join(f"{number:<4}\n" for number in range(1, limit + 1))
    return Reply(blocks=(Text(text=body, chunk_chars=5, delay_s=_COUNT_DELAY_S),))


def _tell_name(_match: re.Match[str], request: MessagesRequest) -> Reply:
    names = [name for text in request.user_texts for name in _NAME.findall(text)]
    if not names:
        return _say("You have not told me. Say `my name is NAME`.")
    return _say(f"Your name is {names[-1]}. (offline model)")


def _tell_first(_match: re.Match[str], request: MessagesRequest) -> Reply:
    first = _without_sender(request.user_texts[0])
    return _say(f"The first thing that you said to me: “{first[:_MAX_ECHO_CHARS]}” (offline model)")


def _help(_match: re.Match[str], _request: MessagesRequest) -> Reply:
    return _say(HELP)


_ANSWERS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str], MessagesRequest], Reply]], ...] = (
    (_HELP, _help),
    (_RUN, _run),
    (_WRITE, _write),
    (_READ, _read),
    (_COUNT, _count),
    (_ASK_NAME, _tell_name),
    (_ASK_FIRST, _tell_first),
)


def _chat(said: str, request: MessagesRequest) -> Reply:
    name = _NAME.search(said)
    if name is not None:
        return _say(f"Nice to meet you, {name[1]}. I am the offline model, and I remember that.")
    number = len(request.user_texts)
    return _say(
        f"I am the offline model, a stand-in without any AI. You said: “{said[:_MAX_ECHO_CHARS]}”. "
        f"That was message {number} of our conversation. Send `help` to see what I can do."
    )


def _describe_result(result: ContentPart) -> str:
    text = result.result_text.strip()
    if len(text) > _MAX_QUOTED_CHARS:
        text = text[:_MAX_QUOTED_CHARS] + "\n… (cut here)"
    fence = _fence(text)
    if result.is_error:
        return f"That did not work (offline model):\n{fence}\n{text}\n{fence}"
    if not text:
        return "Done; it printed nothing. (offline model)"
    return f"Done (offline model):\n{fence}\n{text}\n{fence}"


def _fence(text: str) -> str:
    """A code fence that the text does not contain."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    return "`" * max(3, longest + 1)


def _call(request: MessagesRequest, name: str, arguments: JsonObject) -> Reply:
    if not request.has_tool(name):
        return _say(f"I may not use the tool {name} here. (offline model)")
    intro = Text(text=f"I call {name}. (offline model)", delay_s=_TYPING_DELAY_S)
    return Reply(blocks=(intro, ToolUse(name=name, input=arguments)))


def _absolute(path: str, request: MessagesRequest) -> str:
    path = path.strip("`'\"")
    if path.startswith("/"):
        return path
    found = _DIRECTORY.search(request.system_text)
    directory = found[1] if found else _DEFAULT_DIRECTORY
    return f"{directory.rstrip('/')}/{path}"


def _without_sender(text: str) -> str:
    return _SENDER.sub("", strip_note(_INTERRUPTED.sub("", text.strip()))).strip()


def _say(text: str) -> Reply:
    return text_reply(text, delay_s=_TYPING_DELAY_S)
