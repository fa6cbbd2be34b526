"""`orchestrator audit messages`: the database and the homeserver, joined; what is amiss."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.audit.history import HistoryReader, open_history_http
from orchestrator.config import Config, Secrets
from orchestrator.core.accounting import account, unseen_sent
from orchestrator.core.evidence import Evidence
from orchestrator.core.reason import HISTORY
from orchestrator.core.verdict import Patience, Report, render_report
from orchestrator.errors import LoginRefusedError
from orchestrator.log import register_secret
from orchestrator.matrix.session import SESSION_NAME, KeptSession, load_session
from orchestrator.model import EventId
from orchestrator.store.opening import DATABASE_NAME
from orchestrator.store.snapshot import read_snapshot

# Asked for one by one. That many sent events are missing only where a homeserver lost its memory;
# what is beyond it is taken to be there, and the first ones say enough.
_MAX_LOOKUPS = 1000
# What a turn may take past its ceiling: the ladder that stops it (15 s), and a slow engine.
_STOPPING_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditPlan:
    """What the command was asked for. `is_embedded`: the homeserver is the state directory's."""

    config: Config
    secrets: Secrets
    state_dir: Path
    is_embedded: bool


async def audit_messages(plan: AuditPlan, *, clock: Callable[[], float] = time.time) -> Report:
    """Read both and join them. Writes nothing, logs nothing in, disturbs nothing that runs.

    Raises:
        StoreError: and its children: the database can't be read.
        LoginRefusedError: there is no session to read with, or it has ended.
        HomeserverUnreachableError, RateLimitedError: the homeserver can't be asked now.
    """
    session, token = _session(plan)
    # In this order: what the database says was sent must be there afterwards.
    snapshot = await asyncio.to_thread(read_snapshot, plan.state_dir / DATABASE_NAME)
    evidence = snapshot.evidence
    history = {entry.event_id for entry in evidence.inbox if entry.reason == HISTORY}
    async with open_history_http(session.homeserver, session.user_id, token) as http:
        reader = HistoryReader(
            http,
            session.user_id,
            sync_token=snapshot.sync_token,
            is_history=history.__contains__,
        )
        found = await reader.read()
        senders = found.senders | {e.sender for e in evidence.inbox if e.sender is not None}
        evidence = replace(
            evidence,
            rooms=found.rooms,
            events=found.events,
            strangers=frozenset(s for s in senders if not plan.config.access.is_allowed(s)),
        )
        evidence = replace(evidence, confirmed=await _confirm(reader, evidence))
    return account(evidence, now=clock(), patience=_patience(plan.config))


def render_json(report: Report) -> str:
    """The report for programs: counts by state, findings, remarks."""
    counts = {state.name.lower(): count for state, count in report.counts.items()}
    return json.dumps(
        {
            "messages": len(report.states),
            **counts,
            "doubled": report.doubled,
            "outcomes": dict(report.outcomes),
            "findings": [
                {
                    "problem": finding.problem.name.lower(),
                    "room_id": finding.room_id,
                    "event_id": finding.event_id,
                    "detail": finding.detail,
                }
                for finding in report.findings
            ],
            "remarks": [
                {
                    "remark": note.remark.name.lower(),
                    "room_id": note.room_id,
                    "event_id": note.event_id,
                    "detail": note.detail,
                }
                for note in report.notes
            ],
        },
        indent=1,
    )


def render_text(report: Report) -> str:
    """The report for people."""
    return "\n".join(render_report(report))


def _session(plan: AuditPlan) -> tuple[KeptSession, str]:
    """Whom to read as, and the token; it goes to the homeserver that gave it and nowhere else."""
    path = plan.state_dir / SESSION_NAME
    kept = load_session(plan.state_dir)
    if kept is None:
        msg = f"There is no session at {path}: start the orchestrator once, then audit."
        raise LoginRefusedError(msg)
    wanted = plan.config.matrix
    if not plan.is_embedded and (kept.user_id, kept.homeserver) != (
        wanted.user_id,
        wanted.homeserver.rstrip("/"),
    ):
        msg = (
            f"The session at {path} is {kept.user_id}'s on {kept.homeserver}, the configuration "
            f"names {wanted.user_id} on {wanted.homeserver}: start the orchestrator once."
        )
        raise LoginRefusedError(msg)
    token = plan.secrets.matrix_access_token or kept.access_token
    if token is None:
        msg = f"The session at {path} has no token: set MATRIX_ACCESS_TOKEN, as for `up`."
        raise LoginRefusedError(msg)
    register_secret(token.get_secret_value())
    return kept, token.get_secret_value()


async def _confirm(reader: HistoryReader, evidence: Evidence) -> frozenset[EventId]:
    """Of the sent events that were not met on the way, those that are there nevertheless."""
    confirmed: set[EventId] = set()
    for count, row in enumerate(list(unseen_sent(evidence))):
        if row.event_id is None:
            continue
        if count >= _MAX_LOOKUPS or await reader.has_event(row.room_id, row.event_id):
            confirmed.add(row.event_id)
    return frozenset(confirmed)


def _patience(config: Config) -> Patience:
    profiles = [config.defaults, *config.rooms.values()]
    return Patience(turn_s=max(profile.ceiling_s for profile in profiles) + _STOPPING_S)
