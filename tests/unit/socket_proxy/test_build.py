"""Which image may be built and pulled through the socket proxy: this version's, unchanged."""

from __future__ import annotations

import io
import json
import tarfile

import pytest

from orchestrator.runners.base_image import made_base, public_base
from orchestrator.runners.image import build_context, build_query, read_source
from orchestrator.socket_proxy.build import check_pull, is_own_name, remake_build
from orchestrator.socket_proxy.container import RefusedError

SOURCE = read_source()
PUBLIC = public_base(SOURCE.folder)
QUERY = build_query(SOURCE, PUBLIC, {})
FILES = build_context(SOURCE)


def archive(**files: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return stream.getvalue()


@pytest.mark.parametrize("authorities", [b"", b"x", b"x" * 512, b"roots\n" * 50_000, b"\0"])
@pytest.mark.parametrize("base", [PUBLIC, made_base(SOURCE.folder)])
def test_this_versions_build_is_passed_on_as_it_is(base: str, authorities: bytes) -> None:
    environment = {"https_proxy": "http://proxy:3128", "NPM_CONFIG_REGISTRY": "http://npm"}
    for given in ({}, environment):
        files = build_context(SOURCE, authorities)
        assert remake_build(build_query(SOURCE, base, given), files) == files


@pytest.mark.parametrize(
    "files",
    [
        b"",
        b"none",
        archive(Dockerfile=b"FROM scratch\nADD http://127.0.0.1:9200/ /x\n"),
        archive(Dockerfile=b"FROM postgres:17.11\nRUN cat /etc/shadow\n"),
        FILES + archive(Dockerfile=b"FROM scratch\n"),
        FILES.rstrip(b"\0"),
        FILES.replace(b"FROM ${BASE}", b"FROM ${HAHA}", 1),
        build_context(SOURCE, b"roots") + b"\0" * tarfile.BLOCKSIZE,
        build_context(SOURCE, b"roots").replace(b"ca-bundle.pem", b"launcher/evil", 1),
    ],
)
def test_another_build_is_refused(files: bytes) -> None:
    with pytest.raises(RefusedError, match="same version"):
        remake_build(QUERY, files)


@pytest.mark.parametrize(
    "change",
    [
        {"t": "aiagentchat/runner:other"},
        {"labels": json.dumps({"com.docker.compose.service": "synapse"})},
        {"labels": ""},
        {"buildargs": ""},
        {"buildargs": "[]"},
        {"buildargs": "[" * 5000},
        {"buildargs": "{}"},
        {"buildargs": json.dumps({"BASE": "postgres:17.11"})},
        {"buildargs": json.dumps({"BASE": "127.0.0.1:5000/x"})},
        {"buildargs": json.dumps({"BASE": [PUBLIC]})},
        {"buildargs": json.dumps({"BASE": PUBLIC, "HTTPS_PROXY": None})},
        {"buildargs": json.dumps({"BASE": PUBLIC, "OTHER": "x"})},
        {"nocache": "1"},
    ],
)
def test_a_build_with_other_parameters_is_refused(change: dict[str, str]) -> None:
    with pytest.raises(RefusedError):
        remake_build(QUERY | change, FILES)


def test_nothing_is_pulled_but_the_base() -> None:
    name, _, tag = PUBLIC.partition(":")
    check_pull({"fromImage": name, "tag": tag})
    for query in (
        {"fromImage": name},
        {"fromImage": name, "tag": "sid"},
        {"fromImage": f"127.0.0.1:5000/{name}", "tag": tag},
        {"fromImage": "aiagentchat/runner", "tag": tag},
    ):
        with pytest.raises(RefusedError, match="nothing is pulled"):
            check_pull(query)


def test_images_are_ours_by_their_whole_names() -> None:
    for name in ("aiagentchat/runner:a", "aiagentchat/base:a", PUBLIC):
        assert is_own_name(name)
    for name in ("aiagentchat/runner", "x/aiagentchat/runner:a", "postgres:17.11", f"{PUBLIC}-x"):
        assert not is_own_name(name)
