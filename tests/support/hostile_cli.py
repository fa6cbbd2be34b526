#!/usr/bin/python3 -IS
"""Stands in the CLI's place in a runner, and misbehaves as its prompt says; else it repeats it.

What it prints while it behaves has the shapes of tests/recorded. Standard library alone.
"""

import json
import os
import signal
import sys
import time


def say(**line: object) -> None:
    sys.stdout.write(json.dumps({**line, "session_id": SESSION}) + "\n")
    sys.stdout.flush()


def text(words: str) -> None:
    content = [{"type": "text", "text": words}]
    say(type="assistant", message={"content": content}, parent_tool_use_id=None)


def result(words: str, uuid: str) -> None:
    say(
        type="result",
        subtype="success",
        is_error=False,
        terminal_reason="completed",
        result=words,
        user_message_uuids=[uuid],
    )
    say(type="command_lifecycle", command_uuid=uuid, state="completed")


def hang() -> None:
    while True:
        time.sleep(600)


def hang_in_mid_line() -> None:
    os.write(1, b'{"type":"assistant","message":{"content":[{"type":"text","text":"half a li')
    hang()


def hang_after_a_part() -> None:
    text("a part of it")
    hang()


def be_stubborn() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    text("you can't make me")
    hang()


def be_stubborn_with_children() -> None:
    for _ in range(20):
        if os.fork() == 0:
            os.setsid()
            be_stubborn()
    be_stubborn()


def close_output() -> None:
    text("good night")
    os.close(1)
    os.close(2)
    hang()


def flood() -> None:
    line = json.dumps({"type": "system", "subtype": "noise", "text": "x" * 200}) + "\n"
    while True:
        os.write(1, line.encode())


MISDEEDS = {
    "hang silently": hang,
    "hang in mid-line": hang_in_mid_line,
    "hang after a part": hang_after_a_part,
    "be stubborn": be_stubborn,
    "have stubborn children": be_stubborn_with_children,
    "close your output": close_output,
    "flood": flood,
}


def main() -> None:
    while line := sys.stdin.readline():
        message = json.loads(line)
        if message["type"] != "user":
            continue
        uuid, prompt = message["uuid"], message["message"]["content"]
        say(type="command_lifecycle", command_uuid=uuid, state="queued")
        say(type="command_lifecycle", command_uuid=uuid, state="started")
        if prompt in MISDEEDS:
            MISDEEDS[prompt]()
        text(f"You said: {prompt[:200]}")
        result(f"You said: {prompt[:200]}", uuid)
        if prompt == "give two results":
            text("and a second answer")
            result("and a second answer", uuid)
        if prompt == "read no more":
            hang()


if __name__ == "__main__":
    flags = [flag for flag in ("--resume", "--session-id") if flag in sys.argv]
    SESSION = sys.argv[sys.argv.index(flags[0]) + 1] if flags else ""
    main()
