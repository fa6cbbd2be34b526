"""A secret replaces its own surrogate, in a header's value, on the way to its own hosts only."""

from __future__ import annotations

import base64
import html
import json
from urllib.parse import quote

import pytest

from orchestrator.core.egress_rules import Scheme, Target, parse_rule
from orchestrator.core.room_secret import (
    RoomSecret,
    hide_in_headers,
    is_searchable,
    seal_headers,
    secrets_for,
)

VALUE = "ghp_Zq3vXw8Yt5Rb2Nm7Kj4Hg6Fd9Sa1Po0Iu3Q"
SURROGATE = "ghp_Aa1aAa1Aa1Aa1Aa1Aa1Aa1Aa1Aa1Aa1Aa1A"
OTHER = RoomSecret(name="B", surrogate="bbbb2222bbbb", value="cccc3333cccc", hosts=())


def secret(*hosts: str) -> RoomSecret:
    rules = tuple(parse_rule(host) for host in hosts)
    return RoomSecret(name="T", surrogate=SURROGATE, value=VALUE, hosts=rules)


def https(host: str, port: int = 443) -> Target:
    return Target(host=host, port=port, scheme=Scheme.HTTPS)


def http(host: str, port: int = 80) -> Target:
    return Target(host=host, port=port, scheme=Scheme.HTTP)


def basic(pair: str) -> str:
    return "Basic " + base64.b64encode(pair.encode()).decode()


def sent(name: str, value: str, *secrets: RoomSecret) -> str:
    headers = seal_headers([(name, value)], secrets or (secret("a.test"),)).headers
    return dict(headers)[name]


@pytest.mark.parametrize(
    ("hosts", "target", "goes"),
    [
        (["a.test"], https("a.test"), True),
        (["a.test"], https("b.test"), False),
        (["a.test"], https("x.a.test"), False),
        (["a.test"], https("a.test.evil.test"), False),
        (["a.test"], https("nota.test"), False),
        (["a.test"], https("a.test", 8443), False),
        (["a.test:8443"], https("a.test", 8443), True),
        (["*.a.test"], https("x.a.test"), True),
        (["*.a.test"], https("a.test"), False),
        (["*.a.test"], https("xa.test"), False),
        # In clear only where the port is named.
        (["a.test"], http("a.test"), False),
        (["a.test:80"], http("a.test"), True),
        (["a.test:8080"], http("a.test", 8080), True),
        (["192.0.2.1:80"], http("192.0.2.1"), True),
    ],
)
def test_a_secret_goes_to_its_hosts_alone(hosts: list[str], target: Target, goes: bool) -> None:
    assert bool(secrets_for(target, [secret(*hosts)])) is goes


def test_what_is_intercepted_gets_no_secret_in_clear() -> None:
    held = [secret("a.test:8443")]
    assert secrets_for(http("a.test", 8443), held)
    assert not secrets_for(http("a.test", 8443), held, intercept=[parse_rule("a.test:8443")])


def test_the_port_of_https_gets_no_secret_in_clear_whether_or_not_it_is_intercepted() -> None:
    held = [secret("a.test:443")]
    assert secrets_for(https("a.test"), held)
    assert not secrets_for(http("a.test", 443), held)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("authorization", f"Bearer {SURROGATE}", f"Bearer {VALUE}"),
        ("authorization", f"token {SURROGATE}", f"token {VALUE}"),
        ("private-token", SURROGATE, VALUE),
        ("x-api-key", SURROGATE, VALUE),
        ("cookie", f"a=1; t={SURROGATE}; b=2", f"a=1; t={VALUE}; b=2"),
        ("authorization", basic(f"me:{SURROGATE}"), basic(f"me:{VALUE}")),
        ("authorization", basic(f"{SURROGATE}:"), basic(f"{VALUE}:")),
        ("authorization", basic(f"x:{SURROGATE}").replace("B", "b", 1), None),
    ],
)
def test_the_value_takes_the_surrogates_place(name: str, value: str, expected: str | None) -> None:
    assert sent(name, value) == (expected or basic(f"x:{VALUE}").replace("B", "b", 1))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("authorization", f"Bearer {SURROGATE[:-1]}"),
        ("authorization", f"Bearer {SURROGATE}x"),
        ("authorization", f"Bearer x{SURROGATE}"),
        ("authorization", f"Bearer {SURROGATE.lower()}"),
        ("authorization", f"Bearer {SURROGATE[::-1]}"),
        ("authorization", basic(f"me:{SURROGATE}")[:-4]),
        ("authorization", "Basic " + base64.b64encode(basic(SURROGATE).encode()).decode()),
        ("authorization", "Basic " + base64.b64encode(f"é:{SURROGATE}".encode()).decode()),
        ("x-b64", base64.b64encode(SURROGATE.encode()).decode()),
        ("user-agent", SURROGATE),
        ("referer", f"https://a.test/{SURROGATE}"),
        ("origin", SURROGATE),
        ("host", SURROGATE),
        ("content-type", SURROGATE),
        ("if-none-match", SURROGATE),
        ("x-forwarded-for", SURROGATE),
        ("x-amz-meta-note", SURROGATE),
        ("accept-language", SURROGATE),
    ],
)
def test_what_is_not_the_whole_surrogate_in_a_header_for_credentials_stays(
    name: str, value: str
) -> None:
    assert sent(name, value) == value


def test_a_value_that_holds_another_secrets_surrogate_is_not_replaced_again() -> None:
    first = RoomSecret(name="A", surrogate="aaaa1111aaaa", value="x-bbbb2222-x", hosts=())
    second = RoomSecret(name="B", surrogate="bbbb2222", value="dddd4444", hosts=())
    assert sent("x-key", "aaaa1111aaaa bbbb2222", first, second) == "x-bbbb2222-x dddd4444"


def test_headers_are_left_alone_where_no_secret_is_for_the_target() -> None:
    headers = [("authorization", SURROGATE), ("accept-encoding", "gzip"), ("range", "bytes=0-1")]
    sealed = seal_headers(headers, [])
    assert (sealed.headers, sealed.hidden, sealed.used) == (headers, (), ())


def test_an_answer_that_may_hold_a_secret_is_asked_for_plain_and_whole() -> None:
    headers = [("accept-encoding", "gzip, br"), ("Range", "bytes=0-1"), ("if-range", "x")]
    sealed = seal_headers(headers, [secret("a.test")])
    assert sealed.headers == [("accept-encoding", "identity")]
    assert [item.text for item in sealed.hidden] == [VALUE]
    assert sealed.used == ()


def test_what_is_hidden_holds_the_encoded_pair_as_it_was_sent() -> None:
    sealed = seal_headers([("authorization", basic(f"me:{SURROGATE}"))], [secret("a.test")])
    (encoded,) = (item for item in sealed.hidden if item.text != VALUE)
    assert encoded.text in dict(sealed.headers)["authorization"]
    assert len(encoded.text) == len(encoded.mark)
    assert sealed.used == ("T",)


def test_nothing_shows_a_value() -> None:
    sealed = seal_headers([("authorization", basic(f"me:{SURROGATE}"))], [secret("a.test"), OTHER])
    shown = f"{sealed!r} {secret('a.test')!r} {sealed.hidden!r}"
    assert VALUE not in shown
    assert OTHER.value not in shown
    assert sealed.hidden[0].text not in shown


def test_a_surrogate_that_is_no_stand_in_is_refused() -> None:
    for wrong in (VALUE, "short"):
        with pytest.raises(ValueError, match=r"^T: a surrogate has its secret's length"):
            RoomSecret(name="T", surrogate=wrong, value=VALUE, hosts=())


@pytest.mark.parametrize(
    ("headers", "can_be"),
    [
        ([], True),
        ([("Content-Encoding", "identity")], True),
        ([("content-encoding", "gzip")], False),
        ([("content-encoding", "identity"), ("Content-Encoding", "br")], False),
        ([("content-encoding", "")], False),
        ([("content-range", "bytes 0-1/2")], False),
    ],
)
def test_an_answer_that_can_not_be_searched_is_known(
    headers: list[tuple[str, str]], can_be: bool
) -> None:
    assert is_searchable(headers) is can_be


def test_an_answers_headers_show_the_surrogate_in_the_secrets_place() -> None:
    hidden = seal_headers([], [secret("a.test")]).hidden
    shown = hide_in_headers([("X-Your-Token", VALUE), ("x-b", "1")], hidden)
    assert shown == [("X-Your-Token", SURROGATE), ("x-b", "1")]


def test_a_header_with_the_secret_in_its_name_is_left_out_whatever_its_case() -> None:
    hidden = seal_headers([], [secret("a.test")]).hidden
    assert hide_in_headers([(f"x-{VALUE}", "1"), (f"X-{VALUE.lower()}", "2")], hidden) == []


def test_a_value_with_punctuation_is_hidden_as_pages_urls_and_json_spell_it() -> None:
    value, surrogate = 'aB1+/=&<"x\\yZ9kLm2', 'cD3+/=&<"w\\vU7pQr5'
    odd = RoomSecret(name="T", surrogate=surrogate, value=value, hosts=())
    hidden = seal_headers([], [odd]).hidden
    shown = [quote(value, safe=""), html.escape(value), json.dumps(value), value]
    shown.append(json.dumps(value).replace("/", "\\/"))
    for text in shown:
        ((_, found),) = hide_in_headers([("x", text)], hidden)
        assert len(found) == len(text)
        assert "aB1" not in found
        assert "kLm2" not in found
    assert all(len(item.text) == len(item.mark) for item in hidden)
