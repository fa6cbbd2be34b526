"""The program for a room's files: what it does with one that makes small pictures and may break."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest

from files import __main__ as program
from tests.support.shim import descendants

PROGRAMS = {
    "it says no": "raise SystemExit(1)",
    "it breaks": "import os; os.abort()",
    "it says nothing": "pass",
    "it fails after a picture": "print('picture', end='', flush=True); raise SystemExit(1)",
    "it says too much": "import sys; sys.stdout.write('x' * 5_000_000)",
    "it goes on for ever": "while True: print('x' * 1000)",
    "it hangs": "import time; time.sleep(3600)",
    "it hangs with its output closed": "import os, time; os.close(1); time.sleep(3600)",
}


def made_by(code: str, image: Path) -> bytes | None:
    argv = (sys.executable, "-I", "-S", "-c", code)
    with image.open("rb", buffering=0) as file:
        return program.make_thumbnail(file, 80, 60, 1000, argv=argv)


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(program, "_THUMBNAIL_S", 1.5)
    (tmp_path / "image").write_bytes(b"an image")
    return tmp_path / "image"


def test_it_gets_the_image_the_numbers_and_nothing_else(image: Path) -> None:
    code = (
        "import json, os, sys; "
        "print(json.dumps([sys.stdin.read(), sys.argv[1:], sorted(os.environ), os.getcwd()]))"
    )
    words, numbers, names, folder = json.loads(made_by(code, image) or b"")
    assert (words, numbers, folder) == ("an image", ["80", "60", "1000"], "/")
    assert set(names) <= {"LC_CTYPE"}, "Python sets that itself"


@pytest.mark.parametrize("name", PROGRAMS)
def test_whatever_it_does_there_is_no_picture_and_it_is_gone(name: str, image: Path) -> None:
    before = set(descendants(os.getpid()))
    assert made_by(PROGRAMS[name], image) is None
    assert set(descendants(os.getpid())) <= before


def ask(root: Path, **request: Any) -> list[dict[str, Any]]:
    said: list[dict[str, Any]] = []
    files = program.Files({"workspace": str(root)}, said.append)
    usual = {"id": "1", "op": "thumbnail", "root": "workspace"}
    numbers = {"width": 80, "height": 60, "most_bytes": 1000, "max_bytes": 100}
    files.answer({**usual, **numbers, **request})
    return said


def test_a_picture_is_the_answer_and_without_one_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "small").write_bytes(b"s")
    (tmp_path / "large").write_bytes(b"l" * 101)
    (tmp_path / "link").symlink_to("small")
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(program, "make_thumbnail", lambda file, *_: b"made of " + file.read())
    answer, end = ask(tmp_path, path="small")
    assert zlib.decompress(base64.b64decode(answer["z"])) == b"made of s"
    assert end == {"id": "1", "end": True}
    for path, why in {
        "large": "large",
        "link": "link",
        "pipe": "kind",
        "nothing": "gone",
        "../x": "outside",
    }.items():
        assert ask(tmp_path, path=path) == [{"id": "1", "end": True, "error": why}]
    monkeypatch.setattr(program, "make_thumbnail", lambda *_: None)
    assert ask(tmp_path, path="small") == [{"id": "1", "end": True, "error": "kind"}]


def test_a_picture_that_takes_long_holds_no_other_request_up(tmp_path: Path) -> None:
    """The program as it runs, with one that waits for the end of the test in the maker's place."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    code = (
        "import sys; sys.argv = ['files']; sys.path.insert(0, sys.orig_argv[-2]); "
        "from files import __main__ as program; "
        "program.make_thumbnail.__kwdefaults__['argv'] = ('/bin/cat', sys.orig_argv[-1], '--'); "
        "program.main()"
    )
    (tmp_path / "image").write_bytes(b"an image")
    with subprocess.Popen(
        [sys.executable, "-c", code, str(Path(program.__file__).parents[1]), str(pipe)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"HOME": str(tmp_path)},
        text=True,
    ) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        picture = {"id": "1", "op": "thumbnail", "path": "image", "width": 8, "height": 6}
        limits = {"root": "home", "most_bytes": 1000, "max_bytes": 100}
        look = {"id": "2", "op": "list", "root": "home", "path": "", "recursive": False, "limit": 9}
        for request in (picture | limits, look):
            running.stdin.write(json.dumps(request) + "\n")
            running.stdin.flush()
        first = [json.loads(running.stdout.readline())["id"] for _ in range(2)]
        assert first == ["2", "2"], "the list, and its end"
        running.kill()
