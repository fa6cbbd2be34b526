"""Which function does which errand."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from orchestrator.rooms.clone import clone
from orchestrator.rooms.compact import compact
from orchestrator.rooms.diff import diff
from orchestrator.rooms.errand import Work
from orchestrator.rooms.export import export
from orchestrator.rooms.fetch import get_file, list_files
from orchestrator.rooms.undo import undo
from orchestrator.store.errand_table import ErrandKind

WORKS: Mapping[ErrandKind, Work] = MappingProxyType(
    {
        ErrandKind.DIFF: diff,
        ErrandKind.UNDO: undo,
        ErrandKind.EXPORT: export,
        ErrandKind.CLONE: clone,
        ErrandKind.LS: list_files,
        ErrandKind.GET: get_file,
        ErrandKind.COMPACT: compact,
    }
)
