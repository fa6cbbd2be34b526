"""Surrogates: what a room's runner has in the place of a secret.

A surrogate looks like the secret (its length, its known prefix, a digit where a digit is, a letter
of the same case where a letter is), so that tools which check a token's form take it. It is derived
from the installation's key, the room and the secret's name: the same after a restart, another one
in each room, and nothing of the value but its shape is in it.

What the shape tells: of a random character of 62 it leaves 4.5 of 6.0 bits unknown. With at least
MIN_HIDDEN_CHARS such characters nobody guesses a value by asking a server.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import string
from collections.abc import Iterator, Mapping

from orchestrator.model import InstallationId, RoomSlug

MIN_HIDDEN_CHARS = 8
"""Letters and digits of a value that its surrogate must replace."""
MIN_KEY_BYTES = 16
_DOMAIN = b"aiagentchat room surrogate 1"
_ATTEMPTS = 100
# What issuers put before a token, the longest first where one begins another. Only what is here, or
# has the form of _GENERIC, is kept: anything else might be the secret itself.
_PREFIXES = (
    "github_pat_", "ghp_", "gho_", "ghu_", "ghs_", "ghr_",
    "glpat-", "gldt-", "glrt-", "glcbt-", "glptt-", "glsoat-", "gloas-", "glsa_", "glc_",
    "sk-ant-api03-", "sk-ant-", "sk-proj-", "sk-svcacct-", "sk-",
    "sk_live_", "sk_test_", "rk_live_", "rk_test_", "pk_live_", "pk_test_", "whsec_",
    "xoxb-", "xoxp-", "xoxa-", "xoxr-", "xoxs-", "xapp-",
    "AKIA", "ASIA", "AIza", "ya29.", "eyJ", "SG.",
    "npm_", "pypi-", "hf_", "dckr_pat_", "shpat_", "dop_v1_", "lin_api_", "syt_", "hvs.",
)  # fmt: skip
# A short word and 20 or more letters and digits in one run: a token, and no phrase of a person's.
_GENERIC = re.compile(r"[A-Za-z]{2,8}[_-](?=(?=[A-Za-z]*[0-9])[A-Za-z0-9]{20,}$)")
_HEX = re.compile(r"(?:[0-9a-f]+|[0-9A-F]+)")


def make_surrogates(
    values: Mapping[str, str], *, key: bytes, installation: InstallationId, slug: RoomSlug
) -> dict[str, str]:
    """A surrogate for each secret of a room, by name. Pure: the same input gives the same output.

    None equals a value, none is a part of another one or of a value, or has a value as its part:
    where one is found in a text, it is that secret's and no other's.

    Raises:
        ValueError: the key is too short; or the name of the first secret with no surrogate, since
            its value has fewer letters and digits than MIN_HIDDEN_CHARS.
    """
    if len(key) < MIN_KEY_BYTES:
        msg = f"the installation's secret must have {MIN_KEY_BYTES} bytes or more"
        raise ValueError(msg)
    made: dict[str, str] = {}
    for name, value in sorted(values.items()):
        taken = [*made.values(), *values.values()]
        for attempt in range(_ATTEMPTS):
            seed = b"\0".join(part.encode() for part in (installation, slug, name, str(attempt)))
            found = _replace(value, _stream(key, seed))
            if not any(found in other or other in found for other in taken):
                made[name] = found
                break
        else:
            raise ValueError(name)
    return made


def hidden_chars(value: str) -> int:
    """How many characters of the value a surrogate replaces."""
    return sum(c.isascii() and c.isalnum() for c in value[len(_prefix(value)) :])


def _prefix(value: str) -> str:
    """What is kept as it is; nothing where too little would be left to replace."""
    known = next((p for p in _PREFIXES if value.startswith(p)), "")
    if not known and (match := _GENERIC.match(value)):
        known = match[0]
    rest = sum(c.isascii() and c.isalnum() for c in value[len(known) :])
    return known if rest >= MIN_HIDDEN_CHARS else ""


def _replace(value: str, stream: Iterator[int]) -> str:
    kept = _prefix(value)
    rest = value[len(kept) :]
    letters = 6 if _HEX.fullmatch(rest) else len(string.ascii_lowercase)
    return kept + "".join(_other(char, letters, stream) for char in rest)


def _other(char: str, letters: int, stream: Iterator[int]) -> str:
    """Some character of the same class."""
    for alphabet in (
        string.digits,
        string.ascii_lowercase[:letters],
        string.ascii_uppercase[:letters],
    ):
        if char in alphabet:
            return alphabet[_below(len(alphabet), stream)]
    return char


def _below(limit: int, stream: Iterator[int]) -> int:
    """A number of 0 to limit - 1, each as likely as the others."""
    while (byte := next(stream)) >= 256 - 256 % limit:
        pass
    return byte % limit


def _stream(key: bytes, seed: bytes) -> Iterator[int]:
    """Bytes without end from the key: HMAC over a counter."""
    block = 0
    while True:
        text = b"\0".join([_DOMAIN, seed, str(block).encode()])
        yield from hmac.digest(key, text, hashlib.sha512)
        block += 1
