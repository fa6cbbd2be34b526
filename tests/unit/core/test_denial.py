"""Refused hosts: a flood of names costs a bounded memory and few questions."""

from __future__ import annotations

import ipaddress

import pytest

from orchestrator.core.denial import (
    MAX_HOSTS,
    QUESTIONS_PER_MINUTE,
    Denials,
    Wanted,
    is_worth_asking,
)
from orchestrator.core.egress_rules import Scheme, Target
from orchestrator.model import RoomSlug, UserId

SLUG, OTHER = RoomSlug("room"), RoomSlug("other")
ALICE = UserId("@alice:test")


def target(host: str = "example.org", port: int = 443) -> Target:
    return Target(host=host, port=port, scheme=Scheme.HTTPS)


def note(denials: Denials, host: str, *, slug: RoomSlug = SLUG, now: float = 0.0) -> bool:
    return denials.note(slug, target(host), wanted=lambda: Wanted(asker=ALICE), now=now)


def take(denials: Denials, now: float) -> list[str]:
    """What is asked about then, each time at once."""
    taken = []
    while (denial := denials.take_due(now)) is not None:
        taken.append(denial.target.host)
        denials.settle(denial, quiet_until=now + 1000, asked_at=now)
    return taken


def test_a_host_that_is_refused_again_and_again_is_asked_about_once() -> None:
    denials = Denials()
    assert note(denials, "example.org")
    assert not any(note(denials, "example.org", now=i / 1000) for i in range(1000))
    assert take(denials, 1.0) == ["example.org"]
    assert not note(denials, "example.org", now=2.0)
    assert denials.recent(SLUG)[0].count == 1002


def test_what_wanted_it_is_looked_up_only_for_what_is_asked_about() -> None:
    denials, looked = Denials(), []

    def wanted() -> Wanted:
        looked.append(1)
        return Wanted(tools=("Bash: curl",), asker=ALICE)

    for _ in range(100):
        denials.note(SLUG, target(), wanted=wanted, now=0.0)
    denial = denials.take_due(0.0)
    assert denial is not None
    assert denial.wanted.tools == ("Bash: curl",)
    assert len(looked) == 1


def test_a_flood_of_names_is_a_few_questions_a_minute_and_a_bounded_memory() -> None:
    denials = Denials()
    for i in range(10_000):
        note(denials, f"h{i}.example.org", now=i / 1000)
    assert len(denials.recent(SLUG)) == MAX_HOSTS
    assert len(take(denials, 10.0)) == QUESTIONS_PER_MINUTE
    assert denials.next_deadline() == 70.0
    assert take(denials, 69.9) == []
    assert len(take(denials, 70.0)) == QUESTIONS_PER_MINUTE


def test_what_waits_to_be_asked_about_is_not_pushed_out_by_what_comes_after() -> None:
    denials = Denials()
    note(denials, "first.example.org")
    for i in range(1000):
        note(denials, f"h{i}.example.org")
    assert take(denials, 0.0)[0] == "first.example.org"


def test_a_rooms_flood_keeps_no_other_room_waiting() -> None:
    denials = Denials()
    for i in range(1000):
        note(denials, f"h{i}.example.org")
    note(denials, "b.example.org", slug=OTHER)
    assert take(denials, 0.0)[1] == "b.example.org"


def test_a_host_is_asked_about_again_when_its_time_has_come_or_something_was_decided() -> None:
    denials = Denials()
    note(denials, "example.org")
    take(denials, 0.0)
    assert not note(denials, "example.org", now=999.0)
    assert note(denials, "example.org", now=1000.0)
    take(denials, 1000.0)
    denials.wake(SLUG)
    assert note(denials, "example.org", now=1001.0)
    denials.drop(SLUG)
    assert denials.take_due(2000.0) is None
    assert denials.next_deadline() is None


@pytest.mark.parametrize(
    ("host", "is_worth"),
    [
        ("example.org", True),
        ("192.0.32.8", True),
        ("10.1.2.3", True),
        ("10.2.2.3", False),
        ("127.0.0.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("::1", False),
        ("fd00:ec2::254", False),
        ("fe80::1", False),
        ("64:ff9b::a9fe:a9fe", False),
        ("::ffff:169.254.169.254", False),
        ("168.63.129.16", False),
        ("2606:4700::1111", True),
        ("localhost", False),
        ("a.localhost", False),
        ("api.anthropic.com", False),
    ],
)
def test_what_no_grant_may_open_is_not_asked_about(host: str, *, is_worth: bool) -> None:
    internal = [ipaddress.ip_network("10.1.0.0/16")]
    never = {"api.anthropic.com"}
    assert is_worth_asking(target(host), internal=internal, never=never) is is_worth
