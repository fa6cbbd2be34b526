"""Write docs/configuration.md from the models of orchestrator.config and the example's comments.

python -m scripts.configuration_page
"""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from orchestrator.config import Config
from orchestrator.config_types import parse_size
from orchestrator.core.config_diff import Change, Effect

_DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE = _DOCS / "configuration.md"
EXAMPLE = _DOCS / "config.example.yaml"

_HEAD = """\
# Configuration

Written by `python -m scripts.configuration_page` from the models in `orchestrator/config.py` and
`orchestrator/room_profile.py`, and the comments of [config.example.yaml](config.example.yaml); a
test compares them.

One file of YAML. `orchestrator init` writes one, `orchestrator config check FILE` has one line for
each mistake, `orchestrator config diff FILE` says what a change changes. A file that changes while
`orchestrator up` runs is read again within seconds, or at SIGHUP: all of it, or nothing where it is
not valid.

No secret stands in it. Each comes from the environment, or from the file that the same name with
`_FILE` at its end names:

| variable | what it is |
|---|---|
| `MATRIX_PASSWORD` or `MATRIX_ACCESS_TOKEN` | of the agent's account |
| `ANTHROPIC_API_KEY` or `CLAUDE_CODE_OAUTH_TOKEN` | for the Messages API: key, subscription |
| the names in `secrets` | of what a room's runner has in name only |
| `MATRIX_ADMIN_TOKEN` | of a server admin, for `orchestrator matrix` and `doctor` alone |
| `STATUS_TOKEN` | shows the status page; 16 characters or more |
| `STATUS_ADMIN_TOKEN` | may act there, too; none is needed |
| `MATRIX_REGISTRATION_SECRET` | Synapse's `registration_shared_secret`, for `init` alone |
| `ANTHROPIC_BASE_URL` | no secret: goes before `anthropic.upstream` |

Sizes are bytes or text such as `512m`, `2g` (powers of 1024); times are seconds, at most a week. A
profile's keys stand below `defaults`, and below a room's id or alias in `rooms` where they differ.
When a change is felt: at once (○), from the room's next turn on with its CLI started anew (◐),
before the next turn with a new container (●), with the next conversation (◇), or by a start only
(■).
"""
_MARKS = {
    Effect.AT_ONCE: "○",
    Effect.CLI: "◐",
    Effect.RUNNER: "●",
    Effect.CONVERSATION: "◇",
    Effect.RESTART: "■",
}
_COMMENT = re.compile(r"^(?P<indent> *)(?P<key>[a-z_0-9]+):.*?\s#\s(?P<text>.*)$")
_KEY = re.compile(r"^(?P<indent> *)(?P<key>[a-z_0-9]+):")
_ABOVE = re.compile(r"^ *# (?P<text>.*)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One line of the page."""

    path: tuple[str, ...]
    takes: str
    default: str
    text: str

    @property
    def mark(self) -> str:
        """When a change of it is felt."""
        return _MARKS[Change(path=self.path, before=None, after=None).effect]


def build_page() -> str:
    """The page as it has to be."""
    parts = [_HEAD]
    for section, keys in _sections():
        parts += [f"## {section}\n", "| key | takes | default | | |", "|---|---|---|---|---|"]
        parts += [
            f"| `{'.'.join(key.path)}` | {key.takes} | {key.default} | {key.mark} | {key.text} |"
            for key in keys
        ]
        parts.append("")
    return "\n".join(parts)


def keys() -> list[Key]:
    """All of them, in the order of the models."""
    return list(_walk(Config, (), Config.model_json_schema()["$defs"], read_comments()))


def _sections() -> Iterator[tuple[str, list[Key]]]:
    found: dict[str, list[Key]] = {}
    for key in keys():
        title = key.path[0] if len(key.path) > 1 else "The top level"
        if key.path[0] == "defaults":
            title = "A room's profile" if len(key.path) == 2 else f"A room's `{key.path[1]}`"
        found.setdefault(title, []).append(key)
    yield from found.items()


def _walk(
    model: type[BaseModel],
    path: tuple[str, ...],
    definitions: Mapping[str, Any],
    comments: Mapping[tuple[str, ...], str],
) -> Iterator[Key]:
    texts = _docstrings(model)
    properties = model.model_json_schema()["properties"]
    for name, field in model.model_fields.items():
        here = (*path, name)
        section = _section_of(field)
        if section is not None:
            yield from _walk(section, here, definitions, comments)
            continue
        yield Key(
            path=here,
            takes=_takes(properties[name], definitions, field),
            default=_default(field),
            text=_text(texts.get(name), comments.get(here)),
        )


def _section_of(field: FieldInfo) -> type[BaseModel] | None:
    if get_origin(field.annotation) is dict:
        return None
    held = [field.annotation, *getattr(field.annotation, "__args__", ())]
    for one in held:
        if inspect.isclass(one) and issubclass(one, BaseModel):
            return one
    return None


def _text(docstring: str | None, comment: str | None) -> str:
    # What can be chosen stands in its own column.
    is_choice = comment is not None and re.fullmatch(r"\w+( \| \w+)+", comment) is not None
    text = (None if is_choice else comment) or docstring or ""
    return text.replace("|", "\\|").strip()


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "must be given"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, tuple | list | dict) and not value:
        return "none"
    if isinstance(value, dict):
        return "`" + ", ".join(value) + "`"
    if value is None:
        return "null"
    if _is_size(field) and isinstance(value, int):
        return f"`{_size(value)}`"
    if isinstance(value, float):
        return f"`{value:g}`"
    return f"`{str(value).lower()}`" if isinstance(value, bool) else f"`{value}`"


def _is_size(field: FieldInfo) -> bool:
    return any(getattr(one, "func", None) is parse_size for one in field.metadata)


def _size(value: int) -> str:
    for unit, factor in (("g", 1 << 30), ("m", 1 << 20), ("k", 1 << 10)):
        if value % factor == 0:
            return f"{value // factor}{unit}"
    return str(value)


def _takes(schema: Mapping[str, Any], definitions: Mapping[str, Any], field: FieldInfo) -> str:
    if _is_size(field):
        return "a size"
    return _type(schema, definitions)


def _type(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        return _type(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in schema:
        return " or ".join(_type(one, definitions) for one in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{one}`" for one in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    match schema.get("type"):
        case "array":
            return f"a list: {_type(schema['items'], definitions)}"
        case "object":
            return "a mapping"
        case "integer" | "number" as kind:
            return _bounded("a whole number" if kind == "integer" else "a number", schema)
        case "boolean":
            return "`true`, `false`"
        case "null":
            return "null"
        case _:
            return "text"


def _bounded(what: str, schema: Mapping[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f"{what}, {low:g} to {high:g}"
    if low is not None:
        return f"{what}, {low:g} or more"
    above = schema.get("exclusiveMinimum")
    bounds = [f"above {above:g}"] if above is not None else []
    bounds += [f"{high:g} at most"] if high is not None else []
    return ", ".join([what, *bounds])


def _docstrings(model: type[BaseModel]) -> Mapping[str, str]:
    """The text below each attribute, in one line."""
    (tree,) = ast.parse(inspect.getsource(model)).body
    found: dict[str, str] = {}
    body = tree.body if isinstance(tree, ast.ClassDef) else []
    for attribute, below in itertools.pairwise(body):
        is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        if isinstance(attribute, ast.AnnAssign) and is_text:
            name = attribute.target
            text = below.value.value  # type: ignore[attr-defined] # as `is_text` says
            if isinstance(name, ast.Name):
                found[name.id] = " ".join(str(text).split()).rstrip(".")
    return found


def read_comments() -> Mapping[tuple[str, ...], str]:
    """What the example says of each key, beside it or in the lines above it."""
    found: dict[tuple[str, ...], str] = {}
    path: list[str] = []
    above: list[str] = []
    for line in EXAMPLE.read_text().splitlines():
        if (comment := _ABOVE.match(line)) is not None:
            above.append(comment["text"])
            continue
        key = _KEY.match(line)
        if key is not None:
            path = [*path[: len(key["indent"]) // 2], key["key"]]
            beside = _COMMENT.match(line)
            text = beside["text"] if beside is not None else " ".join(above)
            if text:
                found[tuple(path)] = text.rstrip(".")
        above = []
    return found


if __name__ == "__main__":
    sys.stdout.write(f"{PAGE} is written\n")
    PAGE.write_text(build_page())
