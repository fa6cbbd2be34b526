from __future__ import annotations

from collections.abc import Iterator

import pytest
from loguru import logger


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """A crash at every step logs a lot; what is logged has tests of its own."""
    logger.disable("orchestrator")
    yield
    logger.enable("orchestrator")
