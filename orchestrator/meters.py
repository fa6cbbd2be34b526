"""What is counted as it happens: counters and histograms of this process, for Prometheus.

Module-level, as the library has it. Labels have few values, all of them ours; none names a room.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REGISTRY = CollectorRegistry()

# From a typing person's moment to a long turn's hour.
_STAGE_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600)
_START_S = (0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60)

STAGE = Histogram(
    "aiagentchat_stage_seconds",
    "How long each stage of a message took: received (sent to stored), queued (stored to offered), "
    "first_output (offered to the first sign of the CLI), turn (offered to its end), accepted (an "
    "answer stored to taken by the homeserver)",
    ["stage"],
    buckets=_STAGE_S,
    registry=REGISTRY,
)
RECEIVED = STAGE.labels("received")
QUEUED = STAGE.labels("queued")
FIRST_OUTPUT = STAGE.labels("first_output")
TURN = STAGE.labels("turn")
ACCEPTED = STAGE.labels("accepted")

RUNNER_START = Histogram(
    "aiagentchat_runner_start_seconds",
    "How long it took to start a runner and attach to it, without what it waited for other starts",
    buckets=_START_S,
    registry=REGISTRY,
)
START_WAITS = Counter(
    "aiagentchat_runner_start_waits",
    "Starts of runners that had to wait, because as many started as may at once",
    registry=REGISTRY,
)
SPARES = Gauge(
    "aiagentchat_spare_runners",
    "Runners made ahead that a new room can have now (docker.prewarm)",
    registry=REGISTRY,
)
RUNNER_RESTS = Counter(
    "aiagentchat_runner_rests",
    "Idle runners put to rest: their CLI stopped (stop_cli), their container (hibernate); why: "
    "idle for so long (idle), for another room's place (place), for the host's memory (memory)",
    ["rest", "why"],
    registry=REGISTRY,
)
MEMORY_PRESSURE = Gauge(
    "aiagentchat_memory_pressure",
    "1 while the host has too little memory and idle rooms rest early",
    registry=REGISTRY,
)
MEMORY_STALLED = Gauge(
    "aiagentchat_memory_stalled_percent",
    "Share of the last 10 s in which something waited for memory (PSI); NaN: not known here",
    registry=REGISTRY,
)
MEMORY_AVAILABLE = Gauge(
    "aiagentchat_memory_available_percent",
    "Share of the host's memory that is available; NaN: not known here",
    registry=REGISTRY,
)
OUT_OF_MEMORY = Counter(
    "aiagentchat_out_of_memory", "Out-of-memory kills in runners", registry=REGISTRY
)
UNDECRYPTED = Counter(
    "aiagentchat_undecrypted_messages",
    "Messages that were given up because no key came for them",
    registry=REGISTRY,
)
EGRESS = Counter(
    "aiagentchat_egress_connections",
    "Proxied connections of rooms by verdict: allowed, denied",
    ["verdict"],
    registry=REGISTRY,
)
EGRESS_BYTES = Counter(
    "aiagentchat_egress_bytes",
    "Bytes of proxied connections that have ended, by direction: up, down",
    ["direction"],
    registry=REGISTRY,
)
API_REQUESTS = Counter(
    "aiagentchat_api_requests",
    "Requests to the Messages API, by the class of the answer's status; none: no answer",
    ["status"],
    registry=REGISTRY,
)
API_TOKENS = Counter(
    "aiagentchat_api_tokens",
    "Tokens, as the API counted them, by kind",
    ["kind"],
    registry=REGISTRY,
)
API_USD = Counter(
    "aiagentchat_api_usd", "What requests to the API cost, by list prices", registry=REGISTRY
)
ERRORS = Counter(
    "aiagentchat_errors",
    "Lines of the log of level ERROR and above, by their action",
    ["action"],
    registry=REGISTRY,
)
