"""Write the dashboards of compose/grafana/dashboards/ from what each panel asks for.

python -m scripts.dashboards
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from scripts.grafana import PROMETHEUS, WIDTH, Board, Panel

FOLDER = Path(__file__).resolve().parent.parent / "compose" / "grafana" / "dashboards"

_LINES = '{service=~".*orchestrator.*"}'


def _within(metric: str, span: str, by: str = "le") -> str:
    return f"histogram_quantile(0.95, sum by ({by}) (rate({metric}_bucket[{span}])))"


_YES = (("1", "yes", "green"), ("0", "no", "red"))

_OVERVIEW = Board(
    name="aiagentchat",
    title="aiagentchat",
    panels=(
        Panel(
            title="Orchestrator",
            kind="stat",
            width=4,
            asks=[('up{job="aiagentchat"}', "")],
            words=(("1", "up", "green"), ("0", "down", "red")),
        ),
        Panel(
            title="Homeserver answers",
            kind="stat",
            width=4,
            asks=[("aiagentchat_sync_connected", "")],
            words=_YES,
        ),
        Panel(
            title="Engine answers",
            kind="stat",
            width=4,
            asks=[("aiagentchat_engine_up", "")],
            words=_YES,
        ),
        Panel(
            title="Oldest unsent message",
            kind="stat",
            width=4,
            unit="s",
            asks=[("aiagentchat_outbox_oldest_seconds", "")],
            steps=((None, "green"), (60, "orange"), (300, "red")),
        ),
        Panel(
            title="Spent in 24 h",
            kind="stat",
            width=4,
            unit="currencyUSD",
            asks=[("increase(aiagentchat_api_usd_total[24h])", "")],
        ),
        Panel(
            title="Alerts",
            kind="stat",
            width=4,
            asks=[('count(ALERTS{alertstate="firing"}) or vector(0)', "")],
            steps=((None, "green"), (1, "red")),
        ),
        Panel(
            title="Stages of a message, 95 % within",
            unit="s",
            asks=[(_within("aiagentchat_stage_seconds", "10m", "le, stage"), "{{stage}}")],
            description="received: sent to stored. queued: stored to offered to the CLI. "
            "first_output, turn: from there on. accepted: an answer stored to taken by the "
            "homeserver.",
        ),
        Panel(
            title="Turns ended, by outcome",
            is_stacked=True,
            asks=[("sum by (outcome) (increase(aiagentchat_turns_total[10m]))", "{{outcome}}")],
        ),
        Panel(
            title="Turns now",
            asks=[
                ("aiagentchat_turns_running", "running"),
                ("aiagentchat_turns_queued", "queued"),
                ("aiagentchat_approvals_waiting", "questions to people"),
            ],
        ),
        Panel(
            title="Rooms and runners",
            asks=[
                ("aiagentchat_rooms", "rooms"),
                ("aiagentchat_runners", "{{state}}"),
                ("aiagentchat_spare_runners", "made ahead"),
            ],
        ),
        Panel(
            title="Starts of runners, and ends for memory, in 30 min",
            asks=[
                ("increase(aiagentchat_runner_start_seconds_count[30m])", "started"),
                ("increase(aiagentchat_out_of_memory_total[30m])", "out of memory"),
            ],
        ),
        Panel(
            title="Errors in the log, by action",
            is_stacked=True,
            asks=[("sum by (action) (increase(aiagentchat_errors_total[10m]))", "{{action}}")],
        ),
    ),
)

_ROOM = Board(
    name="aiagentchat-room",
    title="aiagentchat: one room",
    description="Its figures are there where observability.metrics_by_room is on.",
    variables=(
        {
            "name": "room",
            "label": "Room",
            "type": "query",
            "datasource": PROMETHEUS,
            "query": {
                "query": "label_values(aiagentchat_room_disk_bytes, room)",
                "refId": "room",
            },
            "refresh": 2,
            "sort": 1,
            "multi": False,
            "includeAll": False,
            "current": {},
            "options": [],
        },
    ),
    panels=(
        Panel(
            title="Memory",
            unit="bytes",
            asks=[('aiagentchat_room_memory_bytes{room="$room"}', "used")],
            description="Nothing while its container rests.",
        ),
        Panel(
            title="CPUs",
            asks=[('rate(aiagentchat_room_cpu_seconds{room="$room"}[5m])', "used")],
        ),
        Panel(
            title="Workspace and home",
            unit="bytes",
            asks=[
                ('aiagentchat_room_disk_bytes{room="$room"}', "held"),
                ('aiagentchat_room_disk_limit_bytes{room="$room"}', "limit"),
            ],
        ),
        Panel(title="Processes", asks=[('aiagentchat_room_processes{room="$room"}', "processes")]),
        Panel(
            title="What the log says of it",
            kind="logs",
            is_logged=True,
            width=WIDTH,
            asks=[(f'{_LINES} | json | room="$room"', "")],
        ),
    ),
)

_LIMITS = Board(
    name="aiagentchat-limits",
    title="aiagentchat: homeserver and limits",
    panels=(
        Panel(
            title="Refused for their rate (429), in 10 min",
            asks=[("increase(aiagentchat_send_limited_total[10m])", "429s")],
        ),
        Panel(
            title="Messages a second that the account may send",
            asks=[("aiagentchat_send_rate_learnt", "learnt")],
            description="As 429s have taught; nothing: no limit was met yet.",
        ),
        Panel(
            title="Messages that wait",
            asks=[
                ("aiagentchat_outbox_waiting", "to be sent"),
                ("aiagentchat_inbox_waiting", "to be read"),
            ],
        ),
        Panel(
            title="An answer is with the homeserver, 95 % within",
            unit="s",
            asks=[
                (
                    "histogram_quantile(0.95, sum by (le) "
                    '(rate(aiagentchat_stage_seconds_bucket{stage="accepted"}[10m])))',
                    "accepted",
                ),
                ("aiagentchat_outbox_oldest_seconds", "the oldest that waits"),
            ],
        ),
        Panel(
            title="The homeserver's sync",
            asks=[("aiagentchat_sync_connected", "answers")],
            description="1: it answers. 0: it does not.",
        ),
        Panel(
            title="Messages without a key, in an hour",
            asks=[("increase(aiagentchat_undecrypted_messages_total[1h])", "given up")],
        ),
        Panel(
            title="Who waits for a runner",
            asks=[
                ("aiagentchat_places_waiting", "for a place (max_runners)"),
                ("aiagentchat_starts_waiting", "for the starts of others (max_starts)"),
                ("increase(aiagentchat_runner_start_waits_total[10m])", "had to, in 10 min"),
            ],
        ),
        Panel(
            title="Start of a runner, 95 % within",
            unit="s",
            asks=[(_within("aiagentchat_runner_start_seconds", "30m"), "start")],
        ),
        Panel(
            title="Runners put to rest, in 10 min",
            is_stacked=True,
            asks=[
                (
                    "sum by (rest, why) (increase(aiagentchat_runner_rests_total[10m]))",
                    "{{rest}}, {{why}}",
                )
            ],
        ),
        Panel(
            title="Memory of the host",
            unit="percent",
            asks=[
                ("aiagentchat_memory_available_percent", "available"),
                ("aiagentchat_memory_stalled_percent", "time lost waiting for it"),
                ("aiagentchat_memory_pressure * 100", "idle rooms rest early"),
            ],
        ),
        Panel(
            title="Disk",
            unit="bytes",
            asks=[
                ("aiagentchat_disk_free_bytes", "free"),
                ("aiagentchat_database_bytes", "database"),
            ],
        ),
        Panel(
            title="Memory of the orchestrator",
            unit="bytes",
            asks=[('process_resident_memory_bytes{job="aiagentchat"}', "resident")],
        ),
        Panel(
            title="Egress: connections",
            unit="cps",
            asks=[
                ("sum by (verdict) (rate(aiagentchat_egress_connections_total[5m]))", "{{verdict}}")
            ],
        ),
        Panel(
            title="Egress: bytes",
            unit="Bps",
            asks=[
                ("sum by (direction) (rate(aiagentchat_egress_bytes_total[5m]))", "{{direction}}")
            ],
        ),
    ),
)

_COST = Board(
    name="aiagentchat-cost",
    title="aiagentchat: cost",
    description="By list prices, as the gateway counts them from what the API says that it used.",
    panels=(
        Panel(
            title="Last hour",
            kind="stat",
            width=6,
            unit="currencyUSD",
            asks=[("increase(aiagentchat_api_usd_total[1h])", "")],
        ),
        Panel(
            title="Last 24 h",
            kind="stat",
            width=6,
            unit="currencyUSD",
            asks=[("increase(aiagentchat_api_usd_total[24h])", "")],
        ),
        Panel(
            title="Last 7 days",
            kind="stat",
            width=6,
            unit="currencyUSD",
            asks=[("increase(aiagentchat_api_usd_total[7d])", "")],
        ),
        Panel(
            title="A turn, in the last 24 h",
            kind="stat",
            width=6,
            unit="currencyUSD",
            asks=[
                (
                    "increase(aiagentchat_api_usd_total[24h]) / "
                    "(sum without (outcome) (increase(aiagentchat_turns_total[24h])) > 0)",
                    "",
                )
            ],
        ),
        Panel(
            title="USD an hour",
            unit="currencyUSD",
            asks=[("rate(aiagentchat_api_usd_total[30m]) * 3600", "USD")],
        ),
        Panel(
            title="Tokens a second",
            is_stacked=True,
            asks=[("sum by (kind) (rate(aiagentchat_api_tokens_total[5m]))", "{{kind}}")],
        ),
        Panel(
            title="Of what is read, how much the cache had",
            unit="percentunit",
            asks=[
                (
                    'sum(rate(aiagentchat_api_tokens_total{kind="cache_read"}[30m])) / '
                    '(sum(rate(aiagentchat_api_tokens_total{kind!="output"}[30m])) > 0)',
                    "cached",
                )
            ],
        ),
        Panel(
            title="Requests to the API",
            unit="reqps",
            is_stacked=True,
            asks=[("sum by (status) (rate(aiagentchat_api_requests_total[5m]))", "{{status}}")],
        ),
    ),
)

_LOGS = Board(
    name="aiagentchat-logs",
    title="aiagentchat: logs",
    variables=(
        {
            "name": "level",
            "label": "Level",
            "type": "custom",
            "query": "WARNING,ERROR,CRITICAL,INFO,DEBUG",
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"text": ["All"], "value": ["$__all"]},
            "options": [],
        },
        {
            "name": "text",
            "label": "Contains",
            "type": "textbox",
            "query": "",
            "current": {"text": "", "value": ""},
            "options": [],
        },
    ),
    panels=(
        Panel(
            title="Lines by level",
            is_logged=True,
            width=WIDTH,
            is_stacked=True,
            asks=[(f"sum by (level) (count_over_time({_LINES}[$__interval]))", "{{level}}")],
        ),
        Panel(
            title="Orchestrator",
            kind="logs",
            is_logged=True,
            width=WIDTH,
            asks=[(f'{_LINES[:-1]}, level=~"$level"}} |= "$text"', "")],
        ),
        Panel(
            title="Everything else",
            kind="logs",
            is_logged=True,
            width=WIDTH,
            asks=[('{service!~".*orchestrator.*", service=~".+"} |= "$text"', "")],
        ),
    ),
)

_BOARDS = {
    "aiagentchat": _OVERVIEW,
    "room": _ROOM,
    "limits": _LIMITS,
    "cost": _COST,
    "logs": _LOGS,
}


def build_dashboards() -> dict[str, str]:
    """The files as they have to be, by name."""
    return {
        f"{name}.json": json.dumps(board.build(), indent=1) + "\n"
        for name, board in _BOARDS.items()
    }


if __name__ == "__main__":
    for name, text in build_dashboards().items():
        (FOLDER / name).write_text(text)
    sys.stdout.write(f"{FOLDER} is written\n")
