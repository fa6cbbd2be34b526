"""Grants: what they cover, when they end, and what a person means by a host's name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.egress_rules import HostRule, Scheme, Target, parse_rule
from orchestrator.core.grant import (
    Grant,
    GrantBook,
    build_subject,
    names_same,
    parse_subject,
    rule_for,
)
from orchestrator.model import RoomId, RoomSlug, UserId

SLUG = RoomSlug("room")


def grant(host: str, expires_at: float | None, grant_id: int = 1) -> Grant:
    return Grant(
        grant_id=grant_id,
        room_id=RoomId("!room:test"),
        rule=parse_rule(host),
        granted_by=UserId("@alice:test"),
        granted_at=0.0,
        expires_at=expires_at,
    )


def test_a_grant_ends_at_its_second_and_not_later() -> None:
    book = GrantBook()
    book.put(SLUG, [grant("a.org", 3600.0), grant("b.org", None, 2), grant("c.org", 7200.0, 3)])
    assert book.next_deadline() == 3600.0
    assert book.take_due(3599.999) == []
    assert [str(r) for r in book.rules(SLUG, 3599.999)] == ["a.org", "b.org", "c.org"]
    assert [str(r) for r in book.rules(SLUG, 3600.0)] == ["b.org", "c.org"]
    assert [g.grant_id for _, g in book.take_due(3600.0)] == [1]
    assert book.next_deadline() == 7200.0
    assert [g.grant_id for _, g in book.take_due(1e9)] == [3]
    assert book.next_deadline() is None
    assert [str(r) for r in book.rules(SLUG, 1e9)] == ["b.org"]


def test_what_was_granted_in_a_room_is_forgotten_under_whatever_name_it_held() -> None:
    book, room = GrantBook(), RoomId("!room:test")
    book.put(SLUG, [grant("a.org", None)])
    assert [g.grant_id for g in book.of_room(room)] == [1]
    assert book.take_room(RoomId("!other:test")) == []
    assert book.take_room(room) == [SLUG]
    assert (book.of_room(room), book.rules(SLUG, 0.0)) == ((), ())


def test_a_room_that_nobody_put_down_may_reach_nothing() -> None:
    assert GrantBook().rules(SLUG, 0.0) == ()


HOSTS = st.sampled_from(["example.org", "a.b.example.org", "192.0.2.1", "2001:db8::1"])
TARGETS = st.builds(
    Target, host=HOSTS, port=st.integers(1, 65535), scheme=st.sampled_from(list(Scheme))
)


@given(TARGETS)
def test_a_subject_is_read_as_the_target_that_it_was_made_of(target: Target) -> None:
    assert parse_subject(build_subject(target)) == target
    assert rule_for(target).covers(target)
    assert parse_rule(str(rule_for(target))) == rule_for(target)


def test_a_grant_covers_its_host_and_port_and_nothing_beside_it() -> None:
    rule = rule_for(Target(host="example.org", port=443, scheme=Scheme.HTTPS))
    for host, port, scheme in (
        ("example.org", 8443, Scheme.HTTPS),
        ("example.org", 80, Scheme.HTTP),
        ("www.example.org", 443, Scheme.HTTPS),
        ("org", 443, Scheme.HTTPS),
        ("badexample.org", 443, Scheme.HTTPS),
    ):
        assert not rule.covers(Target(host=host, port=port, scheme=scheme))


@pytest.mark.parametrize("text", ["", "https", "https example.org", "ftp example.org:21", "x y:1"])
def test_what_is_no_subject_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_subject(text)


def test_a_name_without_a_port_means_every_port_of_that_host() -> None:
    named, other = parse_rule("example.org"), parse_rule("example.org:443")
    assert names_same(named, other)
    assert not names_same(parse_rule("example.org:80"), other)
    assert not names_same(HostRule(host="org", subdomains=False, port=None), other)


def test_a_usual_port_means_what_was_allowed_without_a_port() -> None:
    """Else "revoke example.org:443" finds nothing, and example.org:443 can be reached all along."""
    other = parse_rule("example.org")
    for text, is_meant in (
        ("example.org:443", True),
        ("example.org:80", True),
        ("[::1]:443", False),
    ):
        assert names_same(parse_rule(text), other) is is_meant
    for port in range(1, 65536):
        rule = HostRule(host="example.org", subdomains=False, port=port)
        targets = (Target(host="example.org", port=port, scheme=scheme) for scheme in Scheme)
        assert names_same(rule, other) is any(map(other.covers, targets))
