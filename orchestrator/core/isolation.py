"""Isolation as a list of controls: each looks at what was read of a live runner and decides.

Rules: a control never raises for what it finds; what is missing or not understood is a failure;
nothing of a secret stands in a verdict. Which controls there are: `isolation_controls`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from orchestrator.core.isolation_evidence import Expected, RunnerEvidence

# Of one verdict: a room with 500 processes would fill the page otherwise.
_MOST_NAMED = 5
_MOST_CHARS = 160


class Result(StrEnum):
    """How one control came out."""

    PASS = "pass"  # noqa: S105 - a verdict
    FAIL = "fail"
    WARN = "warn"
    """Worth a look; not against the policy."""
    SKIP = "skip"
    """It does not apply here; the detail says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a control found."""

    result: Result
    detail: str = ""


Check = Callable[[Expected, RunnerEvidence], Verdict]


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """One thing that must hold for every live runner, and who requires it."""

    id: str
    title: str
    required_by: tuple[str, ...]
    check: Check


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One control and how it came out for one runner (or for the installation)."""

    id: str
    title: str
    required_by: tuple[str, ...]
    verdict: Verdict


def judge(
    controls: Iterable[Control], expected: Expected, evidence: RunnerEvidence
) -> tuple[Judged, ...]:
    """Every control's verdict, in the table's order; a control that breaks is one that fails."""
    return tuple(
        Judged(
            id=control.id,
            title=control.title,
            required_by=control.required_by,
            verdict=_run(control, expected, evidence),
        )
        for control in controls
    )


def _run(control: Control, expected: Expected, evidence: RunnerEvidence) -> Verdict:
    try:
        return control.check(expected, evidence)
    except (TypeError, ValueError, KeyError, AttributeError, IndexError) as e:
        # The engine's record is another program's JSON: what it can't be read as does not pass.
        return fail([f"what was read is not understood: {type(e).__name__}"])


def fail(problems: Iterable[str]) -> Verdict:
    """A failure, with its first problems in words."""
    found = [clean(problem) for problem in problems]
    more = len(found) - _MOST_NAMED
    rest = [f"and {more} more"] if more > 0 else []
    return Verdict(result=Result.FAIL, detail="; ".join([*found[:_MOST_NAMED], *rest]))


def skip(reason: str) -> Verdict:
    """Not applicable, and why."""
    return Verdict(result=Result.SKIP, detail=reason)


def warn(detail: str) -> Verdict:
    """Worth a look."""
    return Verdict(result=Result.WARN, detail=clean(detail))


def none_of(problems: Iterable[str]) -> Verdict:
    """A pass without problems, else a failure that names them."""
    found = list(dict.fromkeys(problems))
    return fail(found) if found else Verdict(result=Result.PASS)


def differs(what: str, wanted: object, found: object) -> Iterable[str]:
    """One problem where the two are not equal."""
    if wanted != found or type(wanted) is not type(found):
        yield f"{what}: expected {wanted}, found {found}"


def given(what: str, found: object) -> Iterable[str]:
    """One problem where there is something and nothing is wanted: null, empty, false and 0 do."""
    if found:
        yield f"{what}: expected nothing, found {found}"


def clean(text: str) -> str:
    """One bounded line of printable ASCII, whatever a room put into a name."""
    line = text.encode("unicode_escape").decode("ascii")
    return line if len(line) <= _MOST_CHARS else f"{line[:_MOST_CHARS]}…"


def as_strings(value: object) -> set[str]:
    """The items of a list of the engine's; nothing where it is none."""
    return {str(item) for item in value} if isinstance(value, list) else set()


def keys_of(value: object) -> set[str]:
    """The keys of an object of the engine's; nothing where it is none."""
    return {str(key) for key in value} if isinstance(value, dict) else set()
