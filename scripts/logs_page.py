"""Write docs/logs.md from the calls of the logger in orchestrator/.

python -m scripts.logs_page
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "logs.md"

# What a call of each name logs at. `warn_paced` is the egress gateway's, which bounds its lines.
_LEVELS = {
    **{name: name for name in ("trace", "debug", "info", "warning", "error", "critical")},
    "exception": "error",
    "warn_paced": "warning",
}
_FIELDS_OF_ALL = ("action", "room", "turn", "audit")
_HEAD = """\
# What the log says

Written from the code by `python -m scripts.logs_page`; a test compares it. Logs go to stderr, one
line for each event: JSON, or text where `observability.log_format` is `text`. What differs from one
time to the other stands in fields: `action` on every line, `room` and `turn` where it is about one,
and those named here. `aiagentchat_errors_total{action}` counts the lines of level ERROR.

What has `…` is filled in, as in `errand.clone`. Lines of libraries have the action `library` and a
field of that name.

| action | level | text | more fields | where |
|---|---|---|---|---|
"""


@dataclass(frozen=True, slots=True, order=True)
class Line:
    """One thing that is logged."""

    action: str
    level: str
    text: str
    fields: tuple[str, ...]
    where: str


def build_page() -> str:
    """The page as it has to be."""
    rows = [
        f"| `{line.action}` | {line.level.upper()} | {line.text} | "
        f"{', '.join(f'`{name}`' for name in line.fields)} | `{line.where}` |"
        for line in sorted(set(find_lines()))
    ]
    return _HEAD + "\n".join(rows) + "\n"


def find_lines() -> Iterator[Line]:
    """Every call of a logger's level in the program."""
    for path in sorted((ROOT / "orchestrator").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        yield from _Reader(str(path.relative_to(ROOT / "orchestrator"))).read(tree)


class _Reader:
    """Of one module: a bound logger is followed through the names that it is given."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._bound: dict[str, list[ast.keyword]] = defaultdict(list)

    def read(self, tree: ast.Module) -> Iterator[Line]:
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                self._note_names(function)
                for call in ast.walk(function):
                    # What `warn_paced` itself logs is named where it is called.
                    is_own = function.name != "warn_paced"
                    if is_own and isinstance(call, ast.Call) and self._is_level(call.func):
                        yield from self._lines(call)

    def _note_names(self, function: ast.AST) -> None:
        for part in ast.walk(function):
            if isinstance(part, ast.Assign) and self._is_logger(part.value):
                for target in part.targets:
                    self._bound[ast.unparse(target)] = self._keywords(part.value)

    def _is_level(self, node: ast.expr) -> bool:
        if not isinstance(node, ast.Attribute) or node.attr not in _LEVELS:
            return False
        return node.attr == "warn_paced" or self._is_logger(node.value)

    def _is_logger(self, node: ast.expr) -> bool:
        while isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr not in {"bind", "opt", "patch"}:
                return False
            node = node.func.value
        name = ast.unparse(node)
        return name in {"logger", "log"} or name.endswith(("_log", ".log")) or name in self._bound

    def _keywords(self, node: ast.expr) -> list[ast.keyword]:
        found: list[ast.keyword] = []
        while isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr == "bind":
                found += node.keywords
            node = node.func.value
        return [*found, *self._bound.get(ast.unparse(node), [])]

    def _lines(self, call: ast.Call) -> Iterator[Line]:
        func = call.func
        assert isinstance(func, ast.Attribute)
        keywords = [*call.keywords, *self._keywords(func.value)]
        actions = [word.value for word in keywords if word.arg == "action"]
        names = sorted({w.arg for w in keywords if w.arg and w.arg not in _FIELDS_OF_ALL})
        for action in _texts(actions[0]) if actions else ["?"]:
            for text in _texts(call.args[0]):
                yield Line(action, _LEVELS[func.attr], text, tuple(names), self._where)


def _texts(node: ast.expr) -> list[str]:
    """A literal's text, with … for what is put in; of a choice both."""
    match node:
        case ast.Constant(value=value):
            return [str(value)]
        case ast.JoinedStr(values=values):
            return ["".join(_texts(v)[0] if isinstance(v, ast.Constant) else "…" for v in values)]
        case ast.IfExp(body=body, orelse=orelse):
            return [*_texts(body), *_texts(orelse)]
        case _:
            return ["…"]


if __name__ == "__main__":
    PAGE.write_text(build_page())
    sys.stdout.write(f"{PAGE} is written\n")
