"""The manual pages say what the commands say, and the wheel brings them."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

from scripts.man_page import FOLDER, build_page

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("orchestrator", "cchat")


@pytest.mark.parametrize("name", NAMES)
def test_the_page_is_what_the_command_makes(name: str) -> None:
    page = (FOLDER / f"{name}.1").read_text()
    assert page == build_page(name), "run: python -m scripts.man_page"
    assert page.isascii(), "no reader of pages has to know an encoding"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("orchestrator", ("orchestrator audit log verify", "\\-\\-embedded", "MATRIX_PASSWORD")),
        ("cchat", ("cchat send", "\\-n, \\-\\-lines", ".B 124\n", "CCHAT_ACCESS_TOKEN")),
    ],
)
def test_commands_options_exit_codes_and_variables_are_on_it(
    name: str, said: tuple[str, ...]
) -> None:
    page = build_page(name)
    for words in said:
        assert words in page


def test_the_wheel_brings_both(tmp_path: Path) -> None:
    (built,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(built) as wheel:
        pages = {name for name in wheel.namelist() if "/share/man/" in name}
        assert {page.rpartition(".data/data/")[2] for page in pages} == {
            f"share/man/man1/{name}.1" for name in NAMES
        }
