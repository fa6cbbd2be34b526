"""`make sbom`, second half: what is in the runner image, as CycloneDX.

Debian's packages, as dpkg in the image lists them, the Claude Code CLI as claude-code.json pins it,
and the image's own digest. Runs with the tools of requirements-ci.lock:

    python -m scripts.image_sbom FILE IMAGE
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from cyclonedx.model import Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

_FORMAT = r"${Package}\t${Version}\t${Architecture}\t${Section}\t${Maintainer}\n"
_ROOT = Path(__file__).resolve().parents[1]
_IMAGE = "aiagentchat/runner"


def main(target: Path, reference: str) -> int:
    """Write the file; 0 also where there is no image to look into, and says so."""
    image = _find_image(reference)
    if image is None:
        print(f"· {reference} is not here: make image, then make sbom again, for {target}")
        target.unlink(missing_ok=True)
        return 0
    bom = build_bom(image, _dpkg(image), json.loads(_cli_pin().read_text()))
    text = JsonV1Dot6(bom).output_as_string(indent=1)
    problems = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if problems is not None:
        print(f"{target} would be no CycloneDX 1.6: {problems}", file=sys.stderr)
        return 1
    target.write_text(f"{text}\n")
    print(f"· {target}: {len(bom.components)} components of {image}")
    return 0


def build_bom(image: str, listed: str, pinned: dict[str, Any]) -> Bom:
    """The bill of an image: `listed` is what dpkg-query says of it."""
    bom = Bom()
    bom.metadata.component = Component(
        name=_IMAGE, version=image, type=ComponentType.CONTAINER, bom_ref="image"
    )
    for line in listed.splitlines():
        name, version, architecture, section, maintainer = line.split("\t")
        purl = PackageURL(
            "deb", "debian", name, version, {"arch": architecture, "distro": "bookworm"}
        )
        bom.components.add(
            Component(
                name=name,
                version=version,
                type=ComponentType.LIBRARY,
                purl=purl,
                bom_ref=str(purl),
                publisher=maintainer,
                properties=[Property(name="aiagentchat:debian-section", value=section)],
            )
        )
        if name == "dpkg":
            bom.components.add(_cli(pinned, architecture))
    bom.register_dependency(bom.metadata.component, bom.components)
    return bom


def _cli(pinned: dict[str, Any], architecture: str) -> Component:
    group, _, short = pinned["platforms"][architecture]["package"].rpartition("/")
    version = pinned["version"]
    purl = PackageURL("npm", group, short, version)
    return Component(
        group=group,
        name=short,
        version=version,
        type=ComponentType.APPLICATION,
        purl=purl,
        bom_ref=str(purl),
    )


def _find_image(reference: str) -> str | None:
    if shutil.which("docker") is None:
        return None
    done = subprocess.run(
        ["docker", "images", "--quiet", "--no-trunc", reference],
        capture_output=True,
        text=True,
        check=False,
    )
    return next(iter(done.stdout.split()), None)


def _dpkg(image: str) -> str:
    command = ["docker", "run", "--rm", "--network=none", "--entrypoint=dpkg-query"]
    return subprocess.run(
        [*command, image, "-W", "-f", _FORMAT], capture_output=True, text=True, check=True
    ).stdout


def _cli_pin() -> Path:
    return _ROOT / "runner-image" / "claude-code.json"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
