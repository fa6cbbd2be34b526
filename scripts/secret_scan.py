"""`make secrets`: is there a secret in the sources that is not known to be none?

    python -m scripts.secret_scan [FILE…]     without files, all that git knows; 1: there is one
    python -m scripts.secret_scan --update    what is there now is known: look at each before

detect-secrets with its detectors and two of ours (scripts/secret_kinds.py); what is known stands in
scripts/secrets-baseline.json, by file and digest. Runs with the tools of requirements-ci.lock.
"""

from __future__ import annotations

import json
import random
import string
import subprocess
import sys
import tempfile
from pathlib import Path

from detect_secrets import SecretsCollection
from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
from detect_secrets.settings import default_settings, transient_settings

_HERE = Path(__file__).resolve().parent
BASELINE = _HERE / "secrets-baseline.json"
_KINDS = _HERE / "secret_kinds.py"
# Digests, nothing but digests.
_NOT_LOOKED_AT = (
    "requirements",
    "package-lock.json",
    "claude-code.json",
    "secrets-baseline.json",
)


def main(arguments: list[str]) -> int:
    """0 none that is not known; 1 there is one."""
    if not finds_a_planted_key():
        print("The detectors find no planted key: nothing that they say counts.", file=sys.stderr)
        return 2
    is_update = arguments[:1] == ["--update"]
    files = [] if is_update else arguments
    known = json.loads(BASELINE.read_text()) if BASELINE.exists() else {"results": {}}
    found = scan(files or _tracked())
    if is_update:
        results = {
            name: sorted({(s.type, s.secret_hash) for s in secrets})
            for name, secrets in sorted(found.data.items())
        }
        BASELINE.write_text(f"{json.dumps({'results': results}, indent=1)}\n")
        print(f"· {BASELINE.name}: {sum(map(len, results.values()))} known")
        return 0
    new = [
        secret
        for name, secrets in sorted(found.data.items())
        for secret in sorted(secrets, key=lambda s: s.line_number)
        if [secret.type, secret.secret_hash] not in known["results"].get(name, [])
    ]
    for secret in new:
        print(f"! {secret.filename}:{secret.line_number}: {secret.type}")
    print(f"· {len(found.data)} files with what looks like one, {len(new)} that are not known")
    if new:
        print(
            "Take it out, and make another one where it was real. If it is none:\n"
            "  scripts/scan.sh secrets --update",
            file=sys.stderr,
        )
    return 1 if new else 0


def finds_a_planted_key() -> bool:
    """Whether a scan finds what it is for: a list of names that went wrong would find nothing."""
    key = f"sk-ant-api03-{''.join(random.choices(string.ascii_letters, k=40))}"
    with tempfile.NamedTemporaryFile("w", suffix=".py") as file:
        file.write(f'key = "{key}"\n')
        file.flush()
        found = {secret.type for _, secret in scan([file.name])}
    return "Anthropic credential" in found


def scan(files: list[str]) -> SecretsCollection:
    """What the detectors find in these files."""
    with default_settings() as settings:
        usual = settings.json()
    # What is cached of the usual detectors would hide ours.
    get_mapping_from_secret_type_to_class.cache_clear()
    ours = [
        {"name": name, "path": _KINDS.as_uri()}
        for name in ("AnthropicKeyDetector", "MatrixTokenDetector")
    ]
    wanted = {
        "plugins_used": [*usual["plugins_used"], *ours],
        "filters_used": usual["filters_used"],
    }
    with transient_settings(wanted):
        found = SecretsCollection()
        found.scan_files(*files)
    return found


def _tracked() -> list[str]:
    done = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, check=True)
    names = [name for name in done.stdout.split("\0") if name and Path(name).is_file()]
    return [name for name in names if not Path(name).name.startswith(_NOT_LOOKED_AT)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
