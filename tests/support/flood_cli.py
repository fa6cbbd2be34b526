"""A program in the CLI's place that floods: what the real CLI can't be made to print.

It reads messages as the CLI does, and answers each `You said: …`. A message `flood KIND SIZE` is
answered by that flood and then by `flooded KIND SIZE`, as a turn's text and result. Sizes are in
MB (10^6 bytes), of `tiny` in events, of `pace` in seconds.
"""

from __future__ import annotations

FLOODS = ("output", "line", "tiny", "pace", "stderr", "junk")

PROGRAM = r'''#!/usr/bin/python3 -I
import json, os, sys, time

def put(*lines):
    sys.stdout.buffer.write(b"".join(line + b"\n" for line in lines))

def say(**values):
    put(json.dumps(values).encode())
    sys.stdout.buffer.flush()

def tool_result(size):
    """A line of about this size, as a tool's output is."""
    return (b'{"type":"user","message":{"content":[{"type":"tool_result","content":"'
            + b"x" * (size - 80) + b'"}]}}')

def output(megabytes):
    line = tool_result(250_000)
    for _ in range(megabytes * 4):
        put(line)

def line(megabytes):
    put(tool_result(megabytes * 1_000_000))

def tiny(events):
    for _ in range(events // 1000):
        put(*[b'{"type":"user","message":{"content":[]}}'] * 1000)

def pace(seconds):
    start = time.monotonic()
    for tick in range(seconds * 20):
        put(*[tool_result(120)] * 500)
        sys.stdout.buffer.flush()
        time.sleep(max(0.0, start + (tick + 1) / 20 - time.monotonic()))

def stderr(megabytes):
    for _ in range(megabytes):
        sys.stderr.buffer.write((b"y" * 999 + b"\n") * 1000)
        sys.stderr.buffer.flush()

def junk(megabytes):
    kinds = [b"\xff\xfe\xed\xa0\x80", b"\x00" * 80, b"[" * 5000, b'{"a":' * 5000,
             b'{"type":"user","n":' + b"9" * 5000 + b"}", b"NaN", b'"\\ud800"', b"{}", b"null",
             b'{"type":"user","type":"result"}', b'{"type":{}}', b'{"type":"result"}x',
             b'{"type":"system","subtype":"init","session_id":5}', b"<mx-reply>", b"\x1b[2J"]
    block = b"\n".join(kinds) + b"\n"
    for _ in range(megabytes * 1_000_000 // len(block)):
        sys.stdout.buffer.write(block)
    put(b'{"type":"assistant","message":{"content":[{"type":"text","text":"junk: \\ud800"}]}}')

def turn(message):
    uuid, prompt = message["uuid"], message["message"]["content"]
    say(type="command_lifecycle", command_uuid=uuid, state="started")
    words = prompt.split()
    text = "You said: " + prompt
    if words[:1] == ["flood"]:
        globals()[words[1]](int(words[2]))
        text = "flooded " + " ".join(words[1:])
    content = [{"type": "text", "text": text}]
    say(type="assistant", message={"content": content}, parent_tool_use_id=None)
    say(type="result", subtype="success", is_error=False, terminal_reason="completed", result=text,
        user_message_uuids=[uuid])
    say(type="command_lifecycle", command_uuid=uuid, state="completed")

for raw in sys.stdin:
    message = json.loads(raw)
    if message.get("type") == "user":
        turn(message)
'''
