"""The profile against two generations of engines' defaults: each difference has a reason."""

from __future__ import annotations

import pytest

from orchestrator.core.sandbox import SandboxOptions
from orchestrator.core.seccomp import allowed_groups
from scripts.seccomp_page import (
    NEW,
    OLD,
    PAGE,
    WHY_ALLOWED,
    Default,
    load_default,
    ours,
    reasons,
    render,
)
from tests.unit.core.test_sandbox import SPEC, build_options, rules

DEFAULTS = {name: load_default(name) for name in (OLD, NEW)}


def test_the_page_is_what_the_profile_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), "run: python -m scripts.seccomp_page"


def test_we_allow_no_call_that_the_newest_engines_refuse() -> None:
    assert ours() - DEFAULTS[NEW].allowed == set()


def test_each_call_that_an_engine_allows_and_we_do_not_has_a_reason() -> None:
    theirs = frozenset().union(*(default.allowed for default in DEFAULTS.values()))
    assert theirs - ours() - set(reasons()) == set()


def test_no_reason_is_given_for_what_is_allowed_or_what_no_engine_allows() -> None:
    theirs = frozenset().union(*(default.allowed for default in DEFAULTS.values()))
    assert set(reasons()) & ours() == set()
    assert set(reasons()) - theirs == set()


def test_each_group_of_calls_has_a_reason_and_no_call_is_in_two() -> None:
    assert set(WHY_ALLOWED) == set(allowed_groups())
    names = [name for group in allowed_groups().values() for name in group]
    assert len(names) == len(set(names))
    assert all(name in PAGE.read_text(encoding="utf-8") for name in names)


def test_our_socket_families_are_fewer_than_any_engines() -> None:
    families = {rule["args"][0]["value"] for rule in rules("socket")}
    assert families == {1, 2, 10, 16}
    assert families.isdisjoint(DEFAULTS[NEW].socket_families_refused)


def test_our_conditions_are_the_engines_own_or_stricter() -> None:
    personalities = {rule["args"][0]["value"] for rule in rules("personality")}
    assert personalities == {0, 8, 0x20000, 0x20008, 0xFFFFFFFF}
    (clone,) = rules("clone")
    assert clone["args"][0]["value"] == 0x7E020000
    for name in ("prlimit64", "mknod", "mknodat"):
        assert all(rule["args"] for rule in rules(name))


@pytest.mark.parametrize("default", DEFAULTS.values(), ids=DEFAULTS)
def test_all_that_an_engine_hides_by_default_is_hidden(default: Default) -> None:
    options = build_options(SPEC)
    for path in default.masked_paths:
        assert is_hidden(path, options), path
    assert default.readonly_paths <= set(options.readonly_paths)


def is_hidden(path: str, options: SandboxOptions) -> bool:
    return any(path == hidden or path.startswith(f"{hidden}/") for hidden in options.masked_paths)
