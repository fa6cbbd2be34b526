"""The CLI's answers as they were recorded, and whatever else it may say."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.rewind import Rewound, build_rewind, parse_rewound

_FOUND = {"rewound": True, "prefillText": "three", "precedingAssistantUuid": None}
_LOST = {"rewound": False, "error": "target not found", "reason": "target_not_found"}
_STALE = {"rewound": False, "error": "stale target", "reason": "stale_target"}


def answer(response: dict[str, object] | None, subtype: str = "success") -> str:
    inner = {"subtype": subtype, "request_id": "r1"}
    inner |= {"response": response} if response is not None else {"error": "unsupported_request"}  # type: ignore[dict-item]
    return json.dumps({"type": "control_response", "response": inner})


@pytest.mark.parametrize(
    ("line", "rewound"),
    [
        (answer(_FOUND), Rewound.DONE),
        (answer(_LOST), Rewound.UNKNOWN),
        (answer(_STALE), Rewound.REFUSED),
        (answer(None, "error"), Rewound.REFUSED),
        (answer(_FOUND).replace("r1", "r2"), None),
        ("", None),
        ("r1", None),
        ('{"type": "assistant", "text": "r1"}', None),
    ],
)
def test_each_answer_is_told_apart(line: str, rewound: Rewound | None) -> None:
    assert parse_rewound(line, "r1") is rewound


@given(st.text())
def test_no_line_breaks_the_reader(line: str) -> None:
    parse_rewound(f"{line}r1", "r1")


def test_the_request_names_the_message() -> None:
    request = json.loads(build_rewind("r1", message_uuid="u"))
    assert request["request"] == {
        "subtype": "rewind_conversation",
        "target_message_uuid": "u",
    }
