"""Debian's Prometheus with our files, and a metrics server of ours that runs."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator.metrics.figures import Figures
from orchestrator.metrics.server import open_metrics
from tests.support.compose import COMPOSE, alert_rules, figures, tool
from tests.support.port import free_port


@contextmanager
def prometheus(folder: Path, port: int) -> Iterator[str]:
    """Debian's Prometheus with our file."""
    command = [
        tool("prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=30)


def query(base: str, path: str) -> Any:
    with urllib.request.urlopen(f"{base}/api/v1/{path}", timeout=5) as answer:
        return json.load(answer)["data"]


async def test_a_real_prometheus_reads_the_figures_and_loads_the_alerts(tmp_path: Path) -> None:
    tool("prometheus")
    for name in ("prometheus.yml", "alerts.yml"):
        shutil.copy(COMPOSE / name, tmp_path)
    text = (tmp_path / "prometheus.yml").read_text().replace("interval: 15s", "interval: 1s")
    (tmp_path / "prometheus.yml").write_text(text.replace("timeout: 10s", "timeout: 1s"))
    (tmp_path / "targets").mkdir()
    port = free_port()
    target = json.dumps([{"targets": [f"127.0.0.1:{port}"]}])
    (tmp_path / "targets" / "orchestrator.yml").write_text(target)

    async def read() -> Figures:
        return figures()

    async def look(*, is_strict: bool) -> tuple[str, ...]:
        return ()

    async with open_metrics(f"127.0.0.1:{port}", read, look=look, required=True):
        with prometheus(tmp_path, free_port()) as base:
            name = "aiagentchat_outbox_oldest_seconds"
            found = await _wait_for(base, f"query?query={name}")
            assert found[0]["value"][1] == "12.5"
            assert found[0]["metric"]["job"] == "aiagentchat"
            up = await asyncio.to_thread(query, base, "query?query=up")
            assert [one["value"][1] for one in up["result"]] == ["1"]
            loaded = await asyncio.to_thread(query, base, "rules")
            names = {rule["name"] for group in loaded["groups"] for rule in group["rules"]}
            assert names == {rule["alert"] for rule in alert_rules()}


async def _wait_for(base: str, path: str) -> Any:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            found = (await asyncio.to_thread(query, base, path))["result"]
        except (OSError, ValueError):
            found = []
        if found:
            return found
        await asyncio.sleep(0.2)
    raise TimeoutError(path)
