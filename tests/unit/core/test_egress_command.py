"""`!egress`: what can be said, and what is answered with one line."""

from __future__ import annotations

import pytest

from orchestrator.core.command import CommandName, is_for_approvers, parse_command, render_help
from orchestrator.core.egress_command import EgressOrder, EgressVerb, parse_order
from orchestrator.core.egress_rules import Scheme, Target, parse_rule
from orchestrator.core.render import build_text_content
from orchestrator.core.texts import egress as egress_texts

NEVER = {"api.anthropic.com"}


@pytest.mark.parametrize(
    ("argument", "verb", "host", "always"),
    [
        ("", "list", None, False),
        ("list", "list", None, False),
        ("allow example.org", "allow", "example.org", False),
        ("allow Example.ORG 1h", "allow", "example.org", False),
        ("ALLOW example.org always", "allow", "example.org", True),
        ("allow `example.org:8443` always", "allow", "example.org:8443", True),
        ("allow 192.0.2.1", "allow", "192.0.2.1", False),
        ("deny example.org", "deny", "example.org", False),
        ("revoke  example.org", "revoke", "example.org", False),
        ("revoke api.anthropic.com", "revoke", "api.anthropic.com", False),
    ],
)
def test_an_order_is_read(argument: str, verb: str, host: str | None, *, always: bool) -> None:
    rule = None if host is None else parse_rule(host)
    order = EgressOrder(verb=EgressVerb(verb), rule=rule, always=always)
    assert parse_order(argument, never=NEVER) == order


@pytest.mark.parametrize(
    "argument",
    [
        "allow",
        "deny",
        "allow everything please now",
        "allow example.org forever",
        "allow example.org 2h",
        "deny example.org 1h",
        "grant example.org",
        "allow https://example.org/",
        "allow example.org:0",
        "allow example.org:99999",
        "allow 0x7f.1",
        "allow 127.1",
        "allow exämple.org",
        "allow *",
        "allow .",
        "allow a..b",
        "allow \u202eexample.org",
        "allow " + "a" * 1000,
    ],
)
def test_bad_input_gets_one_line(argument: str) -> None:
    answer = parse_order(argument, never=NEVER)
    assert answer == egress_texts.USAGE
    assert "\n" not in answer


def test_a_wildcard_and_a_way_around_the_gateway_can_not_be_granted() -> None:
    assert parse_order("allow *.example.org", never=NEVER) == egress_texts.NO_WILDCARD
    for host in ("api.anthropic.com", "API.anthropic.com:443", "api.anthropic.com:8443"):
        assert parse_order(f"allow {host} always", never=NEVER) == egress_texts.NOT_THE_API


def test_the_command_is_in_the_table_and_in_the_help() -> None:
    assert is_for_approvers("!egress allow example.org")
    assert not is_for_approvers("!status")
    assert not is_for_approvers("egress")
    command = parse_command("!egress allow example.org")
    assert command is not None
    assert command.name == CommandName.EGRESS
    assert "`!egress`" in render_help()


HOSTILE = "`<a href='https://evil.org'>@room</a> [x](https://evil.org) @alice:test\n\n# hi ** `"


def test_what_others_wrote_makes_no_link_no_pill_and_no_format_in_a_question() -> None:
    target = Target(host="xn--80ak6aa92e.com", port=8080, scheme=Scheme.HTTP)
    text = egress_texts.question(target, tools=[HOSTILE, HOSTILE], asker=HOSTILE, until=0.0)
    content = build_text_content(text, notice=True)
    html = str(content["formatted_body"])
    assert "<code>xn--80ak6aa92e.com:8080</code>" in html
    assert "<a " not in html
    assert "<h1" not in html
    assert content["m.mentions"] == {}
    outside = html.replace("\n", "")
    while "<code>" in outside:
        before, _, rest = outside.partition("<code>")
        outside = before + rest.partition("</code>")[2]
    for word in ("evil", "@room", "@alice", "xn--"):
        assert word not in outside


@pytest.mark.parametrize(
    "text",
    [
        egress_texts.granted(HOSTILE, HOSTILE, None),
        egress_texts.granted(HOSTILE, HOSTILE, 10.0),
        egress_texts.refused(HOSTILE, HOSTILE, 60.0),
        egress_texts.expired(HOSTILE),
        egress_texts.late(HOSTILE, "nobody had decided"),
        egress_texts.revoked([HOSTILE] * 30, HOSTILE),
        egress_texts.not_moved([HOSTILE]),
        egress_texts.unmet(HOSTILE, is_configured=True, is_granted=False),
        egress_texts.unmet(HOSTILE, is_configured=False, is_granted=True),
        egress_texts.unmet(HOSTILE, is_configured=False, is_granted=False),
    ],
)
def test_no_answer_makes_a_link_of_what_others_wrote(text: str) -> None:
    assert "<a " not in str(build_text_content(text)["formatted_body"])
