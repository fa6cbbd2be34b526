"""The configuration: every mistake is one line with its place, and no secret is ever shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.config import load_config, load_secrets, not_built, parse_config
from orchestrator.config_types import parse_size
from orchestrator.errors import ConfigError

MINIMAL = {"matrix": {"homeserver": "https://matrix.example.org", "user_id": "@claude:example.org"}}

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "config.example.yaml"


def problems_of(data: dict[str, object]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(data, source="c.yaml")
    return caught.value.problems


def test_the_documented_example_is_read_and_names_every_key() -> None:
    config = load_config(EXAMPLE)
    assert config.defaults.limits.memory == 2 << 30
    ops = config.profile("!id:example.org", "#ops:example.org")
    assert (ops.timeout_s, ops.limits.memory) == (900, 2 << 30)
    assert ops.egress.allow == ("git.example.org", "*.packages.example.org")
    assert config.profile("!id:example.org", None) == config.defaults
    text = EXAMPLE.read_text()
    sections = (config, config.matrix, config.gateway, config.docker, config.defaults)
    for section in (*sections, config.defaults.limits, config.defaults.budget, config.access):
        for name in type(section).model_fields:
            assert f"{name}:" in text, name


def test_a_key_that_has_no_effect_yet_is_named_once_where_it_is_set() -> None:
    config = parse_config(
        {
            **MINIMAL,
            "defaults": {"idle_stop_s": 60},
            "rooms": {"#a:b": {"budget": {"agent_turns_in_a_row": 5}, "timeout_s": 9}},
        },
        source="c.yaml",
    )
    assert not_built(config) == ["defaults.idle_stop_s", "rooms.#a:b.budget.agent_turns_in_a_row"]


def test_nothing_is_named_where_nothing_without_effect_is_asked_for() -> None:
    off = {"observability": {"metrics": None}, "defaults": {"egress": {"allow": []}}}
    assert not_built(parse_config(dict(MINIMAL), source="c.yaml")) == []
    assert not_built(parse_config({**MINIMAL, **off}, source="c.yaml")) == []


def test_the_documented_example_marks_every_key_that_has_no_effect_yet() -> None:
    lines = EXAMPLE.read_text().splitlines()
    for path in not_built(load_config(EXAMPLE)):
        name = path.rpartition(".")[2]
        marked = [line for line in lines if f"{name}:" in line and "without effect yet" in line]
        assert marked, path


def test_a_room_starts_from_the_defaults_and_changes_only_what_it_names() -> None:
    config = parse_config(
        {
            **MINIMAL,
            "defaults": {"timeout_s": 10, "limits": {"memory": "1g", "pids": 100}},
            "rooms": {"#a:b": {"limits": {"pids": 200}}},
        },
        source="c.yaml",
    )
    room = config.profile("!x:b", "#a:b")
    assert (room.timeout_s, room.limits.memory, room.limits.pids) == (10, 1 << 30, 200)


@pytest.mark.parametrize(
    ("section", "value", "expected"),
    [
        ("matrix", {"homeserver": "example.org", "user_id": "@c:e"}, "c.yaml: matrix.homeserver:"),
        ("matrix", {"homeserver": "https://e", "user_id": "claude"}, "c.yaml: matrix.user_id:"),
        ("defaults", {"permissions": "yolo"}, "c.yaml: defaults.permissions:"),
        ("defaults", {"timeout_s": 0}, "c.yaml: defaults.timeout_s:"),
        ("defaults", {"limits": {"memory": "lots"}}, "expected a size such as 512m or 2g"),
        ("defaults", {"egress": {"allow": ["http://x/y"]}}, "c.yaml: defaults.egress.allow.0:"),
        ("defaults", {"egress": {"allow": ["10.1"]}}, "c.yaml: defaults.egress.allow.0:"),
        ("rooms", {"ops": {}}, "c.yaml: rooms.ops"),
        ("gateway", {"max_event_bytes": 70000}, "c.yaml: gateway.max_event_bytes:"),
        ("observability", {"metrics": "everywhere"}, "c.yaml: observability.metrics:"),
        ("no_such_key", 1, "c.yaml: no_such_key: unknown key"),
    ],
)
def test_a_mistake_is_named_with_its_place(section: str, value: object, expected: str) -> None:
    problems = problems_of({**MINIMAL, section: value})
    assert len(problems) == 1
    assert expected in problems[0]


def test_each_mistake_has_its_own_line() -> None:
    problems = problems_of(
        {"matrix": {"user_id": "x"}, "defaults": {"timeout_s": -1}, "agents": {"A B": {}}}
    )
    assert len(problems) == 4


def test_a_value_is_never_repeated_in_a_message() -> None:
    problems = problems_of({**MINIMAL, "access": {"admins": ["secret-canary"]}})
    assert not any("secret-canary" in problem for problem in problems)


@pytest.mark.parametrize("text", ["a: [", "- just\n- a list\n", "", "\xff\xfe", "{" * 2000])
def test_a_file_that_is_no_mapping_is_refused_with_a_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        load_config(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "nothing.yaml")


@pytest.mark.parametrize(
    ("text", "count"), [("512m", 512 << 20), ("2g", 2 << 30), ("1.5 KiB", 1536), ("77", 77)]
)
def test_sizes_are_powers_of_1024(text: str, count: int) -> None:
    assert parse_size(text) == count


def test_secrets_come_from_the_environment_or_a_file_but_not_both(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("from-file\n")
    secrets = load_secrets({"ANTHROPIC_API_KEY_FILE": str(file), "MATRIX_PASSWORD": "from-env"})
    assert sorted(secrets.values()) == ["from-env", "from-file"]
    assert "from-" not in repr(secrets)
    with pytest.raises(ConfigError, match="not both"):
        load_secrets({"MATRIX_PASSWORD": "a", "MATRIX_PASSWORD_FILE": str(file)})
    with pytest.raises(ConfigError, match="cannot be read"):
        load_secrets({"MATRIX_PASSWORD_FILE": str(tmp_path / "nothing")})
    file.write_text("\n")
    with pytest.raises(ConfigError, match="is empty"):
        load_secrets({"MATRIX_PASSWORD_FILE": str(file)})


def test_admins_may_run_turns_and_decide_and_patterns_match_whole_ids() -> None:
    config = parse_config(
        {**MINIMAL, "access": {"admins": ["@root:a.org"], "users": ["@*:b.org"]}}, source="c"
    )
    assert config.access.is_allowed("@root:a.org")
    assert config.access.is_approver("@root:a.org")
    assert config.access.is_allowed("@anyone:b.org")
    assert not config.access.is_approver("@anyone:b.org")
    assert not config.access.is_allowed("@anyone:b.org.evil.org")
    assert not config.access.is_allowed("@other:a.org")
