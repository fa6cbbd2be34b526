"""What the doctor says of a configuration, without an engine and a homeserver."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from orchestrator.command_line import build_config, on_homeserver
from orchestrator.core.diagnosis import Check, Verdict
from orchestrator.doctor import examination
from orchestrator.doctor.examination import ExaminationPlan, examine

SECRETS = """
defaults:
  egress: {allow: [git.example.org, api.example.org], intercept: [git.example.org]}
  secrets:
    GITHUB_TOKEN: {hosts: [git.example.org]}
    API_KEY: {hosts: [api.example.org], variable: ROOMS_API_KEY}
"""


@pytest.fixture(autouse=True)
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(_: object) -> list[Check]:
        return []

    monkeypatch.setattr(examination, "check_engine_and_image", nothing)
    for name in ("ANTHROPIC_API_KEY", "CLAUDE_CODE_OAUTH_TOKEN", "ANTHROPIC_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


async def found_in(folder: Path, text: str, *, embedded: bool = True) -> Sequence[Check]:
    file = folder / "my.yaml"
    file.write_text(text)
    matrix = on_homeserver(None) if embedded else {}
    return await examine(
        ExaminationPlan(
            load=lambda: build_config(file, matrix, {}),
            is_embedded=embedded,
            state_dir=folder / "state",
        )
    )


def named(checks: Sequence[Check], name: str) -> list[tuple[Verdict, str]]:
    return [(check.verdict, check.found) for check in checks if check.name == name]


async def test_a_file_for_the_embedded_homeserver_needs_no_login_and_no_key(tmp_path: Path) -> None:
    checks = await found_in(tmp_path, "defaults: {timeout_s: 9}")
    assert named(checks, "configuration") == [(Verdict.PASS, "valid, for the embedded homeserver")]
    ((verdict, said),) = named(checks, "messages api")
    assert (verdict, "offline model" in said) == (Verdict.WARN, True)
    assert {"homeserver", "login"}.isdisjoint(check.name for check in checks)
    assert named(checks, "room secrets") == [(Verdict.PASS, "none is named")]
    (failed, *_) = named(await found_in(tmp_path, "{}", embedded=False), "configuration")
    assert (failed[0], "--embedded" in failed[1]) == (Verdict.FAIL, True)


async def test_a_rooms_secret_that_is_not_there_is_named_with_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", "ghp-0123456789abcdef")
    monkeypatch.delenv("ROOMS_API_KEY", raising=False)
    checks = await found_in(tmp_path, SECRETS)
    missing, uncovered = named(checks, "room secrets")
    assert missing[0] is Verdict.FAIL
    assert "defaults.secrets.API_KEY: ROOMS_API_KEY is not set" in missing[1]
    assert uncovered[0] is Verdict.WARN
    assert "secrets.API_KEY: api.example.org: is not covered by egress.intercept" in uncovered[1]
    assert "0123456789abcdef" not in str(checks)


async def test_rooms_secrets_that_are_there_and_would_arrive_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_text("key-0123456789abcdef")
    monkeypatch.setenv("GITHUB_TOKEN", "ghp-0123456789abcdef")
    monkeypatch.setenv("ROOMS_API_KEY_FILE", str(tmp_path / "key"))
    covered = SECRETS.replace("intercept: [", "intercept: [api.example.org, ")
    checks = await found_in(tmp_path, covered)
    assert named(checks, "room secrets") == [(Verdict.PASS, "2 read")]
