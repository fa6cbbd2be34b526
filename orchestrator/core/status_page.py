"""The status page as HTML: one document, no script, nothing from elsewhere. Pure.

Rules:
- whatever comes from a room passes `_said` or `_whole`: harmless characters alone, escaped, and
  within an element of its own direction;
- the page that looks again by itself has no button: what is pressed is what was looked at;
- what is allowed has been shown whole, and the form says which text that was.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.core.approval import ApprovalKind
from orchestrator.core.page_action import DECISIONS, PageVerb
from orchestrator.core.sanitise import sanitise
from orchestrator.core.status_view import (
    SeenEnd,
    SeenExit,
    SeenQuestion,
    SeenRoom,
    SeenTurn,
    StatusView,
    Subject,
)
from orchestrator.core.texts import status_page as texts
from orchestrator.core.texts import utc_time
from orchestrator.model import TurnOutcome

REFRESH_S = 5
# Rooms on one page; the busy ones go first.
_MAX_ROOMS = 100

STYLE = """
:root{color-scheme:light dark;--bg:#f6f7f9;--card:#fff;--fg:#1a1d21;--dim:#5b6470;--line:#dde1e6;
--go:#0b6bcb;--ok:#1a7f37;--bad:#c4321f;--warn:#8a5a00}
@media(prefers-color-scheme:dark){:root{--bg:#14171a;--card:#1d2125;--fg:#e6e9ec;--dim:#9aa4af;
--line:#31373d;--go:#6cb2ff;--ok:#5fd07a;--bad:#ff8a75;--warn:#e8b54a}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:46rem;padding:.75rem;background:var(--bg);color:var(--fg);
font:16px/1.45 system-ui,sans-serif;overflow-wrap:anywhere}
header{display:flex;flex-wrap:wrap;gap:.25rem .75rem;align-items:baseline}
h1{font-size:1.15rem;margin:0}h2{font-size:1rem;margin:1.25rem 0 .4rem}h3{font-size:1rem;margin:0}
.card{background:var(--card);border:1px solid var(--line);border-radius:.5rem;padding:.6rem .75rem;
margin:.5rem 0}
.card p{margin:.15rem 0}.dim{color:var(--dim);font-size:.875rem}
.ok{color:var(--ok)}.bad{color:var(--bad)}.warn{color:var(--warn)}
ul{list-style:none;margin:0;padding:0}li+li{border-top:1px solid var(--line)}li{padding:.35rem 0}
.row{display:flex;gap:.75rem;justify-content:space-between}.row>:last-child{text-align:right;
flex-shrink:0;font-variant-numeric:tabular-nums}
a{color:var(--go)}pre{white-space:pre-wrap;background:var(--bg);border:1px solid var(--line);
border-radius:.35rem;padding:.5rem;font-size:.875rem;margin:.5rem 0}
form{margin:.6rem 0}input[type=password]{width:100%;font:inherit;padding:.5rem;margin:.4rem 0;
border:1px solid var(--line);border-radius:.35rem;background:var(--bg);color:var(--fg)}
button{font:inherit;padding:.55rem .9rem;border:1px solid var(--line);border-radius:.35rem;
background:var(--bg);color:var(--fg)}button.go{border-color:var(--go);color:var(--go)}
button.stop{border-color:var(--bad);color:var(--bad)}
.inline{display:inline;margin:0}.inline button{border:0;padding:0;background:none;color:var(--go);
text-decoration:underline}
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
"""The Content-Security-Policy that the page is made for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """Who looks. `csrf` and `once` go into each form; None: there is nothing to log out of."""

    may_act: bool = False
    csrf: str | None = None
    once: str = ""


NOBODY = Visit()


def render_overview(view: StatusView, visit: Visit = NOBODY, *, said: str | None = None) -> str:
    """Everything, without a button; it looks again after REFRESH_S."""
    health = "".join(f'<p class="bad">{_said(one)}</p>' for one in view.problems)
    sections = [
        _section("questions", [_question(q) for q in view.questions], texts.NO_QUESTIONS),
        _rooms(view),
        _section("ends", _list(_end(end) for end in view.ends), texts.NO_ENDS),
        _costs(view),
        _section("exits", _list(_exit(one) for one in view.exits), texts.NO_EXITS),
    ]
    body = "".join(
        [
            _header(view, visit),
            f'<p class="card">{_said(said)}</p>' if said else "",
            health or f'<p class="ok">{texts.WELL}</p>',
            *sections,
        ]
    )
    return _document(body, refresh=True)


def render_room(view: StatusView, room: SeenRoom, visit: Visit) -> str:
    """One room, with what may be done to it."""
    parts = [_header(view, visit), _card(_room_lines(room, view, is_link=False))]
    for turn in room.turns:
        lines = _turn_lines(turn)
        lines += [_button(visit, room, PageVerb.CANCEL, turn.turn_id)] if visit.may_act else []
        parts.append(_card(lines))
    if visit.may_act:
        parts.append(_button(visit, room, PageVerb.RESTART, ""))
    return _document("".join([*parts, _foot(visit)]))


def render_question(view: StatusView, subject: Subject, visit: Visit) -> str:
    """One question, all of it, and behind that what may be decided."""
    question = subject.question
    parts = [_header(view, visit), _card(_question_lines(question, is_link=False))]
    parts.append(f"<p>{texts.NOT_SHOWN}</p>" if subject.whole is None else _whole(subject.whole))
    if question.kind is ApprovalKind.QUESTION:
        parts.append(f"<p>{texts.ANSWER_IN_ROOM}</p>")
    parts += [
        _decision(visit, subject, verb)
        for verb in (DECISIONS[question.kind] if visit.may_act else ())
        if verb is PageVerb.REFUSE or subject.whole is not None
    ]
    return _document("".join([*parts, _foot(visit)]))


def render_login(said: str | None = None) -> str:
    """Asks for a token."""
    why = f'<p class="bad">{_said(said)}</p>' if said else ""
    return _document(
        f"<h1>{texts.TITLE}</h1>{why}"
        '<form class="card" method="post" action="/login">'
        f'<label for="token">{texts.LOGIN}</label>'
        '<input type="password" id="token" name="token" autocomplete="current-password" required>'
        f'<button class="go">{texts.SHOW}</button><p class="dim">{texts.LOGIN_WHAT}</p></form>'
    )


def render_words(text: str) -> str:
    """A page that says one thing."""
    back = f'<p><a href="/">{texts.BACK}</a></p>'
    return _document(f"<h1>{texts.TITLE}</h1><p>{_said(text)}</p>{back}")


# The parts...


def _document(body: str, *, refresh: bool = False) -> str:
    again = f'<meta http-equiv="refresh" content="{REFRESH_S};url=/">' if refresh else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta name="robots" content="noindex">{again}<title>{texts.TITLE}</title>'
        f"<style>{STYLE}</style></head><body>{body}</body></html>\n"
    )


def _header(view: StatusView, visit: Visit) -> str:
    up = texts.up(max(0.0, view.at - view.started_at))
    out = ""
    if visit.csrf is not None:
        out = (
            '<form class="inline" method="post" action="/logout">'
            f"{_hidden('csrf', visit.csrf)}<button>{texts.LOG_OUT}</button></form>"
        )
    return (
        f'<header><h1><a href="/">{texts.TITLE}</a></h1>'
        f'<span class="dim">{_said(view.user_id)} · {_said(view.version)} · {up} · '
        f"{utc_time(view.at)} · {texts.to_be_sent(view.waiting_to_be_sent)}</span>{out}</header>"
    )


def _foot(visit: Visit) -> str:
    return "" if visit.may_act else f'<p class="dim">{texts.READ_ONLY}</p>'


def _section(name: str, parts: Iterable[str], nothing: str) -> str:
    inner = "".join(parts) or f'<p class="dim">{nothing}</p>'
    return f'<section id="{name}"><h2>{texts.HEADS[name]}</h2>{inner}</section>'


def _card(lines: Iterable[str]) -> str:
    return f'<div class="card">{"".join(lines)}</div>'


def _list(items: Iterable[str]) -> list[str]:
    inner = "".join(f"<li>{item}</li>" for item in items)
    return [f'<ul class="card">{inner}</ul>'] if inner else []


def _rooms(view: StatusView) -> str:
    ordered = sorted(view.rooms, key=lambda one: (not one.turns, one.runner is None, one.name))
    cards = [_card(_room_lines(room, view)) for room in ordered[:_MAX_ROOMS]]
    if len(ordered) > _MAX_ROOMS:
        cards.append(f'<p class="dim">{texts.more(len(ordered) - _MAX_ROOMS)}</p>')
    counts = ", ".join(f"{n} {_said(state)}" for state, n in sorted(view.runners_by_state.items()))
    above = f'<p class="dim">{texts.rooms(len(view.rooms), counts)}</p>'
    if not view.has_engine:
        above = f'<p class="bad">{texts.NO_ENGINE}</p>'
    return _section("rooms", [above, *cards] if cards else [], texts.NO_ROOMS)


def _room_lines(room: SeenRoom, view: StatusView, *, is_link: bool = True) -> list[str]:
    name = _said(texts.name(room.name))
    title = f'<a href="/room/{html.escape(room.slug)}">{name}</a>' if is_link else name
    people = f" · {texts.members(room.members)}" if room.members is not None else ""
    sealed = f" · {texts.ENCRYPTED}" if room.encrypted else ""
    lines = [
        f"<h3>{title}</h3>",
        f'<p class="dim">{_said(texts.name(room.slug))}{people}{sealed}</p>',
    ]
    if room.runner is not None:
        lines.append(f"<p>{_said(texts.runner(room.runner))}; {texts.session(room.runner)}</p>")
    elif view.has_engine:
        lines.append(f'<p class="dim">{texts.NO_RUNNER}</p>')
    if is_link:
        lines += [line for turn in room.turns[:3] for line in _turn_lines(turn)]
        left = f'<p class="dim">{texts.more(len(room.turns) - 3)}</p>'
        lines += [left] if room.turns[3:] else []
    return lines


def _turn_lines(turn: SeenTurn) -> list[str]:
    asked = f'<span class="dim">{texts.asked_by(_said(texts.name(turn.sender)))}</span>'
    lines = [f'<p class="warn">{texts.TURN}: {_said(texts.turn(turn))} {asked}</p>']
    return lines + [f"<p>{_said(texts.line(tool))}</p>" for tool in turn.tools]


def _question(question: SeenQuestion) -> str:
    return _card(_question_lines(question))


def _question_lines(question: SeenQuestion, *, is_link: bool = True) -> list[str]:
    what = _said(texts.line(question.what))
    link = f'<a href="/question/{html.escape(question.approval_id)}">{what}</a>'
    who = texts.deciders(question.deciders, utc_time(question.expires_at))
    return [
        f"<h3>{texts.KINDS[question.kind]}: {link if is_link else what}</h3>",
        f'<p class="dim">{texts.asked_in(_said(texts.name(question.room)), _said(who))}</p>',
    ]


def _end(end: SeenEnd) -> str:
    shade = "ok" if end.outcome is TurnOutcome.DONE else "warn"
    return (
        f'<div class="row"><span>{_said(texts.name(end.room))}'
        f'<br><span class="dim">{_said(texts.name(end.sender))}, {utc_time(end.ended_at)}</span>'
        f'</span><span><span class="{shade}">{_said(texts.outcome(end.outcome))}</span><br>'
        f'<span class="dim">{texts.took(end.took_s)}</span></span></div>'
    )


def _exit(seen: SeenExit) -> str:
    shade, word = ("ok", texts.LET_THROUGH) if seen.is_allowed else ("bad", texts.REFUSED)
    return (
        f'<div class="row"><span>{_said(texts.line(seen.target))}<br><span class="dim">'
        f"{_said(texts.name(seen.room))}, {_said(texts.moment(seen.at))}</span></span>"
        f'<span><span class="{shade}">{word}</span><br>'
        f'<span class="dim">{_said(texts.name(seen.note))}</span></span></div>'
    )


def _costs(view: StatusView) -> str:
    rooms = [room for room in view.rooms if room.month_micro_usd]
    rooms.sort(key=lambda room: (-room.today_micro_usd, -room.month_micro_usd, room.name))
    today = sum(room.today_micro_usd for room in view.rooms)
    month = sum(room.month_micro_usd for room in view.rooms)
    items = [_cost(texts.ALL_ROOMS, today, month, None)]
    items += [
        _cost(_said(texts.name(r.name)), r.today_micro_usd, r.month_micro_usd, r.usd_per_day)
        for r in rooms[:_MAX_ROOMS]
    ]
    return _section("costs", _list(items), "")


def _cost(name: str, today: int, month: int, limit: float | None) -> str:
    return (
        f'<div class="row"><span>{name}</span><span>{texts.today(today, limit)}<br>'
        f'<span class="dim">{texts.month(month)}</span></span></div>'
    )


# What may be done...


def _button(visit: Visit, room: SeenRoom, verb: PageVerb, subject: str) -> str:
    fields = {"room": room.slug, "verb": verb, "subject": subject}
    return _form(visit, fields, "stop", texts.BUTTONS[verb])


def _decision(visit: Visit, subject: Subject, verb: PageVerb) -> str:
    question = subject.question
    fields = {"verb": verb, "subject": question.approval_id}
    label, shade = texts.BUTTONS[verb], "stop"
    if verb is PageVerb.ALLOW:
        fields["seen"] = subject.digest
        label = texts.ALLOW_HOUR if question.kind is ApprovalKind.EGRESS else label
        shade = "go"
    return _form(visit, fields, shade, label)


def _form(visit: Visit, fields: dict[str, str], shade: str, label: str) -> str:
    # Each form's own: two buttons of one page are two wishes.
    once = f"{visit.once}-{fields['verb']}-{fields['subject']}"
    fields = {"csrf": visit.csrf or "", "once": once, **fields}
    hidden = "".join(_hidden(name, value) for name, value in fields.items())
    return (
        f'<form method="post" action="/act">{hidden}'
        f'<button class="{shade}">{html.escape(label)}</button></form>'
    )


def _hidden(name: str, value: str) -> str:
    return f'<input type="hidden" name="{name}" value="{html.escape(value)}">'


def _said(text: str) -> str:
    """Text of anybody's: as it reads, and nothing else."""
    return f"<bdi>{html.escape(sanitise(text))}</bdi>"


def _whole(text: str) -> str:
    """All of a text, line by line, in the order in which it runs."""
    return f'<pre dir="ltr">{html.escape(sanitise(text))}</pre>'
