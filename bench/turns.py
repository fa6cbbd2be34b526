"""Cold start, warm turn, idle memory and restart, each beside what it is compared with.

    .venv/bin/python -m bench.turns

Real parts: `orchestrator up --embedded` with its Synapse, the Docker Engine, the real CLI. Only the
Messages API is a stand-in, which answers at once, in this process; the CLI alone asks the same one.
So the figures are the product's own share: a real model adds the same time to both sides. What is
compared alternates, so that both see the same machine. The table goes to stdout, progress to
stderr. Needs root, as the orchestrator does. Takes about two minutes; longer if the image must be
built first.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from bench.support.cli_alone import open_cli_on_host
from bench.support.daemon_figures import measure_memory, measure_restarts
from bench.support.entrance import run_with_cli
from bench.support.figures import render_table
from bench.support.installation import open_bench
from bench.support.machine import describe_machine, load
from bench.support.turn_times import measure_cold_starts, measure_warm_turns

COLD_ROOMS = 5
WARM_TURNS = 20
RESTARTS = 3
# For all of it, so that a hang ends, too; a run takes less than half of this.
LIMIT_S = 280.0

NOTES = """\
Cold start: the lower bound is the plain container. It is made of the same image, on the host's
network, with no option of ours, and its CLI has one turn. Whoever makes a room's container when its
message comes can't do with less. `claude --version` loads nothing of a turn: it is for scale.
The quiet window is a wait by design: a burst of messages becomes one turn. gateway.quiet_s sets it.
Lines with a dot say where the time went. They are medians, each on its own: no exact sum.
cgroup: what the engine counts for the container, without inactive file pages. RSS counts pages that
processes share in full (the CLI's program is one file for all rooms), PSS divides them, its own
pages are no file's. So cgroup beside RSS is a hint; like beside like is a comparison.
In step: connected to the homeserver and synchronised, by the control socket, seen within 0.05 s.
Re-attached: the orchestrator's log says that it follows the turn again, on the runner that it had.
The embedded Synapse outlives the kill. Without an answer to every turn there would be no table."""


def main() -> None:
    """Run everything and print the table."""
    run_with_cli(run, limit_s=LIMIT_S)


async def run(image: str, claude: Path) -> None:
    """Measure, then print; whatever happens, nothing that was started stays."""
    load_before = load()
    async with asyncio.timeout(LIMIT_S), open_bench(image, claude) as bench:
        cold, rooms = await measure_cold_starts(bench, COLD_ROOMS)
        warm_room = await bench.person.new_room("warm")
        async with open_cli_on_host(bench.parts) as cli:
            warm = await measure_warm_turns(bench, warm_room, cli, WARM_TURNS)
            memory = await measure_memory(bench, warm_room, cli, COLD_ROOMS + 1)
        restarts = await measure_restarts(bench, rooms[0], RESTARTS)
        head = describe_machine(bench.client, load_before)
    print("\n".join([head, "", *render_table([cold, warm, memory, restarts]), "", NOTES]))


if __name__ == "__main__":
    main()
