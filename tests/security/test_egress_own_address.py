"""This host's own addresses are not reached by a room, also where they are public ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.faults

_ROOT = Path(__file__).parents[2]
# In a network namespace of its own: loopback gets a public address.
_SCRIPT = """
import fcntl, ipaddress, socket, struct
from orchestrator.egress.dialer import is_own

def configure(request, data):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, request, struct.pack("16s", b"lo") + data)

set_address, set_flags, up = 0x8916, 0x8914, 0x41
before = is_own(ipaddress.ip_address("8.8.4.4"))
configure(set_address, struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton("8.8.4.4")))
configure(set_flags, struct.pack("h14x", up))
print(before, *(is_own(ipaddress.ip_address(one)) for one in ("8.8.4.4", "9.9.9.9", "2606::1")))
"""


def test_a_public_address_of_this_host_is_known_as_its_own() -> None:
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", _SCRIPT],
        cwd=_ROOT,
        env={"PYTHONPATH": str(_ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.split() == ["False", "True", "False", "False"]
