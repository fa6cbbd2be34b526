"""`make licences`: every component's licence against the list of those that are allowed.

    python -m scripts.licences SBOM…

Runs with the tools of requirements-ci.lock. The list is scripts/licences.toml.
"""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from license_expression import ExpressionError, get_spdx_licensing

_LIST = Path(__file__).with_name("licences.toml")


def main(files: Sequence[str]) -> int:
    """1 where a component has a licence that is not allowed, or an exception is of no use."""
    if not files or not all(Path(file).exists() for file in files):
        print("There is no SBOM to look through. Type: make sbom", file=sys.stderr)
        return 2
    rules = tomllib.loads(_LIST.read_text())
    wrong: list[str] = []
    count, used = 0, set[str]()
    for file in files:
        bom = json.loads(Path(file).read_text())
        for component in bom.get("components", []):
            count += 1
            name = full_name(component)
            if name in rules["exceptions"]:
                used.add(name)
            elif (why := judge(component, rules)) is not None:
                wrong.append(f"{name} {component.get('version', '')} ({Path(file).name}): {why}")
    if len(files) > 1:
        wrong += [
            f"{name}: an exception in {_LIST.name} that nothing needs any more"
            for name in sorted(set(rules["exceptions"]) - used)
        ]
    for line in wrong:
        print(f"! {line}")
    print(f"· {count} components, {len(used)} exceptions, {len(wrong)} not allowed")
    return 1 if wrong else 0


def full_name(component: Mapping[str, Any]) -> str:
    """As scripts/licences.toml names it."""
    group = component.get("group")
    return f"{group}/{component['name']}" if group else str(component["name"])


def judge(component: Mapping[str, Any], rules: Mapping[str, Any]) -> str | None:
    """Why a component is not allowed; None where it is."""
    purl = str(component.get("purl", ""))
    if purl.startswith("pkg:deb/debian/"):
        section = next(
            (
                p["value"]
                for p in component.get("properties", [])
                if p["name"] == "aiagentchat:debian-section"
            ),
            "",
        )
        # Debian's main holds free software only (its policy, 2.2.1); other areas have a prefix.
        return (
            f"of Debian's {section}, which is not main" if "/" in section or not section else None
        )
    said = [
        str(entry.get("expression") or licence.get("id") or licence.get("name"))
        for entry in component.get("licenses", [])
        for licence in [entry.get("license", {})]
    ]
    if not said:
        return "it names no licence; look for it, then add an exception with where it stands"
    wrong = [text for text in said if not is_allowed(rules["names"].get(text, text), rules)]
    return f"{', '.join(wrong)}: not in the list of {_LIST.name}" if wrong else None


def is_allowed(text: str, rules: Mapping[str, Any]) -> bool:
    """Whether an SPDX expression can be met with what is allowed."""
    try:
        expression = get_spdx_licensing().parse(text)
    except ExpressionError:
        return False
    return expression is not None and _is_met(expression, frozenset(rules["allowed"]))


def _is_met(expression: object, allowed: frozenset[str]) -> bool:
    operator = str(getattr(expression, "operator", ""))
    if operator.strip() == "AND":
        return all(_is_met(part, allowed) for part in getattr(expression, "args", ()))
    if operator.strip() == "OR":
        return any(_is_met(part, allowed) for part in getattr(expression, "args", ()))
    return str(expression) in allowed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
