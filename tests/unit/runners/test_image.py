"""The image's tag follows its content, its build gets what it needs, and the CLI's pin is sound."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import io
import json
import tarfile
from pathlib import Path
from types import ModuleType

import pytest

from orchestrator.errors import PreconditionError
from orchestrator.runners.base_image import made_base, public_base
from orchestrator.runners.build_log import BuildLog
from orchestrator.runners.image import build_context, build_query, image_dir, read_source


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shim" / "__pycache__").mkdir(parents=True)
    (tmp_path / "Dockerfile").write_text("ARG BASE=debian:x\nFROM ${BASE}\n")
    (tmp_path / "shim" / "main.py").write_text("print()\n")
    (tmp_path / "shim" / "__pycache__" / "main.pyc").write_bytes(b"cache")
    (tmp_path / "README.md").write_text("words")
    return tmp_path


# ---- content and tag


def test_the_tag_is_the_same_for_the_same_files(folder: Path) -> None:
    assert read_source(folder).tag == read_source(folder).tag
    assert read_source(folder).tag.startswith("aiagentchat/runner:")


@pytest.mark.parametrize(
    ("name", "content"),
    [("shim/main.py", "print(1)\n"), ("shim/new.py", ""), ("managed-settings.json", "{}")],
)
def test_the_tag_changes_with_any_file_of_the_image(folder: Path, name: str, content: str) -> None:
    before = read_source(folder).tag
    (folder / name).write_text(content)
    assert read_source(folder).tag != before


def test_the_tag_changes_when_a_file_becomes_executable(folder: Path) -> None:
    before = read_source(folder).tag
    (folder / "shim" / "main.py").chmod(0o755)
    assert read_source(folder).tag != before


@pytest.mark.parametrize("name", ["README.md", "shim/__pycache__/main.pyc", "base-image.sh"])
def test_the_tag_does_not_change_with_what_is_not_in_the_image(folder: Path, name: str) -> None:
    before = read_source(folder).tag
    (folder / name).write_text("changed")
    assert read_source(folder).tag == before


def test_the_context_has_the_files_with_plain_owners_and_modes(folder: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(build_context(read_source(folder), b"roots"))) as tar:
        entries = {entry.name: (entry.uid, entry.gid, entry.mode, entry.mtime) for entry in tar}
    assert entries == dict.fromkeys(
        ("Dockerfile", "shim/main.py", "ca-bundle.pem"), (0, 0, 0o644, 0)
    )


def test_without_a_bundle_of_authorities_the_context_has_no_file_for_it(folder: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(build_context(read_source(folder)))) as tar:
        assert "ca-bundle.pem" not in tar.getnames()


def test_the_build_is_told_of_the_base_the_proxy_and_the_registry_and_of_nothing_else(
    folder: Path,
) -> None:
    environment = {
        "https_proxy": "http://proxy:1",
        "NPM_CONFIG_REGISTRY": "https://packages.example",
        "ANTHROPIC_API_KEY": "secret",
        "PATH": "/bin",
    }
    query = build_query(read_source(folder), "some:base", environment)
    assert json.loads(query["buildargs"]) == {
        "BASE": "some:base",
        "HTTPS_PROXY": "http://proxy:1",
        "NPM_CONFIG_REGISTRY": "https://packages.example",
    }
    assert json.loads(query["labels"]) == {"aiagentchat.image": read_source(folder).digest}


# ---- the base


def test_the_public_base_is_the_one_that_the_dockerfile_names(folder: Path) -> None:
    assert public_base(folder) == "debian:x"


def test_a_dockerfile_without_a_base_is_an_error_in_words(folder: Path) -> None:
    (folder / "Dockerfile").write_text("FROM scratch\n")
    with pytest.raises(PreconditionError, match="ARG BASE"):
        public_base(folder)


def test_the_base_that_is_made_never_takes_the_public_ones_name() -> None:
    assert made_base(image_dir()).startswith("aiagentchat/base:")
    assert public_base(image_dir()) == "debian:bookworm-slim"


# ---- progress


def test_each_step_is_one_line_and_its_time_another() -> None:
    lines: list[str] = []
    log = BuildLog(lines.append, now=0)
    log.take({"stream": "Step 1/2 : RUN apt-get update\n"}, now=0)
    log.take({"stream": "Get:1 something\n"}, now=1)
    log.take({"stream": "Step 2/2 : COPY shim /opt\n"}, now=42)
    assert lines == [
        "step 1 of 2: RUN apt-get update",
        "step 1 of 2: took 42 s",
        "step 2 of 2: COPY shim /opt",
    ]


def test_a_long_step_shows_a_line_of_its_output_every_few_seconds() -> None:
    lines: list[str] = []
    log = BuildLog(lines.append, now=0)
    for second in range(21):
        log.take({"stream": f"line {second}\n"}, now=second)
    assert lines == ["  line 5", "  line 10", "  line 15", "  line 20"]


def test_a_failed_build_says_where_why_and_what_came_last() -> None:
    log = BuildLog(lambda _: None, now=0)
    log.take({"stream": "Step 3/9 : RUN false\n"}, now=0)
    log.take({"stream": "E: no network\n"}, now=0)
    with pytest.raises(PreconditionError) as caught:
        log.take({"error": "returned a non-zero code: 1"}, now=0)
    text = str(caught.value)
    assert "step 3 of 9" in text
    assert "returned a non-zero code: 1" in text
    assert "E: no network" in text


# ---- the CLI


def pin() -> dict[str, object]:
    found: dict[str, object] = json.loads((image_dir() / "claude-code.json").read_text())
    return found


def test_both_architectures_are_pinned_by_a_sha512_digest() -> None:
    platforms = pin()["platforms"]
    assert isinstance(platforms, dict)
    assert set(platforms) == {"amd64", "arm64"}
    for platform in platforms.values():
        method, _, digest = platform["integrity"].partition("-")
        assert method == "sha512"
        assert len(base64.b64decode(digest, validate=True)) == 64


@pytest.fixture(scope="module")
def fetch_cli() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fetch_cli", image_dir() / "fetch_cli.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_cli_with_another_digest_stops_the_build_in_words(
    fetch_cli: ModuleType, tmp_path: Path
) -> None:
    tarball = tmp_path / "cli.tgz"
    tarball.write_bytes(b"not the CLI")
    with pytest.raises(SystemExit, match="not what was pinned") as caught:
        fetch_cli._check("cli@1", tarball, "sha512-AAAA")
    assert "expected sha512-AAAA" in str(caught.value)


def test_a_cli_with_the_pinned_digest_passes(fetch_cli: ModuleType, tmp_path: Path) -> None:
    tarball = tmp_path / "cli.tgz"
    tarball.write_bytes(b"the CLI")
    digest = base64.b64encode(hashlib.sha512(b"the CLI").digest()).decode()
    fetch_cli._check("cli@1", tarball, f"sha512-{digest}")


def test_the_managed_settings_turn_updates_and_telemetry_off() -> None:
    settings = json.loads((image_dir() / "managed-settings.json").read_text())
    assert settings["allowManagedHooksOnly"] is True
    for name in ("DISABLE_AUTOUPDATER", "DISABLE_TELEMETRY", "DISABLE_ERROR_REPORTING"):
        assert settings["env"][name] == "1"
