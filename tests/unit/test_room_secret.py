"""The rooms' secrets are read whole or not at all, and nothing that is said shows one."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.config import Config, parse_config
from orchestrator.errors import ConfigError
from orchestrator.main import app
from orchestrator.room_secret import load_room_secrets, uncovered_secrets

MATRIX = {"homeserver": "https://matrix.example.org", "user_id": "@claude:example.org"}
VALUE = "ghp_Zq3vXw8Yt5Rb2Nm7Kj4Hg6Fd9Sa1Po0Iu3Q"
HOSTS = ["api.github.com"]


def config(secrets: object = None, *, egress: object = None, rooms: object = None) -> Config:
    defaults = {"secrets": secrets or {}, "egress": egress or {}}
    data = {"matrix": MATRIX, "defaults": defaults, "rooms": rooms or {}}
    return parse_config(data, source="c.yaml")


def problems(loaded: Config, environ: dict[str, str]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_room_secrets(loaded, environ)
    assert VALUE not in str(caught.value)
    return caught.value.problems


def test_a_secret_comes_from_the_variable_of_its_name_or_of_the_configured_one(
    tmp_path: Path,
) -> None:
    file = tmp_path / "token"
    file.write_text(f"{VALUE}\n")
    loaded = config(
        {"GITHUB_TOKEN": {"hosts": HOSTS}},
        rooms={"#a:b": {"secrets": {"OTHER_TOKEN": {"hosts": HOSTS, "variable": "OPS_TOKEN"}}}},
    )
    environ = {"GITHUB_TOKEN": VALUE[::-1], "OPS_TOKEN_FILE": str(file)}
    held = load_room_secrets(loaded, environ)
    assert held.of(loaded.defaults) == {"GITHUB_TOKEN": VALUE[::-1]}
    assert held.of(loaded.profile("", "#a:b")) == {
        "GITHUB_TOKEN": VALUE[::-1],
        "OTHER_TOKEN": VALUE,
    }
    assert sorted(held.values()) == sorted([VALUE, VALUE[::-1]])
    assert VALUE not in repr(held)


def test_a_missing_secret_is_one_line_with_its_place_and_its_variable() -> None:
    loaded = config(rooms={"#a:b": {"secrets": {"T": {"hosts": HOSTS, "variable": "OPS_TOKEN"}}}})
    (line,) = problems(loaded, {})
    assert line == (
        "rooms.#a:b.secrets.T: OPS_TOKEN is not set; set it to the secret, or OPS_TOKEN_FILE to "
        "a file that holds it"
    )


def test_a_secret_of_the_defaults_is_missing_once_and_not_for_each_room() -> None:
    loaded = config({"T": {"hosts": HOSTS}}, rooms={"#a:b": {}, "#c:d": {}})
    assert len(problems(loaded, {})) == 1


@pytest.mark.parametrize(
    "value",
    ["short", "!" * 40, VALUE + " x", VALUE + "\t", VALUE + "\x00", VALUE + "é", VALUE + "\r\nX: y",
     VALUE * 200],
)  # fmt: skip
def test_a_value_that_no_header_can_carry_is_refused_and_not_shown(value: str) -> None:
    (line,) = problems(config({"T": {"hosts": HOSTS}}), {"T": value})
    assert line.startswith("defaults.secrets.T: T must ")
    assert value not in line


def test_a_secret_set_twice_or_in_an_empty_or_missing_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("\n")
    loaded = config({"T": {"hosts": HOSTS}})
    assert "not both" in problems(loaded, {"T": VALUE, "T_FILE": str(file)})[0]
    assert "is empty" in problems(loaded, {"T_FILE": str(file)})[0]
    assert "cannot be read" in problems(loaded, {"T_FILE": str(tmp_path / "nothing")})[0]
    file.write_text(f"{VALUE}\n{VALUE}\n")
    assert "without blanks" in problems(loaded, {"T_FILE": str(file)})[0]


@pytest.mark.parametrize("name", ["PATH", "LD_PRELOAD", "ANTHROPIC_API_KEY", "HTTPS_PROXY"])
def test_a_name_that_steers_the_runners_programs_is_refused_with_words(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config({name: {"hosts": HOSTS}})
    assert caught.value.problems == [
        f"c.yaml: defaults.secrets.{name}: a secret can't have this name: "
        "programs in the runner are steered by it"
    ]


@pytest.mark.parametrize(
    ("hosts", "allow", "intercept", "missing"),
    [
        (["a.test"], ["a.test"], ["a.test"], None),
        (["a.test"], [], [], "egress.allow"),
        (["a.test"], ["a.test"], [], "egress.intercept"),
        (["a.test"], ["*.a.test"], ["a.test"], "egress.allow"),
        (["*.a.test"], ["a.test"], ["*.a.test"], "egress.allow"),
        (["*.a.test"], ["*.a.test"], ["x.a.test"], "egress.intercept"),
        (["x.a.test"], ["*.a.test"], ["*.a.test"], None),
        (["*.x.a.test"], ["*.a.test"], ["*.a.test"], None),
        (["a.test:8443"], ["a.test:8443"], ["a.test:8443"], None),
        (["a.test:8443"], ["a.test"], ["a.test"], "egress.allow"),
        (["a.test:443"], ["a.test"], [], "egress.intercept"),
        (["a.test:80"], ["a.test"], [], None),
        (["a.test:8080"], ["a.test:8080"], [], None),
    ],
)
def test_a_host_to_which_a_secret_would_never_get_is_named(
    hosts: list[str], allow: list[str], intercept: list[str], missing: str | None
) -> None:
    loaded = config(
        {"T": {"hosts": hosts}},
        egress={"allow": allow, "intercept": intercept},
        rooms={"#a:b": {}},
    )
    found = uncovered_secrets(loaded)
    if missing is None:
        assert found == []
    else:
        (line,) = found
        assert line.startswith(f"defaults.secrets.T: {hosts[0]}: is not covered by {missing}, ")


def test_config_check_names_a_gap_and_needs_no_value(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        "matrix: {homeserver: 'https://m.example', user_id: '@c:m.example'}\n"
        "defaults: {secrets: {NO_SUCH_TOKEN: {hosts: [api.test]}}, egress: {allow: [api.test]}}\n"
    )
    result = CliRunner().invoke(app, ["config", "check", str(file)])
    assert result.exit_code == 0
    assert (
        "orchestrator: defaults.secrets.NO_SUCH_TOKEN: api.test: is not covered by "
        "egress.intercept, so the surrogate would go out unchanged\n"
    ) in result.output
