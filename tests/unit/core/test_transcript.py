"""A transcript holds what the conversation holds now, and any file gives one."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.transcript import read_transcript, render_jsonl, render_markdown


def line(kind: str, uuid: str, parent: str | None, content: Any, **more: Any) -> str:
    message = {"role": kind, "content": content}
    entry = {"type": kind, "uuid": uuid, "parentUuid": parent, "message": message}
    return json.dumps({**entry, "timestamp": "2026-01-01T00:00:00Z", **more})


TOOL = [{"type": "tool_use", "name": "Bash", "input": {"command": "ls"}}]
RESULT = [{"type": "tool_result", "content": [{"type": "text", "text": "a.txt"}]}]


def test_words_tools_and_results_are_told_in_order() -> None:
    text = "\n".join(
        [
            line("user", "1", None, "list the files"),
            line("assistant", "2", "1", TOOL),
            line("user", "3", "2", RESULT),
            line("assistant", "4", "3", [{"type": "text", "text": "One file."}]),
            json.dumps({"type": "last-prompt", "leafUuid": "4"}),
        ]
    )
    said = read_transcript(text)
    assert [(s.who, s.kind, s.text) for s in said] == [
        ("Person", "text", "list the files"),
        ("Agent", "tool", 'Bash {"command": "ls"}'),
        ("Tool", "result", "a.txt"),
        ("Agent", "text", "One file."),
    ]
    assert "## Agent · 2026-01-01T00:00:00Z\n\nOne file." in render_markdown(said, title="T")
    assert [json.loads(one)["kind"] for one in render_jsonl(said).splitlines()] == [
        "text",
        "tool",
        "result",
        "text",
    ]


def test_what_was_undone_is_not_in_it() -> None:
    text = "\n".join(
        [
            line("user", "1", None, "kept"),
            line("user", "2", "1", "undone"),
            json.dumps({"type": "last-prompt", "leafUuid": "2"}),
            json.dumps({"type": "last-prompt", "leafUuid": "1", "rewound": True}),
        ]
    )
    assert [s.text for s in read_transcript(text)] == ["kept"]
    later = "\n".join([text, line("user", "3", "1", "said since")])
    assert [s.text for s in read_transcript(later)] == ["kept", "said since"]


def test_entries_that_name_each_other_come_to_an_end() -> None:
    text = "\n".join([line("user", "1", "2", "a"), line("user", "2", "1", "b")])
    assert [s.text for s in read_transcript(text)] == ["a", "b"]


@given(st.lists(st.one_of(st.text(), st.just(line("user", "1", None, "x\u202e"))), max_size=5))
def test_any_file_gives_a_transcript(lines: list[str]) -> None:
    said = read_transcript("\n".join(lines))
    assert "\u202e" not in render_markdown(said, title="T") + render_jsonl(said)
