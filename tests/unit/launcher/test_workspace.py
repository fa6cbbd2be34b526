"""Files that anybody may have put into a workspace: read bounded, or not at all."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.workspace import MAX_BYTES, UnreadableError, read_object

LAUNCHER = Path(__file__).parents[3] / "runner-image" / "launcher"


def test_a_plain_object_is_read_and_a_missing_file_is_nothing(tmp_path: Path) -> None:
    (tmp_path / ".claude").mkdir()
    assert read_object(str(tmp_path), ".claude", "settings.json") is None
    assert read_object(str(tmp_path), ".mcp.json") is None
    (tmp_path / ".claude" / "settings.json").write_text('{"a": "ä"}')
    assert read_object(str(tmp_path), ".claude", "settings.json") == {"a": "ä"}


def _link(path: Path) -> None:
    (path.parent / "real").write_text("{}")
    path.symlink_to("real")


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


HOSTILE: dict[str, Callable[[Path], object]] = {
    "a symlink": _link,
    "a symlink to itself": lambda p: p.symlink_to(p.name),
    "a symlink to a secret": lambda p: p.symlink_to("/etc/shadow"),
    "a magic link": lambda p: p.symlink_to("/proc/self/environ"),
    "an endless device": lambda p: p.symlink_to("/dev/zero"),
    "a named pipe": os.mkfifo,
    "a socket": _socket,
    "a directory": Path.mkdir,
    "an empty file": lambda p: p.write_bytes(b""),
    "a huge file": lambda p: p.write_bytes(b" " * (MAX_BYTES + 1)),
    "a sparse file of a terabyte": lambda p: (p.touch(), os.truncate(p, 1 << 40)),
    "deep nesting": lambda p: p.write_bytes(b'{"a":' + b"[" * 60_000),
    "a number with too many digits": lambda p: p.write_bytes(b'{"a":' + b"9" * 60_000 + b"}"),
    "no number": lambda p: p.write_bytes(b'{"a": NaN}'),
    "an infinite number": lambda p: p.write_bytes(b'{"a": -Infinity}'),
    "a number beyond all that are finite": lambda p: p.write_bytes(b'{"a": 1e999}'),
    "no JSON": lambda p: p.write_bytes(b"{a: 1}"),
    "no UTF-8": lambda p: p.write_bytes(b'{"a": "\xff\xfe\xfa"}'),
    "a list": lambda p: p.write_bytes(b"[]"),
    "a word": lambda p: p.write_bytes(b'"x"'),
}


@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.timeout(20)
def test_what_is_no_plain_small_object_is_refused_at_once(tmp_path: Path, what: str) -> None:
    HOSTILE[what](tmp_path / ".mcp.json")
    with pytest.raises(UnreadableError) as caught:
        read_object(str(tmp_path), ".mcp.json")
    assert "/" not in str(caught.value)


@pytest.mark.parametrize("target", ["elsewhere", "/etc", "."])
def test_a_symlinked_folder_is_not_followed(tmp_path: Path, target: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "settings.json").write_text("{}")
    (tmp_path / "settings.json").write_text("{}")
    (tmp_path / ".claude").symlink_to(target)
    with pytest.raises(UnreadableError):
        read_object(str(tmp_path), ".claude", "settings.json")


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    (tmp_path / ".claude").mkdir()
    os.mkfifo(tmp_path / ".claude" / "settings.json")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with pytest.raises(UnreadableError):
            read_object(str(tmp_path), ".claude", "settings.json")
        assert read_object(str(tmp_path), ".mcp.json") is None
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# ---- the program


def launch(folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-S", str(LAUNCHER), *arguments]
    return subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, timeout=20, check=False
    )


SHOW = ("/bin/sh", "-c", 'echo "$FLAVOUR|$PATH"; printf "<%s>" "$@"', "sh")


def test_the_launcher_becomes_the_program_with_what_counts_added(tmp_path: Path) -> None:
    (tmp_path / ".claude").mkdir()
    (tmp_path / ".claude" / "settings.json").write_text(
        '{"env": {"FLAVOUR": "mint", "PATH": "/evil"}, "hooks": {"Stop": []}}'
    )
    done = launch(tmp_path, "environment,hooks", *SHOW, "-p", PATH="/usr/bin:/bin")
    assert done.stdout == 'mint|/usr/bin:/bin\n<-p><--settings><{"hooks": {"Stop": []}}>'
    assert done.stderr == "launcher: the variable PATH is not a workspace's to set\n"


@pytest.mark.parametrize("arguments", [(), ("hooks",), ("everything", *SHOW), ("", *SHOW)])
def test_wrong_arguments_start_nothing(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = launch(tmp_path, *arguments)
    assert (done.returncode, done.stdout) == (64, "")


def test_nothing_of_the_workspace_is_imported_before_the_program(tmp_path: Path) -> None:
    for name in ("json", "launcher", "sitecustomize", "re"):
        (tmp_path / f"{name}.py").write_text("import os; os._exit(99)")
    done = launch(tmp_path, "hooks", "/bin/true", PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
