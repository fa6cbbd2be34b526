"""What is said about a mistake in the configuration: its place, and what was expected there.

Pydantic's own words name types of Python, which nobody wrote into a YAML file.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel

_MAPPING = "expected a mapping of keys and values"
_WORDS: Mapping[str, str] = {
    "missing": "is missing",
    "tuple_type": "expected a list, for instance [first, second]",
    "dict_type": _MAPPING,
    "model_type": _MAPPING,
    "string_type": "expected text; in quotes, where it looks like a number",
    "bool_type": "expected true or false",
    "bool_parsing": "expected true or false",
    "int_type": "expected a whole number",
    "int_parsing": "expected a whole number",
    "int_from_float": "expected a whole number",
    "float_type": "expected a number",
    "float_parsing": "expected a number",
    "finite_number": "expected a finite number",
    "literal_error": "expected {expected}",
    "enum": "expected {expected}",
    "greater_than": "expected more than {gt:g}",
    "greater_than_equal": "expected {ge:,} or more",
    "less_than_equal": "expected {le:,} or less",
    "too_short": "expected a list that is not empty",
    "string_pattern_mismatch": "expected text that matches {pattern}",
}
"""By pydantic's type of error; its context stands in the braces."""

_FORMS: Mapping[str, str] = {
    r"^@[^:\s]+:[^\s]+$": "expected a user such as @alice:example.org, or users: @*:example.org",
    r"^[#!][^\s]+$": "expected a room: its alias (#ops:example.org) or its id (!…)",
    r"^https?://[^\s/]+(/.*)?$": "expected an address such as https://matrix.example.org",
    r"^[A-Z][A-Z0-9_]{0,63}$": "expected a variable's name in capitals, for instance GITHUB_TOKEN",
}
"""By the pattern of a text, where an example says more."""


def describe_problem(
    source: str,
    error: Any,  # noqa: ANN401 - pydantic's ErrorDetails
    root: type[BaseModel],
) -> str:
    """One line for one of pydantic's errors about a `root`; the value is never in it."""
    loc = [part for part in error["loc"] if part != "[key]"]
    path = ".".join(map(str, loc)) or "(the file)"
    if error["type"] == "missing" and loc == ["matrix"]:
        return (
            f"{source}: matrix: is missing; with --embedded the file is one for the embedded "
            "homeserver, which needs none"
        )
    if error["type"] == "extra_forbidden":
        return f"{source}: {path}: {_unknown(loc, root)}"
    context = error.get("ctx", {})
    if (form := _FORMS.get(context.get("pattern"))) is not None:
        return f"{source}: {path}: {form}"
    if (words := _WORDS.get(error["type"])) is not None:
        return f"{source}: {path}: {words.format(**context)}"
    return f"{source}: {path}: {error['msg'].removeprefix('Value error, ')}"


def _unknown(loc: Sequence[str | int], root: type[BaseModel]) -> str:
    """The key that was meant, or the places that have one of that name, or all that are known."""
    section, name = _section(loc[:-1], root), str(loc[-1])
    near = difflib.get_close_matches(name, section.model_fields, n=1)
    if near:
        return f"unknown key; did you mean {near[0]}?"
    elsewhere = [
        place
        for place, field in root.model_fields.items()
        if any(name in part.model_fields for part in _models(field.annotation))
    ]
    if name in root.model_fields:
        return "unknown key here; there is one at the top of the file, without indentation"
    if elsewhere:
        return f"unknown key here; there is one below {' and below '.join(elsewhere)}"
    return f"unknown key; known here: {', '.join(section.model_fields)}"


def _section(loc: Sequence[str | int], root: type[BaseModel]) -> type[BaseModel]:
    """The section at a place; keys of a mapping and places in a list lead to what is there."""
    found = root
    for part in loc:
        field = found.model_fields.get(str(part))
        found = next(iter(_models(field.annotation)), found) if field else found
    return found


def _models(annotation: Any) -> list[type[BaseModel]]:  # noqa: ANN401 - whatever a field is annotated with
    """The sections in an annotation: its own, of a `dict`'s values, of an alternative to None."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]
