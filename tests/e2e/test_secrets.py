"""A secret of a room, on real parts: the runner's programs use it, and nothing of it is there."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from pathlib import Path

import docker
import pytest

from orchestrator.embedded.messages_model import ToolUse
from tests.e2e.conftest import Installation
from tests.e2e.test_isolation import run_in
from tests.support.locked_site import open_locked_site
from tests.support.package_site import make_package_site
from tests.support.tls_site import make_authority

pytestmark = [pytest.mark.docker, pytest.mark.synapse, pytest.mark.cli, pytest.mark.timeout(300)]

VALUE = "ghp_Zq3vXw8Yt5Rb2Nm7Kj4Hg6Fd9Sa1Po0Iu3Q"
# As a pattern: it finds the value, and neither itself in grep's own command line nor the
# conversation that the CLI keeps.
PATTERN = f"'{VALUE[:12]}[{VALUE[12]}]{VALUE[13:]}'"
NAMED, TUNNELLED = "api.example.org", "raw.example.org"
HOST_ROOTS = Path("/etc/ssl/certs/ca-certificates.crt")


PROGRAMS = {
    "curl with a header": 'curl -sS -H "Authorization: token $GITHUB_TOKEN" $S/page.html',
    "curl with a password": 'curl -sS -u "x:$GITHUB_TOKEN" $S/page.html',
    "git": 'git clone -q "https://x:$GITHUB_TOKEN@$H/repo.git" /tmp/r && '
    "sed s/cloned/harvest-word/ /tmp/r/README",
    "pip": "pip download -q --no-deps --disable-pip-version-check -d /tmp/p "
    '--index-url "https://x:$GITHUB_TOKEN@$H/simple" harvest && unzip -p /tmp/p/*.whl harvest.py',
    "npm": 'npm view --registry "$S/npm" "--//$H/npm/:_authToken=$GITHUB_TOKEN" '
    "harvest description",
    "python": "python3 -c 'import os, urllib.request as u; print(u.urlopen(u.Request("
    'os.environ["S"] + "/page.html", headers={"Authorization": "Bearer " + '
    'os.environ["GITHUB_TOKEN"]})).read().decode())\'',
}


def script(host: str, raw: str) -> str:
    """Runs every program; a line for each that found the word that only the token opens."""
    lines = [f"export H={host} S=https://{host} R=https://{raw}", "echo shown=$GITHUB_TOKEN="]
    for name, command in PROGRAMS.items():
        lines.append(
            f"({command}) > /tmp/out 2>&1; grep -q harvest-word /tmp/out && echo '{name}: in'"
            f" || (echo '{name}: out'; tail -n 3 /tmp/out)"
        )
    # The other host's certificate is one that the host's own list has.
    lines.append(
        "curl -sS -o /dev/null -w 'raw: %{http_code} %{ssl_verify_result}\\n' "
        '-H "Authorization: token $GITHUB_TOKEN" $R/page.html'
    )
    return "\n".join([*lines, "echo end-of-programs"])


INSIDE = f"""
grep -rl {PATTERN} / --exclude-dir=proc --exclude-dir=sys 2>/dev/null | wc -l
cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n' | grep -c {PATTERN}
grep -rl 'PRIVATE KEY' /run/egress /etc/ssl/certs 2>/dev/null | wc -l
ls /run/egress | tr '\\n' ' '; echo
(echo x > /run/egress/ca.pem; echo x > /run/egress/new) 2>&1 | grep -c 'Read-only'
echo end-of-inside
"""


async def test_programs_use_a_secret_that_is_nowhere_in_the_runner(
    installation: Installation, tmp_path: Path
) -> None:
    authority = make_authority(tmp_path)
    roots = tmp_path / "roots.pem"
    roots.write_bytes(HOST_ROOTS.read_bytes() + authority.file.read_bytes())
    site_root = tmp_path / "site"
    site_root.mkdir()
    with (
        open_locked_site(site_root, authority.server_context(NAMED), VALUE) as site,
        open_locked_site(site_root, authority.server_context(TUNNELLED), VALUE) as raw,
    ):
        host, other = f"{NAMED}:{site.port}", f"{TUNNELLED}:{raw.port}"
        make_package_site(site_root, f"https://{host}")
        orchestrator = await installation.configure(
            env={"OPS_TOKEN": VALUE, "SSL_CERT_FILE": str(roots)},
            observability={"log_level": "TRACE", "metrics": None},
            defaults={
                "permissions": "bypass",
                "egress": {
                    "allow": [host, other],
                    "intercept": [host],
                    "internal": ["127.0.0.1/32"],
                    "hosts": {NAMED: "127.0.0.1", TUNNELLED: "127.0.0.1"},
                },
                "secrets": {"GITHUB_TOKEN": {"hosts": [host], "variable": "OPS_TOKEN"}},
            },
        )
        await orchestrator.start()
        alice, bob = await installation.person("alice"), await installation.person("bob")
        room, next_door = await asyncio.gather(
            installation.room(alice), installation.room(bob, name="b")
        )
        said, theirs = await asyncio.gather(
            run_in(installation, alice, room, "programs", script(host, other)),
            run_in(
                installation,
                bob,
                next_door,
                "programs-b",
                "echo shown=$GITHUB_TOKEN=; echo end-of-programs-b",
            ),
        )
        inside = await run_in(installation, alice, room, "inside", INSIDE)

        # The CLI's own fetch trusts the CA, too.
        fetch = ToolUse(name="WebFetch", input={"url": f"https://{host}/open", "prompt": "?"})
        installation.api.when("fetch it", [fetch])
        await alice.send(room, "fetch it")
        await installation.api.wait_until(lambda _: site.opened > 0)

        lines = said.splitlines()
        for name in PROGRAMS:
            assert f"{name}: in" in lines, said
        surrogate = said.split("=")[1]
        assert surrogate.startswith("ghp_")
        assert len(surrogate) == len(VALUE)
        assert surrogate not in {VALUE, theirs.split("=")[1]}
        assert "raw: 401 0" in lines
        assert raw.seen == [f"token {surrogate}"]

        assert inside.replace("The tool said: ", "").split() == [
            "0",
            "0",
            "0",
            "ca-bundle.pem",
            "ca.pem",
            "egress.sock",
            "2",
            "end-of-inside",
        ]
        engine = docker.from_env()
        for container in engine.containers.list(all=True, filters={"label": "aiagentchat.room"}):
            assert VALUE not in json.dumps(container.attrs)
        engine.close()
        # The log at its finest, the database, and everything else that is kept.
        assert '"put_in": "GITHUB_TOKEN"' in orchestrator.log
        kept = [orchestrator.log_path, *_files(orchestrator.state_dir)]
        assert orchestrator.state_dir / "state.sqlite3" in kept
        for path in kept:
            # A CLI that rests by now removes what it needed while it ran.
            with contextlib.suppress(FileNotFoundError):
                assert VALUE.encode() not in path.read_bytes(), path
        assert VALUE not in said + theirs + inside


def _files(directory: Path) -> list[Path]:
    found = []
    for folder, _, names in os.walk(directory):
        found += [Path(folder) / name for name in names if not (Path(folder) / name).is_socket()]
    return [path for path in found if path.is_file() and not path.is_symlink()]
