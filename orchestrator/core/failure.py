"""Why a turn failed, in words for the room: a clause to stand behind "Failed: ", with no full stop.

What the CLI says of it itself is quoted: whoever is in its place can't speak in our name.

All of it is taken from the result alone, so that it reads the same after a crash of ours.
"""

from __future__ import annotations

from orchestrator.core import texts
from orchestrator.core.cli_event import Result
from orchestrator.core.quoting import quote

_MAX_CHARS = 300
_CREDENTIAL = "the API did not accept the credential ({status}); the operator has to check it"
_CONTEXT = "the conversation no longer fits the model's context; `!new` starts a new one"
_TOO_LARGE = "the request is larger than the API takes (32 MB); `!new` starts a new conversation"
_STEPS = "it met the limit of steps for one turn; send `continue` to go on"
_COST = "it met the limit of what one turn may cost"

_BY_TERMINAL_REASON = {
    "prompt_too_long": _CONTEXT,
    "image_error": _TOO_LARGE,
    "max_turns": _STEPS,
    "budget_exhausted": _COST,
}
_BY_SUBTYPE = {"error_max_turns": _STEPS, "error_max_budget_usd": _COST}
_BY_API_ERROR = {
    "connection_failed": "the API could not be reached; try again in a minute",
    "no_response": "the API did not answer in time; try again in a minute",
}
_BY_STATUS = {
    401: _CREDENTIAL.format(status=401),
    403: _CREDENTIAL.format(status=403),
    404: "the API does not know the model, or the account may not use it; "
    "the operator has to check the `model` setting",
    413: _TOO_LARGE,
    429: "the API's rate limit was met; try again in a minute",
    529: "the API is overloaded; try again in a few minutes",
}


def explain_failure(result: Result) -> str:
    """The clause for a result with `is_error`; never empty."""
    return (
        _own_refusal(result)
        or _BY_TERMINAL_REASON.get(result.terminal_reason or "")
        or _BY_SUBTYPE.get(result.subtype)
        or _explain_api_error(result)
        or _own_words(result)
    )


def _own_refusal(result: Result) -> str | None:
    """What our own gateway refused, which the CLI shows as an answer of the API."""
    if result.api_error_status not in (403, 429):
        return None
    found = texts.find_gateway_refusal(" ".join(result.text.split()))
    return found[:_MAX_CHARS] if found else None


def explain_refusal(status: int | None) -> str | None:
    """The clause for an answer of the API that asking again won't change; None for any other."""
    return _BY_STATUS[status] if status in (401, 403) else None


def is_usage_limit(result: Result) -> bool:
    """Whether the account's limit ended the turn: later the same request would be answered."""
    return result.is_error and result.api_error == "usage_limit_reached"


def is_unresumable(result: Result) -> bool:
    """Whether the CLI ended because it has no session of the id that it should resume."""
    return any(error.startswith("No conversation found") for error in result.errors)


def _explain_api_error(result: Result) -> str | None:
    status = result.api_error_status or 0
    if result.api_error == "usage_limit_reached":
        # The CLI's own words name the limit and when it resets.
        return f"a usage limit was met: {quote(_one_line(result), max_chars=_MAX_CHARS)}"
    if result.api_error in _BY_API_ERROR:
        return _BY_API_ERROR[result.api_error]
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    return f"the API failed ({status}); try again in a minute" if status >= 500 else None


def _own_words(result: Result) -> str:
    """What the CLI says itself, as one short line."""
    if line := _one_line(result):
        return f"the CLI says: {quote(line, max_chars=_MAX_CHARS)}"
    return f"the CLI ended the turn with {quote(result.terminal_reason or result.subtype)}"


def _one_line(result: Result) -> str:
    said = [text for text in (*result.errors, result.text) if not text.startswith("[ede_")]
    return " ".join(" ".join(said).split()).rstrip(".")[:_MAX_CHARS]
