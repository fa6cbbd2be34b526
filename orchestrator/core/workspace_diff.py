"""What changed in a workspace, as people read it: a summary, and a unified diff. Pure.

Names and contents are the room's: each is one line of ours, made harmless, whatever stands in it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from orchestrator.core.line_diff import Block, diff_lines
from orchestrator.core.quoting import quote
from orchestrator.core.sanitise import sanitise
from orchestrator.core.workspace_copy import (
    DIRECTORY,
    FILE,
    LINK,
    Change,
    CopyEntry,
    describe_mode,
    name_of,
)

MAX_TEXT_BYTES = 512 << 10
"""Of one file; a larger one is named, and not shown."""
MAX_LINES = 20_000
MAX_DIFF_CHARS = 1 << 20
"""Of the whole diff; what comes later is named."""
_CONTEXT = 3
_LINE_CHARS = 400
_NAME_CHARS = 120
_MOST_NAMED = 30
_TICKS = re.compile("`{3,}")
_GIT = ".git"


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """A change with the contents on both sides, as far as they are to be shown."""

    change: Change
    before: bytes | None = None
    after: bytes | None = None

    @property
    def is_shown(self) -> bool:
        """Whether every side that is a file has its content here."""
        sides = ((self.change.before, self.before), (self.change.after, self.after))
        return all(data is not None for entry, data in sides if entry and entry.kind == FILE)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkspaceDiff:
    """`summary` is Markdown, `diff` the lines of a diff; empty where no text differs."""

    summary: str
    diff: str
    file_count: int


@dataclass(slots=True)
class _Tally:
    lines: list[str] = field(default_factory=list)
    diff: list[str] = field(default_factory=list)
    chars: int = 0
    added: int = 0
    removed: int = 0
    left_out: int = 0


def is_of_git(path: str) -> bool:
    """Whether it is one of git's own files: counted together, for nobody reads them."""
    return _GIT in path.split("/")


def build_diff(changes: Sequence[Changed], *, since: str) -> WorkspaceDiff:
    """All of it; `since` is a clause such as `since before the last turn`."""
    tally = _Tally()
    own = [c for c in changes if not is_of_git(c.change.path)]
    for changed in own:
        if not _is_folder(changed.change):
            _add(tally, changed)
    folders = sum(_is_folder(c.change) for c in own)
    files = len(own) - folders
    notes = _notes(tally, folders=folders, git=len(changes) - len(own))
    if not changes:
        return WorkspaceDiff(summary=f"Nothing changed {since}.", diff="", file_count=0)
    head = f"**{_count(files, 'file')} changed {since}: +{tally.added} −{tally.removed}**"
    shown = tally.lines[:_MOST_NAMED]
    if len(tally.lines) > len(shown):
        shown.append(f"- … and {len(tally.lines) - len(shown)} more")
    summary = "\n".join([head, "", *shown, *notes])
    return WorkspaceDiff(summary=summary.strip(), diff="\n".join(tally.diff), file_count=files)


def fence(diff: str) -> str:
    """The diff as a block of Markdown; nothing in it can end the block."""
    return f"```diff\n{diff}\n```"


def _is_folder(change: Change) -> bool:
    sides = [entry for entry in (change.before, change.after) if entry is not None]
    return all(entry.kind == DIRECTORY for entry in sides)


def _notes(tally: _Tally, *, folders: int, git: int) -> list[str]:
    notes = [f"- {_count(folders, 'folder')}"] if folders else []
    notes += [f"- {_count(git, 'file')} of git's own (`.git`)"] if git else []
    if tally.left_out:
        notes.append(f"- {_count(tally.left_out, 'file')} left out of the diff: it is too long")
    return notes


def _add(tally: _Tally, changed: Changed) -> None:
    change = changed.change
    name, what = quote(name_of(change.path), max_chars=_NAME_CHARS), _what(change)
    texts = _read_texts(changed)
    if isinstance(texts, str):
        tally.lines.append(f"- {name} {', '.join(filter(None, [what, texts]))}")
        return
    blocks = diff_lines(*texts)
    added = sum(block.new_end - block.new_start for block in blocks)
    removed = sum(block.old_end - block.old_start for block in blocks)
    tally.added, tally.removed = tally.added + added, tally.removed + removed
    counts = f"+{added} −{removed}" if blocks else ""
    tally.lines.append(f"- {name} {', '.join(filter(None, [what, counts]))}".rstrip())
    if not blocks:
        return
    if tally.chars >= MAX_DIFF_CHARS:
        tally.left_out += 1
        return
    lines = [*_heads(change), *_hunks(*texts, blocks)]
    size = sum(len(line) + 1 for line in lines)
    if tally.chars + size > MAX_DIFF_CHARS:
        tally.left_out += 1
        tally.chars = MAX_DIFF_CHARS
        return
    tally.chars += size
    tally.diff += lines


def _what(change: Change) -> str:
    before, after = change.before, change.after
    if before is None and after is not None:
        return "new link" if after.kind == LINK else "new"
    if after is None:
        return "removed"
    if before is not None and before.kind != after.kind:
        return f"was a {before.kind}, is a {after.kind}"
    if before is not None and before.mode != after.mode:
        return f"mode {describe_mode(before)} → {describe_mode(after)}"
    return ""


def _read_texts(changed: Changed) -> tuple[list[str], list[str]] | str:
    """The lines on both sides, or in words why there are none."""
    change = changed.change
    if any(entry is not None and entry.kind == LINK for entry in (change.before, change.after)):
        return _lines_of_link(change.before), _lines_of_link(change.after)
    if not changed.is_shown:
        return "too large to show"
    try:
        before, after = _decode(changed.before), _decode(changed.after)
    except UnicodeDecodeError:
        return "binary"
    return before, after


def _lines_of_link(entry: CopyEntry | None) -> list[str]:
    if entry is None or entry.kind != LINK:
        return []
    return [f"link to {name_of(entry.target or '')}"]


def _decode(data: bytes | None) -> list[str]:
    if not data:
        return []
    if b"\0" in data:
        raise UnicodeDecodeError("utf-8", data, 0, 1, "binary")
    text = data.decode("utf-8")
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    else:
        lines[-1] += " ⟨no line end⟩"
    return lines


def _heads(change: Change) -> list[str]:
    name = _show(name_of(change.path))
    old = "/dev/null" if change.before is None else f"a/{name}"
    new = "/dev/null" if change.after is None else f"b/{name}"
    return [f"--- {old}", f"+++ {new}"]


def _hunks(old: Sequence[str], new: Sequence[str], blocks: Sequence[Block]) -> list[str]:
    """Blocks with their surroundings; those that are near each other are one hunk."""
    lines: list[str] = []
    group: list[Block] = []
    for block in blocks:
        if group and block.old_start - group[-1].old_end > 2 * _CONTEXT:
            lines += _hunk(old, new, group)
            group = []
        group.append(block)
    return lines + _hunk(old, new, group)


def _hunk(old: Sequence[str], new: Sequence[str], group: Sequence[Block]) -> list[str]:
    first, last = group[0], group[-1]
    before = min(_CONTEXT, first.old_start)
    start, end = first.old_start - before, min(len(old), last.old_end + _CONTEXT)
    new_start = first.new_start - before
    new_end = last.new_end + (end - last.old_end)
    lines = [f"@@ -{_range(start, end)} +{_range(new_start, new_end)} @@"]
    at = start
    for block in group:
        lines += [f" {_show(line)}" for line in old[at : block.old_start]]
        lines += [f"-{_show(line)}" for line in old[block.old_start : block.old_end]]
        lines += [f"+{_show(line)}" for line in new[block.new_start : block.new_end]]
        at = block.old_end
    return lines + [f" {_show(line)}" for line in old[at:end]]


def _range(start: int, end: int) -> str:
    count = end - start
    return f"{start + 1 if count else start},{count}"


def _show(text: str) -> str:
    """One line, which can't end the block that it stands in."""
    shown = sanitise(text[: 8 * _LINE_CHARS]).replace("\n", "⏎")
    shown = _TICKS.sub(lambda found: "`\u200c".join(found[0]), shown)
    return shown if len(shown) <= _LINE_CHARS else f"{shown[:_LINE_CHARS]}…"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
