"""A surrogate has its secret's shape and nothing else of it; none can be taken for another."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.surrogate import MIN_HIDDEN_CHARS, hidden_chars, make_surrogates
from orchestrator.model import InstallationId, RoomSlug

HERE = InstallationId("0123456789abcdef")
KEY = b"k" * 32
_VISIBLE = "".join(chr(c) for c in range(0x21, 0x7F))
_values = st.text(_VISIBLE, min_size=8, max_size=80).filter(
    lambda v: hidden_chars(v) >= MIN_HIDDEN_CHARS
)
_names = st.text(string.ascii_uppercase, min_size=1, max_size=8)

TOKENS = [
    ("ghp_" + "aB3" * 12, "ghp_"),
    ("github_pat_11ABCDEFG0" + "x9Y" * 20, "github_pat_"),
    ("glpat-" + "aB3dE6fG9hJ2kL5mN8pQ", "glpat-"),
    ("sk-ant-api03-" + "aB3" * 30, "sk-ant-api03-"),
    ("sk-proj-" + "aB3" * 30, "sk-proj-"),
    ("xoxb-123456789012-123456789012-abcdefABCDEF123456789012", "xoxb-"),
    ("AKIAIOSFODNN7EXAMPLE", "AKIA"),
    ("AIzaSyA-1234567890abcdefghijklmnopqrstu", "AIza"),
    ("npm_" + "aB3" * 12, "npm_"),
    ("acme_" + "a1b2c3d4e5f6g7h8i9j0", "acme_"),
    ("correct-horse-battery-staple", ""),
    ("my-secretwordwithoutanydigitsinit", ""),
    ("sk-1234567", ""),
]


def surrogate(value: str, *, slug: str = "room-a", name: str = "TOKEN", key: bytes = KEY) -> str:
    return make_surrogates({name: value}, key=key, installation=HERE, slug=RoomSlug(slug))[name]


def _kind(char: str) -> str:
    for kind in (string.digits, string.ascii_lowercase, string.ascii_uppercase):
        if char in kind:
            return kind
    return char


@given(_values)
def test_a_surrogate_has_the_length_and_the_kind_of_character_at_each_place(value: str) -> None:
    made = surrogate(value)
    assert [_kind(c) for c in made] == [_kind(c) for c in value]
    assert made != value


@given(_values)
def test_nothing_but_the_shape_of_the_value_is_in_the_surrogate(value: str) -> None:
    # With "~" in front it has no issuer's prefix and is not hexadecimal.
    one = f"~{value}"
    other = "".join(_next(char) for char in one)
    made = surrogate(one)
    assert surrogate(other) == made or made == other


def _next(char: str) -> str:
    kind = _kind(char)
    return kind[(kind.index(char) + 1) % len(kind)]


@pytest.mark.parametrize(("value", "prefix"), TOKENS)
def test_an_issuers_prefix_is_kept_and_the_rest_is_not(value: str, prefix: str) -> None:
    made = surrogate(value)
    assert made.startswith(prefix)
    same = sum(a == b for a, b in zip(made[len(prefix) :], value[len(prefix) :], strict=True))
    others = sum(not c.isalnum() for c in value[len(prefix) :])
    assert same - others <= (len(value) - len(prefix) - others) / 2


def test_a_hexadecimal_secret_has_a_hexadecimal_surrogate() -> None:
    value = "0123456789abcdef" * 4
    assert set(surrogate(value)) <= set("0123456789abcdef")
    assert set(surrogate(value.upper())) <= set("0123456789ABCDEF")


def test_it_is_the_same_after_a_restart_and_another_one_elsewhere() -> None:
    value = "ghp_" + "aB3" * 12
    assert surrogate(value) == surrogate(value)
    elsewhere = {
        surrogate(value),
        surrogate(value, slug="room-b"),
        surrogate(value, name="OTHER"),
        surrogate(value, key=b"l" * 32),
    }
    assert len(elsewhere) == 4


@given(st.dictionaries(_names, _values, min_size=2, max_size=6))
def test_no_surrogate_is_a_part_of_another_one_or_of_a_value(values: dict[str, str]) -> None:
    made = make_surrogates(values, key=KEY, installation=HERE, slug=RoomSlug("a"))
    assert made.keys() == values.keys()
    for name, found in made.items():
        others = [v for n, v in made.items() if n != name] + list(values.values())
        assert not any(found in other or other in found for other in others)


def test_two_secrets_of_one_value_have_two_surrogates() -> None:
    values = {"A": "aB3" * 12, "B": "aB3" * 12}
    made = make_surrogates(values, key=KEY, installation=HERE, slug=RoomSlug("a"))
    assert made["A"] != made["B"]


@pytest.mark.parametrize("value", ["--------------", "!!!!abc!!!!"])
def test_a_value_with_hardly_anything_to_replace_is_named_and_not_shown(value: str) -> None:
    assert hidden_chars(value) < MIN_HIDDEN_CHARS
    if not hidden_chars(value):
        with pytest.raises(ValueError, match=r"^TOKEN$"):
            surrogate(value)


def test_a_short_key_is_refused() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        surrogate("ghp_" + "aB3" * 12, key=b"short")


def test_every_character_of_a_class_is_drawn() -> None:
    value = "z" * 4000
    counts = {c: surrogate(value).count(c) for c in string.ascii_lowercase}
    assert min(counts.values()) > 80
    assert max(counts.values()) < 240
