"""The command that serves the engine's socket."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.command_line import exit_codes, require_state_dir, say
from orchestrator.log import configure_logging
from orchestrator.runners.engine import open_engine
from orchestrator.runners.engine_check import examine_engine
from orchestrator.signals import watch_signals
from orchestrator.socket_proxy.container import Bounds
from orchestrator.socket_proxy.server import Plan, open_socket_proxy


def socket_proxy(
    socket: Annotated[
        Path, typer.Option(help="Where to listen. The directory is the proxy's own.")
    ],
    state_dir: Annotated[
        Path,
        typer.Option(
            envvar="AIAGENTCHAT_STATE_DIR",
            help="The orchestrator's, under the same path as there and for the engine.",
        ),
    ],
    engine: Annotated[
        str | None, typer.Option(help="The engine's address. Default: DOCKER_HOST, as for docker.")
    ] = None,
    runtime: Annotated[
        list[str] | None,
        typer.Option(
            envvar="AIAGENTCHAT_PROXY_RUNTIMES",
            help="An OCI runtime that may be used: docker.runtime.",
        ),
    ] = None,
    image: Annotated[
        list[str] | None,
        typer.Option(
            envvar="AIAGENTCHAT_PROXY_IMAGES",
            help="A runner image that may be used: docker.image.",
        ),
    ] = None,
) -> None:
    """Give an orchestrator the engine without giving it the host; until Ctrl-C or SIGTERM.

    It makes containers only as this version makes runners, and shows none but the installation's.
    """
    with exit_codes():
        configure_logging(fmt="json", level="INFO", secrets=())
        plan = Plan(
            socket=socket.absolute(),
            bounds=Bounds(
                state_dir=require_state_dir(state_dir), runtimes=frozenset(runtime or ())
            ),
            images=frozenset(image or ()),
        )
        asyncio.run(_serve(plan, engine))
        say("Stopped.")


async def _serve(plan: Plan, address: str | None) -> None:
    stop = watch_signals()
    async with open_engine(address) as engine:
        facts = (await examine_engine(engine, runtime=None)).facts
        bounds = replace(plan.bounds, maps_ids=facts.maps_ids)
        async with open_socket_proxy(replace(plan, bounds=bounds), engine):
            await stop.get()
