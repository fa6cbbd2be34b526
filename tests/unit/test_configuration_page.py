"""The page of the configuration says what the models say, and something of every key."""

from __future__ import annotations

import pytest

from orchestrator.config import Config
from scripts.configuration_page import PAGE, Key, build_page, keys


def test_the_page_is_what_the_models_make() -> None:
    assert PAGE.read_text() == build_page(), "run: python -m scripts.configuration_page"


@pytest.mark.parametrize("key", keys(), ids=lambda key: ".".join(key.path))
def test_each_key_is_described(key: Key) -> None:
    assert key.text, "a comment in docs/config.example.yaml, or a docstring below the field"
    assert key.takes
    assert key.mark


def test_no_section_is_left_out() -> None:
    named = {key.path[0] for key in keys()}
    assert named == set(Config.model_fields)
    assert len(keys()) > 80
