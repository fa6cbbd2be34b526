"""Which installation a proxy serves: the first that it is asked for, for good."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from orchestrator.model import InstallationId
from orchestrator.private_file import write_private
from orchestrator.socket_proxy.container import RefusedError, parse_installation

_FILE: Final = "installation"


class Pin:
    """A file beside the socket, where whoever uses the socket can't write."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _FILE

    def __repr__(self) -> str:
        return f"Pin({self._path})"

    def read(self) -> InstallationId | None:
        """The installation; None: none was asked for yet.

        Raises:
            RefusedError: the file says something else, or can't be read.
        """
        try:
            return parse_installation(self._path.read_text(errors="replace").strip())
        except FileNotFoundError:
            return None
        except OSError as e:
            msg = f"{self._path} can't be read: {e.strerror}"
            raise RefusedError(msg) from e

    def check(self, asked: InstallationId) -> InstallationId:
        """The same installation, which is the pinned one from now on.

        Raises:
            RefusedError: another one is, or the file can't be written.
        """
        pinned = self.read()
        if pinned is None:
            self._write(asked)
        elif pinned != asked:
            msg = (
                f"this proxy serves the installation {pinned} and not {asked}."
                f" Where that is a new one, remove {self._path}"
            )
            raise RefusedError(msg)
        return asked

    def _write(self, asked: InstallationId) -> None:
        try:
            write_private(self._path, f"{asked}\n".encode())
        except OSError as e:
            msg = f"{self._path} can't be written: {e.strerror}"
            raise RefusedError(msg) from e
