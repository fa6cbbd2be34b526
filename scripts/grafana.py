"""A dashboard of Grafana as it reads one from a file: panels one after the other in its grid."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

WIDTH: Final = 24
"""Columns of its grid."""
PROMETHEUS: Final = {"type": "prometheus", "uid": "prometheus"}
LOKI: Final = {"type": "loki", "uid": "loki"}

_STAT_HEIGHT, _GRAPH_HEIGHT, _LOGS_HEIGHT = 4, 8, 12
# Later ones read it, too.
_SCHEMA = 39


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One panel; `asks` are expressions with their legends."""

    title: str
    asks: Sequence[tuple[str, str]]
    kind: Literal["stat", "timeseries", "logs"] = "timeseries"
    unit: str = "short"
    width: int = 12
    description: str = ""
    is_stacked: bool = False
    is_logged: bool = False
    """Whether Loki is asked, and not Prometheus."""
    words: Sequence[tuple[str, str, str]] = ()
    """What stands for a value: (value, text, colour)."""
    steps: Sequence[tuple[float | None, str]] = ()
    """From which value on which colour; the first has none."""

    @property
    def height(self) -> int:
        """Rows of the grid."""
        return {"stat": _STAT_HEIGHT, "logs": _LOGS_HEIGHT}.get(self.kind, _GRAPH_HEIGHT)

    def build(self, number: int, x: int, y: int) -> dict[str, Any]:
        """As Grafana reads it."""
        source = LOKI if self.is_logged else PROMETHEUS
        targets = [
            {"refId": letter, "datasource": source, "expr": text, "legendFormat": legend}
            for letter, (text, legend) in zip(string.ascii_uppercase, self.asks, strict=False)
        ]
        built: dict[str, Any] = {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "datasource": source,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": self.height},
            "targets": targets,
            "fieldConfig": {"defaults": self._defaults(), "overrides": []},
        }
        if self.kind == "logs":
            built["options"] = {
                "showTime": True,
                "wrapLogMessage": True,
                "enableLogDetails": True,
                "sortOrder": "Descending",
            }
        return built

    def _defaults(self) -> dict[str, Any]:
        defaults: dict[str, Any] = {"unit": self.unit}
        if self.is_stacked:
            defaults["custom"] = {"stacking": {"mode": "normal"}, "fillOpacity": 20}
        if self.words:
            options = {value: {"text": text, "color": colour} for value, text, colour in self.words}
            defaults["mappings"] = [{"type": "value", "options": options}]
        if self.steps:
            steps = [{"color": colour, "value": value} for value, colour in self.steps]
            defaults["thresholds"] = {"mode": "absolute", "steps": steps}
            defaults["color"] = {"mode": "thresholds"}
        return defaults


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """One dashboard; its panels stand in the order in which they are read."""

    name: str
    title: str
    panels: Sequence[Panel]
    description: str = ""
    variables: Sequence[dict[str, Any]] = field(default=())

    def build(self) -> dict[str, Any]:
        """As Grafana reads it."""
        x = y = height = 0
        panels = []
        for number, panel in enumerate(self.panels, start=1):
            if x + panel.width > WIDTH:
                x, y, height = 0, y + height, 0
            panels.append(panel.build(number, x, y))
            x, height = x + panel.width, max(height, panel.height)
        link = {"type": "dashboards", "title": "aiagentchat", "tags": ["aiagentchat"]}
        return {
            "uid": self.name,
            "title": self.title,
            "description": self.description,
            "tags": ["aiagentchat"],
            "timezone": "browser",
            "schemaVersion": _SCHEMA,
            "version": 1,
            "editable": False,
            "refresh": "30s",
            "time": {"from": "now-6h", "to": "now"},
            "links": [{**link, "asDropdown": True, "includeVars": False, "keepTime": True}],
            "templating": {"list": list(self.variables)},
            "annotations": {"list": []},
            "panels": panels,
        }
