"""A YAML file as data, before it is validated: what YAML itself lets through is refused here.

YAML's reader takes the last of two equal keys and says nothing: whoever sets a limit twice would
believe in the one that is not kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from orchestrator.errors import ConfigError


def read_yaml(path: Path) -> dict[Any, Any]:
    """The file's mapping.

    Raises:
        ConfigError: it can't be read, is no YAML or no mapping, or has keys twice, a line for each.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as e:
        raise ConfigError([f"{path}: cannot be read: {e.strerror}"]) from e
    except UnicodeDecodeError as e:
        raise ConfigError([f"{path}: expected UTF-8 text"]) from e
    try:
        data = _read(path, text)
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        # An alias of YAML begins with the star of `*.example.org`.
        is_alias = getattr(e, "context", None) == "while scanning an alias"
        hint = "; what begins with * needs quotes" if is_alias else ""
        raise ConfigError(
            [f"{path}: {where}expected YAML: {getattr(e, 'problem', e)}{hint}"]
        ) from e
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise ConfigError([f"{path}: a value is not what its form says: {e}"]) from e
    except RecursionError as e:
        raise ConfigError([f"{path}: nested too deeply"]) from e
    if not isinstance(data, dict):
        raise ConfigError([f"{path}: expected a mapping with the key 'matrix' at least"])
    return data


def _read(path: Path, text: str) -> object:
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if twice := [f"{path}: {line}" for line in _find_twice(node)]:
            raise ConfigError(twice)
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _find_twice(root: yaml.Node) -> Iterator[str]:
    """A line for each key that its mapping has already, in the file's order."""
    seen: set[int] = set()
    found: list[tuple[int, str]] = []
    left: list[tuple[str, yaml.Node]] = [("", root)]
    while left:
        place, node = left.pop()
        # An alias is the very node that it names, which may hold itself.
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            left += [(f"{place}{i}.", part) for i, part in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            found += _twice_in(place, node)
            left += [(f"{place}{_name(key)}.", value) for key, value in node.value]
    return (line for _, line in sorted(found))


def _twice_in(place: str, mapping: yaml.MappingNode) -> Iterator[tuple[int, str]]:
    first: dict[tuple[str, str], int] = {}
    for key, _ in mapping.value:
        if not isinstance(key, yaml.ScalarNode):
            continue
        name, line = (key.tag, key.value), key.start_mark.line + 1
        if name in first:
            which = f"{place}{key.value}: expected once; it stands in line {first[name]}, too"
            yield line, f"line {line}: {which}"
        first.setdefault(name, line)


def _name(key: yaml.Node) -> str:
    return str(key.value) if isinstance(key, yaml.ScalarNode) else "?"
