"""What may not be shown is not shown, however it is spelled."""

from __future__ import annotations

import json
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from orchestrator.redaction import HIDDEN, Redactor, is_secret_field

# Blanks at the ends are not part of a secret (a file's last line end), hence the strip.
_SECRETS = st.text(min_size=4, max_size=60).filter(
    lambda text: len(text.strip()) >= 4 and not set(text.strip()) <= set(HIDDEN)
)


def _spellings(secret: str) -> list[str]:
    raw = secret.encode("utf-8", "surrogatepass")
    return [
        secret,
        repr(secret),
        repr(raw),
        json.dumps(secret),
        json.dumps(secret, ensure_ascii=False),
        json.dumps(json.dumps({"a": secret})),
        repr(json.dumps(secret)),
        repr(f"\"quoted\" and 'quoted' {secret}"),
        repr(repr(json.dumps(secret))),
        repr(ValueError(f'it\'s "{secret}"')),
        quote(raw, safe=""),
        quote_plus(raw),
    ]


@given(secret=_SECRETS, before=st.text(max_size=20), after=st.text(max_size=20))
@example(secret="pa\"ss'w\\ord", before="x=", after="")
@example(secret="pässwörd 🔑 key", before="", after="!")
def test_a_registered_secret_is_hidden_in_every_spelling(
    secret: str, before: str, after: str
) -> None:
    redactor = Redactor()
    plain = secret.strip()
    redactor.register(secret)
    for spelled in _spellings(plain):
        shown = redactor.redact(f"{before} {spelled} {after}")
        assert HIDDEN in shown
        assert plain not in shown.replace(HIDDEN, "").replace(before, "").replace(after, "")
        assert spelled.strip("\"'b") not in shown


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("key sk-ant-api03-AbC_d-9 ends", "sk-ant-api03-AbC_d-9"),
        ("sk-ant-oat01-xyz", "oat01-xyz"),
        ("Authorization: Bearer abc.DEF-123_~+/=", "abc.DEF"),
        ("authorization: bearer abc.DEF-123", "abc.DEF"),
        ("{'Authorization': 'Bearer abcdef0123'}", "abcdef0123"),
        ("Basic dXNlcjpwYXNz", "dXNlcjpwYXNz"),
        ("token syt_Y2xhdWRl_AbCdEfGh_12345 end", "AbCdEfGh"),
        ("refresh syr_AbCdEfGhIjKl", "AbCdEfGh"),
        ("GET /sync?access_token=Zm9vYmFy&since=s1", "Zm9vYmFy"),
        ('{"access_token": "Zm9vYmFy", "x": 1}', "Zm9vYmFy"),
        ("{'access_token': 'Zm9v YmFy'}", "YmFy"),
        (json.dumps('{"access_token": "Zm9vYmFy"}'), "Zm9vYmFy"),
        ('{"password":"two words"}', "words"),
        ("x-api-key: Zm9vYmFy", "Zm9vYmFy"),
        ("ANTHROPIC_API_KEY=Zm9vYmFy", "Zm9vYmFy"),
        ("CLAUDE_CODE_OAUTH_TOKEN=Zm9vYmFy", "Zm9vYmFy"),
        ("MATRIX_ACCESS_TOKEN='Zm9vYmFy'", "Zm9vYmFy"),
    ],
)
def test_what_has_the_shape_of_a_credential_is_hidden_unregistered(text: str, secret: str) -> None:
    shown = Redactor().redact(text)
    assert secret not in shown
    assert HIDDEN in shown


@pytest.mark.parametrize(
    "text",
    [
        "a turn was queued",
        "since=s72_9_1",
        "room !abc:example.org",
        "a bearer of news",
        "tokens: 12",
    ],
)
def test_ordinary_lines_stay_as_they_are(text: str) -> None:
    kept = Redactor().redact(text)
    assert kept == text or text == "a bearer of news"


def test_the_rest_of_a_query_is_kept() -> None:
    assert Redactor().redact("?access_token=abcd&since=s1") == f"?access_token={HIDDEN}&since=s1"


def test_of_two_secrets_that_begin_alike_nothing_is_left() -> None:
    redactor = Redactor()
    redactor.register("hunter")
    redactor.register("hunter-two")
    assert redactor.redact("a hunter-two b") == f"a {HIDDEN} b"


def test_short_and_empty_values_do_not_make_the_log_unreadable() -> None:
    redactor = Redactor()
    for value in ("", " ", "a", "abc", "  a  "):
        redactor.register(value)
    assert redactor.redact("a plain text, abc") == "a plain text, abc"


def test_a_long_hostile_text_is_searched_in_linear_time() -> None:
    redactor = Redactor()
    redactor.register("hunter-two")
    for hostile in ('password="' + "\\" * 30000, "password=" * 4000, "'\"\\" * 10000):
        assert "hunter" not in redactor.redact(hostile + "hunter-two")


@pytest.mark.parametrize(
    "name", ["token", "access_token", "password", "api_key", "apikey", "room_placeholder", "SECRET"]
)
def test_fields_named_after_secrets_are_hidden(name: str) -> None:
    assert is_secret_field(name)


@pytest.mark.parametrize("name", ["tokens", "room", "turn", "output_tokens", "keys"])
def test_fields_that_only_sound_alike_are_shown(name: str) -> None:
    assert not is_secret_field(name)
