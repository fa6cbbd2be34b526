"""A person's display name as a prompt can bear it: nobody can look like somebody else by it.

A name is chosen by whoever bears it, or by their server. In a prompt it stands beside the user id,
which nobody can choose freely, so that two people of one name are told apart as Matrix wants it.
"""

from __future__ import annotations

import unicodedata

MAX_CHARS = 40
# What a user id, a mark or the end of a name could be made of.
_TAKEN = dict.fromkeys(map(ord, "@#:[](){}<>«»`"), " ")
# Signs, spaces and letters; not controls, formats (bidi, zero width), surrogates, private use.
_HIDDEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
_BRACKETS = ("Ps", "Pe", "Pi", "Pf")
# More of them on one letter reach into the lines around.
_MAX_MARKS = 2


def clean_name(name: object, *, user_id: str) -> str | None:
    """The name in one line, without what could pass for anything else; None: there is none.

    A name that is only the id again, or its first part, says nothing and is none.
    """
    if not isinstance(name, str):
        return None
    shown = "".join(map(_replace, unicodedata.normalize("NFKC", name[: 8 * MAX_CHARS])))
    shown = " ".join(_without_piles(shown.translate(_TAKEN)).split())[:MAX_CHARS].strip()
    if not any(sign.isalnum() or unicodedata.category(sign) == "So" for sign in shown):
        return None
    return None if shown == user_id[1:].partition(":")[0] else shown


def _replace(sign: str) -> str:
    category = unicodedata.category(sign)
    return " " if category in _HIDDEN or category in _BRACKETS else sign


def _without_piles(text: str) -> str:
    found, marks = list[str](), 0
    for sign in text:
        marks = marks + 1 if unicodedata.combining(sign) else 0
        if marks <= _MAX_MARKS:
            found.append(sign)
    return "".join(found)
