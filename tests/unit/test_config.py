"""The configuration: every mistake is one line with its place, and no secret is ever shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.config import load_config, load_secrets, parse_config
from orchestrator.config_types import parse_size
from orchestrator.core.command import Permission
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
        ("observability", {"status": "0.0.0.0:9465"}, "an address of this host alone"),
        ("observability", {"status": "192.168.1.2:9465"}, "an address of this host alone"),
        ("observability", {"status": "localhost:9465"}, "an address of this host alone"),
        ("observability", {"status": "127.0.0.1"}, "an address of this host alone and a port"),
        ("observability", {"status": "127.0.0.1:0"}, "an address of this host alone and a port"),
        ("observability", {"status": "127.0.0.1:99999"}, "such as 127.0.0.1:9465"),
        ("no_such_key", 1, "c.yaml: no_such_key: unknown key"),
    ],
)
def test_a_mistake_is_named_with_its_place(section: str, value: object, expected: str) -> None:
    problems = problems_of({**MINIMAL, section: value})
    assert len(problems) == 1
    assert expected in problems[0]


@pytest.mark.parametrize(
    ("section", "value", "expected"),
    [
        ("defaults", {"egress": {"allow": "a.org"}}, "expected a list, for instance"),
        ("defaults", {"egress": {"allow": ["https://a.org/"]}}, "expected a host alone, without"),
        ("defaults", {"egress": {"allow": ["10.0.0.0/8"]}}, "or a network"),
        ("defaults", {"egress": {"allow": [8.8]}}, "expected text; in quotes"),
        ("defaults", {"egress": {"hosts": ["a"]}}, "expected a mapping of keys and values"),
        ("defaults", {"egress": {"connections": 0}}, "expected 1 or more"),
        ("defaults", {"egress": {"idle_s": 0}}, "expected more than 0"),
        ("defaults", {"secrets": {"T": ["a.org"]}}, "expected a mapping of keys and values"),
        ("defaults", {"secrets": {"T": {"hosts": []}}}, "expected a list that is not empty"),
        ("defaults", {"secrets": {"a-b": {"hosts": ["a.org"]}}}, "for instance GITHUB_TOKEN"),
        ("defaults", {"api": {"server_tools": ["web"]}}, "expected 'web_search', 'web_fetch'"),
        ("defaults", {"api": {"max_body": "64m"}}, "expected 33,554,432 or less"),
        ("defaults", {"project": {"hooks": "maybe"}}, "expected true or false"),
        ("defaults", {"budget": {"usd_per_day": "$5"}}, "expected a number"),
        ("defaults", {"budget": {"usd_per_day": float("inf")}}, "expected a finite number"),
        ("defaults", {"limits": {"disk": "1k"}}, "expected 16,777,216 or more"),
        ("defaults", {"limits": {"pids": 70.5}}, "expected a whole number"),
        ("access", {"approvers": ["bob"]}, "expected a user such as @alice:example.org"),
        ("rooms", {"ops": {}}, "expected a room: its alias (#ops:example.org)"),
        ("matrix", {"homeserver": "m.org", "user_id": "@c:e"}, "expected an address such as https"),
    ],
)
def test_what_was_expected_is_said_in_words_of_the_file(
    section: str, value: object, expected: str
) -> None:
    (problem,) = problems_of({**MINIMAL, section: value})
    assert expected in problem
    assert "Input should" not in problem


@pytest.mark.parametrize(
    ("section", "value", "expected"),
    [
        ("defaults", {"egress": {"alow": []}}, "unknown key; did you mean allow?"),
        ("rooms", {"#a:b": {"limits": {"dsik": 1}}}, "unknown key; did you mean disk?"),
        ("backups", {"every": 1}, "unknown key; did you mean every_h?"),
        ("egress", {"allow": []}, "unknown key here; there is one below defaults and below rooms"),
        ("defaults", {"access": {}}, "unknown key here; there is one at the top of the file"),
        ("defaults", {"approvers": []}, "unknown key here; there is one below access"),
        ("defaults", {"api": {"xyz": 1}}, "known here: server_tools, betas, fields, max_body"),
        ("agents", {"claude": {"xyz": 1}}, "known here: user_id, model, system_prompt"),
    ],
)
def test_an_unknown_key_is_told_with_the_one_that_was_meant(
    section: str, value: object, expected: str
) -> None:
    (problem,) = problems_of({**MINIMAL, section: value})
    assert expected in problem


def test_a_star_without_quotes_is_told_to_need_them(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("defaults: {egress: {allow: [*.example.org]}}", encoding="utf-8")
    with pytest.raises(ConfigError) as raised:
        load_config(file)
    assert raised.value.problems[0].endswith("what begins with * needs quotes")


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
    assert Permission.DECIDE in config.roles.of("@root:a.org", None)
    assert config.access.is_allowed("@anyone:b.org")
    assert Permission.DECIDE not in config.roles.of("@anyone:b.org", None)
    assert not config.access.is_allowed("@anyone:b.org.evil.org")
    assert not config.access.is_allowed("@other:a.org")


def problems_of_file(path: Path, text: str) -> list[str]:
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    return [problem.removeprefix(f"{path}: ") for problem in caught.value.problems]


def test_a_key_that_stands_twice_is_named_with_both_lines_wherever_it_is(tmp_path: Path) -> None:
    text = """\
matrix: {homeserver: https://m.example.org, user_id: "@claude:example.org"}
defaults:
  limits: {memory: 1g, cpus: 1, "memory": 2g}
  timeout_s: 60
rooms:
  "#a:example.org": {timeout_s: 9}
  '#a:example.org': {timeout_s: 10}
access:
  admins: [{a: 1, a: 2}]
defaults: {}
defaults: {}
"""
    assert problems_of_file(tmp_path / "c.yaml", text) == [
        "line 3: defaults.limits.memory: expected once; it stands in line 3, too",
        "line 7: rooms.#a:example.org: expected once; it stands in line 6, too",
        "line 9: access.admins.0.a: expected once; it stands in line 9, too",
        "line 10: defaults: expected once; it stands in line 2, too",
        "line 11: defaults: expected once; it stands in line 2, too",
    ]


def test_what_is_named_by_an_alias_or_merged_is_no_key_twice(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        f"matrix: {MINIMAL['matrix']}\n"
        "defaults: {limits: &limits {memory: 1g, cpus: 1}, timeout_s: 60}\n"
        'rooms:\n  "#a:b": {limits: {<<: *limits, cpus: 2}}\n  "#c:b": {limits: *limits}\n'
    )
    config = load_config(path)
    assert [config.rooms[room].limits.cpus for room in ("#a:b", "#c:b")] == [2, 1]
    # One that holds itself is looked at once.
    assert "matrix.homeserver: is missing" in problems_of_file(path, "matrix: &m {matrix: *m}")


def test_an_agent_that_is_not_below_agents_is_named_once_with_those_that_are() -> None:
    agents: dict[str, object] = {"claude": {}, "reviewer": {"model": "opus"}}
    rooms = {"#a:b": {}, "#c:b": {"agent": "reviewer"}, "#d:b": {"agent": "revewer"}}
    data = {**MINIMAL, "agents": agents, "rooms": rooms}
    known = "expected one that stands below agents: claude, reviewer"
    assert problems_of(data) == [f"c.yaml: rooms.#d:b.agent: {known}"]
    assert problems_of({**data, "defaults": {"agent": "other"}}) == [
        f"c.yaml: defaults.agent: {known}",
        f"c.yaml: rooms.#d:b.agent: {known}",
    ]


def test_the_agent_of_before_any_was_named_need_not_be_below_agents() -> None:
    others = {"agents": {"reviewer": {"user_id": "@reviewer:b"}}, "rooms": {"#a:b": {}}}
    assert parse_config({**MINIMAL, **others}, source="c.yaml").defaults.agent == "claude"


@pytest.mark.parametrize("address", ["127.0.0.1:9465", "127.3.2.1:80", "[::1]:9465"])
def test_the_status_page_takes_an_address_of_this_host(address: str) -> None:
    config = parse_config({**MINIMAL, "observability": {"status": address}}, source="c.yaml")
    assert config.observability.status == address


def test_the_status_page_is_off_unless_it_is_switched_on() -> None:
    config = parse_config(MINIMAL, source="c.yaml")
    assert config.observability.status is None
    assert load_secrets({}).status_tokens(config.observability) is None


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, "set STATUS_TOKEN or STATUS_TOKEN_FILE"),
        ({"STATUS_ADMIN_TOKEN": "a" * 16}, "set STATUS_TOKEN or STATUS_TOKEN_FILE"),
        ({"STATUS_TOKEN": "a" * 15}, "STATUS_TOKEN: expected 16 characters or more"),
        (
            {"STATUS_TOKEN": "a" * 16, "STATUS_ADMIN_TOKEN": "b"},
            "STATUS_ADMIN_TOKEN: expected 16 characters or more",
        ),
        ({"STATUS_TOKEN": "a" * 16, "STATUS_ADMIN_TOKEN": "a" * 16}, "are the same: expected two"),
    ],
)
def test_a_status_page_without_a_token_that_holds_does_not_start(
    environ: dict[str, str], expected: str
) -> None:
    on = parse_config({**MINIMAL, "observability": {"status": "127.0.0.1:1"}}, source="c.yaml")
    with pytest.raises(ConfigError) as caught:
        load_secrets(environ).status_tokens(on.observability)
    assert [expected in problem for problem in caught.value.problems] == [True]
    assert "aaaa" not in str(caught.value)


def test_the_status_pages_tokens_come_from_files_and_are_hidden_in_the_log(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("0123456789abcdef\n")
    secrets = load_secrets(
        {"STATUS_TOKEN_FILE": str(tmp_path / "token"), "STATUS_ADMIN_TOKEN": "fedcba9876543210"}
    )
    on = parse_config({**MINIMAL, "observability": {"status": "127.0.0.1:1"}}, source="c.yaml")
    tokens = secrets.status_tokens(on.observability)
    assert tokens is not None
    assert tokens.read.get_secret_value() == "0123456789abcdef"
    assert set(secrets.values()) == {"0123456789abcdef", "fedcba9876543210"}
    assert "0123" not in repr(tokens)
