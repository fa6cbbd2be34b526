"""What may be asked of the engine through the socket proxy, and in which words it goes on."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

import pytest

from orchestrator.socket_proxy.container import RefusedError
from orchestrator.socket_proxy.requests import (
    Asked,
    Head,
    Passed,
    add_label,
    find_installation,
    judge,
    parse_body,
    parse_head,
    takes_files,
)

MINE = "0123456789abcdef"
EXEC = "a" * 64


def ask(method: str, path: str, body: dict[str, Any] | None = None, **query: str) -> Passed:
    head = Head(method=method, path=path, query=query, content_length=0, upgrades=True)
    return judge(Asked(head=head, body=body or {}))


@pytest.mark.parametrize(
    ("method", "path", "query", "target"),
    [
        ("GET", "/version", {}, "/version"),
        ("GET", "/v1.41/info", {}, "/v1.41/info"),
        ("HEAD", "/_ping", {}, "/_ping"),
        ("GET", "/v1.41/containers/r/json", {}, "/v1.41/containers/{id}/json"),
        ("GET", "/v1.51/containers/r/changes", {}, "/v1.51/containers/{id}/changes"),
        (
            "GET",
            "/v1.41/containers/r/top",
            {"ps_args": "-eLo pid,lwp"},
            "/v1.41/containers/{id}/top?ps_args=-eLo+pid%2Clwp",
        ),
        (
            "GET",
            "/v1.41/containers/r/stats",
            {"stream": "False", "one-shot": "True"},
            "/v1.41/containers/{id}/stats?stream=False&one-shot=True",
        ),
        ("POST", "/v1.41/containers/r/start", {}, "/v1.41/containers/{id}/start"),
        ("POST", "/v1.41/containers/r/stop", {"t": "9"}, "/v1.41/containers/{id}/stop?t=9"),
        ("POST", "/v1.41/containers/r/unpause", {}, "/v1.41/containers/{id}/unpause"),
        (
            "DELETE",
            "/v1.41/containers/r",
            {"v": "True", "force": "True", "link": "False"},
            "/v1.41/containers/{id}?v=True&force=True&link=False",
        ),
        ("GET", f"/v1.41/exec/{EXEC}/json", {}, "/v1.41/exec/{id}/json"),
        (
            "GET",
            "/v1.41/images/aiagentchat/runner:abc/json",
            {},
            "/v1.41/images/{id}/json",
        ),
        (
            "DELETE",
            "/v1.41/images/aiagentchat/runner:abc",
            {"force": "False", "noprune": "False"},
            "/v1.41/images/aiagentchat/runner:abc?force=False&noprune=False",
        ),
        (
            "POST",
            "/v1.41/images/create",
            {"fromImage": "debian", "tag": "bookworm-slim"},
            "/v1.41/images/create?fromImage=debian&tag=bookworm-slim",
        ),
    ],
)
def test_what_the_orchestrator_asks_goes_on(
    method: str, path: str, query: dict[str, str], target: str
) -> None:
    passed = ask(method, path, **query)
    assert (passed.method, passed.target) == (method, target)
    assert bool(passed.container or passed.exec_id or passed.image) is ("{id}" in target)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1.23/info"),
        ("GET", "/v1.40/info"),
        ("GET", "/v2.41/info"),
        ("GET", "/v1.41/v1.41/info"),
        ("GET", "/v1.41//info"),
        ("GET", "/v1.41/info/"),
        ("POST", "/v1.41/info"),
        ("GET", "/v1.41/containers/a/../b/json"),
        ("GET", "/v1.41/containers/a%2Fb/json"),
        ("GET", "/v1.41/containers/r/logs"),
        ("GET", "/v1.41/containers/r/export"),
        ("GET", "/v1.41/containers/r/archive"),
        ("PUT", "/v1.41/containers/r/archive"),
        ("POST", "/v1.41/containers/r/update"),
        ("POST", "/v1.41/containers/r/rename"),
        ("POST", "/v1.41/containers/r/kill"),
        ("POST", "/v1.41/containers/r/restart"),
        ("POST", "/v1.41/containers/r/pause"),
        ("POST", "/v1.41/containers/r/wait"),
        ("GET", "/v1.41/containers/r/attach/ws"),
        ("POST", "/v1.41/containers/prune"),
        ("POST", "/v1.41/commit"),
        ("POST", "/v1.41/images/load"),
        ("GET", "/v1.41/images/get"),
        ("GET", "/v1.41/images/x/get"),
        ("POST", "/v1.41/images/x/push"),
        ("POST", "/v1.41/images/x/tag"),
        ("POST", "/v1.41/images/prune"),
        ("DELETE", "/v1.41/images/debian:12"),
        ("DELETE", "/v1.41/images/aiagentchat/runner"),
        ("DELETE", "/v1.41/images/aiagentchat/runner:a@sha256:" + "a" * 64),
        ("DELETE", "/v1.41/images/aiagentchat/runner:5000/x:a"),
        ("POST", "/v1.41/build/prune"),
        ("POST", "/v1.41/session"),
        ("POST", "/grpc"),
        ("POST", "/v1.41/auth"),
        ("GET", "/v1.41/volumes"),
        ("POST", "/v1.41/volumes/create"),
        ("GET", "/v1.41/networks"),
        ("POST", "/v1.41/networks/create"),
        ("POST", "/v1.41/networks/matrix/connect"),
        ("GET", "/v1.41/plugins"),
        ("POST", "/v1.41/plugins/pull"),
        ("POST", "/v1.41/swarm/init"),
        ("GET", "/v1.41/secrets"),
        ("GET", "/v1.41/configs"),
        ("POST", "/v1.41/services/create"),
        ("GET", "/v1.41/system/df"),
        ("GET", "/v1.41/distribution/x/json"),
        ("GET", "/v1.41/exec/short/json"),
        ("POST", f"/v1.41/exec/{EXEC}/resize"),
        ("GET", "/debug/pprof"),
        ("GET", "/metrics"),
    ],
)
def test_whatever_else_an_engine_offers_is_refused(method: str, path: str) -> None:
    with pytest.raises(RefusedError):
        ask(method, path)


@pytest.mark.parametrize(
    ("method", "path", "query"),
    [
        ("GET", "/containers/r/top", {"ps_args": "auxe"}),
        ("GET", "/containers/r/top", {"ps_args": "-eLo pid,lwp e"}),
        ("GET", "/containers/r/json", {"size": "1"}),
        ("GET", "/containers/r/stats", {"stream": "true"}),
        ("POST", "/containers/r/start", {"detachKeys": "x"}),
        ("POST", "/containers/r/start", {"checkpoint": "x", "checkpoint-dir": "/etc"}),
        ("POST", "/containers/r/stop", {"signal": "KILL"}),
        ("POST", "/containers/r/attach", {"logs": "1"}),
        ("DELETE", "/containers/r", {"link": "true"}),
        ("POST", "/containers/create", {}),
        ("POST", "/containers/create", {"name": "r", "platform": "linux/386"}),
        ("DELETE", "/images/aiagentchat/runner:a", {"force": "True"}),
        ("POST", "/images/create", {"fromSrc": "http://10.0.0.1/x", "repo": "aiagentchat/base"}),
        ("POST", "/images/create", {"fromSrc": "-", "repo": "debian", "tag": "12"}),
        ("POST", "/images/create", {"fromImage": "debian", "tag": "12", "fromSrc": "-"}),
        ("POST", "/images/create", {"fromSrc": "-", "repo": "aiagentchat/base", "tag": "12"}),
        ("POST", "/build", {"t": "debian:12"}),
        ("POST", "/build", {"t": "aiagentchat/runner:a", "networkmode": "host"}),
        ("POST", "/build", {"t": "aiagentchat/runner:a", "remote": "https://x/y.git"}),
        ("POST", "/build", {"t": "aiagentchat/runner:a", "extrahosts": "a:127.0.0.1"}),
        ("POST", "/build", {"t": "aiagentchat/runner:a", "cgroupparent": "/"}),
        ("POST", "/build", {"t": "aiagentchat/runner:a", "version": "2"}),
        ("POST", "/build", {"t": "aiagentchat/runner:a", "dockerfile": "/etc/shadow"}),
        ("POST", "/build", {"t": "aiagentchat/runner:a", "memory": "1"}),
    ],
)
def test_a_parameter_that_is_not_ours_is_refused(
    method: str, path: str, query: dict[str, str]
) -> None:
    with pytest.raises(RefusedError):
        ask(method, f"/v1.41{path}", **query)


def test_a_stream_is_asked_for_as_one() -> None:
    query = dict.fromkeys(("stream", "stdin", "stdout", "stderr"), "1")
    assert ask("POST", "/v1.41/containers/r/attach", **query).upgrades
    head = Head(
        method="POST",
        path="/v1.41/containers/r/attach",
        query=query,
        content_length=0,
        upgrades=False,
    )
    with pytest.raises(RefusedError, match="Upgrade"):
        judge(Asked(head=head))


_EXEC: dict[str, Any] = {
    "Container": "r",
    "User": "",
    "Privileged": False,
    "Tty": False,
    "AttachStdin": False,
    "AttachStdout": True,
    "AttachStderr": False,
    "Cmd": ["python3", "-I", "-c", "x"],
    "WorkingDir": "/",
    "Env": None,
}


def test_a_program_in_a_runner_is_the_rooms_own_users() -> None:
    passed = ask("POST", "/v1.41/containers/r/exec", _EXEC)
    assert passed.body is not None
    assert passed.body == {n: v for n, v in _EXEC.items() if n not in {"Container", "Env"}}
    started = ask("POST", f"/v1.41/exec/{EXEC}/start", {"Detach": False, "Tty": False})
    assert started.upgrades


@pytest.mark.parametrize(
    "change",
    [
        {"User": "0"},
        {"User": "root"},
        {"Privileged": True},
        {"Tty": True},
        {"AttachStdin": True},
        {"Env": ["LD_PRELOAD=/x"]},
        {"WorkingDir": "/workspace"},
        {"Cmd": "sh"},
        {"Cmd": ["sh", 1]},
        {"Cmd": None},
        {"ConsoleSize": [1, 1]},
    ],
)
def test_a_program_with_more_rights_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(RefusedError):
        ask("POST", "/v1.41/containers/r/exec", _EXEC | change)


@pytest.mark.parametrize("body", [{}, {"Detach": True, "Tty": False}, {"Detach": False}])
def test_a_program_is_attached_to(body: dict[str, Any]) -> None:
    with pytest.raises(RefusedError):
        ask("POST", f"/v1.41/exec/{EXEC}/start", body)


def test_lists_are_of_the_installation_alone() -> None:
    ours = f"aiagentchat.installation={MINE}"
    for given in ("", "{}", json.dumps({"label": [ours]})):
        assert json.loads(add_label(given, MINE, "containers")) == {"label": [ours]}
    foreign = json.dumps({"label": ["aiagentchat.installation=ffff"]})
    assert ours in json.loads(add_label(foreign, MINE, "containers"))["label"], "both have to be"
    events = json.loads(
        add_label('{"type": ["container", "network"], "event": ["die"]}', MINE, "events")
    )
    assert events == {"type": ["container"], "event": ["die"], "label": [ours]}


@pytest.mark.parametrize(
    ("filters", "kind"),
    [
        ("[]", "containers"),
        ("{", "containers"),
        ('{"label": "x"}{', "containers"),
        ('{"label": [1]}', "containers"),
        ('{"label": {"a": true}, "volume": ["x"]}', "containers"),
        ('{"name": ["x"]}', "containers"),
        ('{"event": ["die"]}', "containers"),
        ('{"container": ["x"]}', "events"),
        ("[" * 5000, "containers"),
    ],
)
def test_filters_of_another_form_are_refused(filters: str, kind: str) -> None:
    with pytest.raises(RefusedError):
        add_label(filters, MINE, kind)


def test_the_installation_is_that_of_the_filters() -> None:
    assert find_installation(json.dumps({"label": [f"aiagentchat.installation={MINE}"]})) == MINE
    for filters in ("", "{}", "x", '{"label": ["other=1"]}', '{"label": [1]}'):
        assert find_installation(filters) is None
    with pytest.raises(RefusedError):
        find_installation('{"label": ["aiagentchat.installation=../x"]}')


def test_images_are_listed_by_our_name_whatever_is_asked() -> None:
    passed = ask("GET", "/v1.41/images/json", filters='{"reference": ["*"]}', all="1")
    assert json.loads(passed.query["filters"]) == {"reference": ["aiagentchat/runner"]}


def head(*lines: str, end: str = "\r\n\r\n") -> bytes:
    return ("\r\n".join(lines) + end).encode("latin-1")


def test_a_head_is_read_as_the_client_writes_it() -> None:
    query = urlencode({"stream": "1"})
    read = parse_head(
        head(
            f"POST /v1.41/containers/r/attach?{query} HTTP/1.1",
            "Host: docker",
            "Connection: Upgrade",
            "Upgrade: tcp",
            "Content-Length: 0",
        )
    )
    assert read == Head(
        method="POST",
        path="/v1.41/containers/r/attach",
        query={"stream": "1"},
        content_length=0,
        upgrades=True,
    )
    assert not takes_files(read)
    build = parse_head(head("POST /v1.41/build?t=x HTTP/1.1", "Content-Length: 5"))
    assert takes_files(build)


@pytest.mark.parametrize(
    "lines",
    [
        ("GET /info HTTP/1.0",),
        ("get /info HTTP/1.1",),
        ("GET http://docker/info HTTP/1.1 x",),
        ("PUT /info HTTP/1.1",),
        ("GET  /info HTTP/1.1",),
        ("POST /x HTTP/1.1", "Transfer-Encoding: chunked"),
        ("POST /x HTTP/1.1", "Content-Length: 1", "Transfer-Encoding: chunked"),
        ("POST /x HTTP/1.1", "Content-Length: 1", "Content-Length: 2"),
        ("POST /x HTTP/1.1", "Content-Length: +1"),
        ("POST /x HTTP/1.1", "Content-Length: 0x1"),
        ("POST /x HTTP/1.1", "Expect: 100-continue"),
        ("POST /x HTTP/1.1", "Content-Length : 1"),
        ("POST /x HTTP/1.1", " folded: 1"),
        ("POST /x?a=1&a=2 HTTP/1.1",),
        ("POST /x HTTP/1.1\nGET /info HTTP/1.1",),
    ],
)
def test_an_odd_head_is_refused(lines: tuple[str, ...]) -> None:
    with pytest.raises(RefusedError):
        parse_head(head(*lines))


@pytest.mark.parametrize("raw", [b"[]", b"{", b"\xff", b"1", b'"x"', b"[" * 100_000])
def test_a_body_that_is_no_object_is_refused(raw: bytes) -> None:
    with pytest.raises(RefusedError):
        parse_body(raw)
    assert parse_body(b"") == parse_body(b" ") == {}
