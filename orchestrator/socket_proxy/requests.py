"""What may be asked of the engine, and in which words it goes on. Pure.

Rules: what is not named here is refused; nothing of a request goes on as bytes; a query has only
the parameters that are named, and filters are ours.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field, replace
from typing import Final
from urllib.parse import parse_qsl, urlencode

from orchestrator.core.egress_http import END_OF_HEAD, Denial, parse_headers
from orchestrator.core.sandbox import LABEL_INSTALLATION
from orchestrator.model import InstallationId, JsonObject
from orchestrator.runners.docker_backend import TOP_ARGUMENTS
from orchestrator.runners.image import IMAGE_NAME
from orchestrator.socket_proxy.container import RefusedError, parse_installation

MAX_JSON_BYTES: Final = 1 << 20
"""Of a request that is not a build's files; a runner's is some 30 KB."""

_REQUEST_LINE: Final = re.compile(rb"(GET|HEAD|POST|DELETE) ([\x21-\x7e]{1,8192}) HTTP/1\.1")
# From Docker 20.10 on; before 1.24 a start could change what a container may do.
_VERSION: Final = re.compile(r"/v1\.(4[1-9]|[5-9][0-9])(/.*)")
_LENGTH: Final = re.compile(r"0|[1-9][0-9]{0,11}")
_REFERENCE: Final = r"([A-Za-z0-9][A-Za-z0-9_.-]{0,127})"
_TAG: Final = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_IMAGE: Final = r"([A-Za-z0-9][A-Za-z0-9_.:/@-]{0,255})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A request's first lines."""

    method: str
    path: str
    query: Mapping[str, str]
    content_length: int
    upgrades: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request, with its body where that is JSON."""

    head: Head
    body: JsonObject = field(default_factory=dict)

    @property
    def query(self) -> Mapping[str, str]:
        """Its parameters."""
        return self.head.query


@dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """What goes to the engine once its subject is known to be the installation's own."""

    path: str
    """With {id} where the subject's id goes."""
    method: str = ""
    query: Mapping[str, str] = field(default_factory=dict)
    body: JsonObject | None = None
    container: str = ""
    """Its name or id, as asked."""
    exec_id: str = ""
    starts: bool = False
    """Whether the container's mounts are to be looked at once more."""
    image: str = ""
    """A reference, as asked."""
    creates: str = ""
    """The name that the container to be made has; its body has to be judged."""
    labels: str = ""
    """Which filter is to be of the installation: "containers" or "events"; "" none."""
    builds: bool = False
    """Whether its body is files, which have to be judged: socket_proxy/build.py."""
    pulls: bool = False
    """Whether what is pulled has to be judged, there as well."""
    upgrades: bool = False

    @property
    def target(self) -> str:
        """Path and query, in the version that the request had."""
        return f"{self.path}?{urlencode(self.query)}" if self.query else self.path


def parse_head(raw: bytes) -> Head:
    """The head of a request, up to and with its empty line.

    Raises:
        RefusedError: it is not as the orchestrator's own client writes it.
    """
    first, *lines = raw.removesuffix(END_OF_HEAD).split(b"\r\n")
    line = _REQUEST_LINE.fullmatch(first)
    headers = parse_headers(lines)
    if line is None or isinstance(headers, Denial):
        msg = "the request could not be read"
        raise RefusedError(msg)
    if "transfer-encoding" in headers or "expect" in headers:
        msg = "a body comes with Content-Length, in one piece"
        raise RefusedError(msg)
    length = headers.get("content-length", "0")
    if _LENGTH.fullmatch(length) is None:
        msg = "Content-Length is no plain number"
        raise RefusedError(msg)
    path, _, query = line[2].decode("ascii").partition("?")
    pairs = parse_qsl(query, keep_blank_values=True)
    if len(dict(pairs)) != len(pairs):
        msg = "a parameter is there twice"
        raise RefusedError(msg)
    return Head(
        method=line[1].decode("ascii"),
        path=path,
        query=dict(pairs),
        content_length=int(length),
        upgrades=headers.get("upgrade", "").lower() == "tcp",
    )


def parse_body(raw: bytes) -> JsonObject:
    """A JSON object; nothing is an empty one.

    Raises:
        RefusedError: it is something else.
    """
    try:
        body = json.loads(raw) if raw.strip() else {}
    except (ValueError, RecursionError) as e:
        msg = "the body is no JSON"
        raise RefusedError(msg) from e
    if not isinstance(body, dict):
        msg = "the body is no JSON object"
        raise RefusedError(msg)
    return body


def takes_files(head: Head) -> bool:
    """Whether its body is a build's files, which are not read here."""
    return head.method == "POST" and _split_version(head.path)[1] == "/build"


def judge(asked: Asked) -> Passed:
    """What of it goes on.

    Raises:
        RefusedError: nothing.
    """
    head = asked.head
    version, path = _split_version(head.path)
    for method, pattern, answer in _ROUTES:
        match = pattern.fullmatch(path)
        if method == head.method and match is not None and ".." not in path:
            passed = answer(asked, *match.groups())
            if passed.upgrades and not head.upgrades:
                msg = "a stream is asked for with Upgrade: tcp"
                raise RefusedError(msg)
            return replace(passed, method=head.method, path=version + passed.path)
    msg = f"{head.method} {path[:100]} is not passed on"
    raise RefusedError(msg)


def add_label(filters: str, installation: str, kind: str) -> str:
    """Filters of a list, narrowed to the installation. `kind` as in `Passed.labels`.

    Raises:
        RefusedError: they have another form.
    """
    try:
        given = json.loads(filters or "{}")
        wanted = {name: [_word(word) for word in words] for name, words in given.items()}
    except (ValueError, TypeError, AttributeError, RecursionError) as e:
        msg = "the filters have another form"
        raise RefusedError(msg) from e
    _check_names(wanted, {"label"} | ({"type", "event"} if kind == "events" else set()))
    ours = f"{LABEL_INSTALLATION}={installation}"
    if kind == "events":
        wanted["type"] = ["container"]
    wanted["label"] = sorted({*wanted.get("label", ()), ours})
    return json.dumps(wanted)


def find_installation(filters: str) -> InstallationId | None:
    """The installation that a list is asked of; None: all."""
    try:
        labels = json.loads(filters or "{}").get("label", [])
        named = [label for label in labels if label.startswith(f"{LABEL_INSTALLATION}=")]
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
    return parse_installation(named[0].partition("=")[2]) if len(named) == 1 else None


def _split_version(path: str) -> tuple[str, str]:
    match = _VERSION.fullmatch(path)
    if match is None:
        return "", path
    return f"/v1.{match[1]}", match[2]


def _only(asked: Asked, **allowed: str) -> dict[str, str]:
    """The query, of which each value matches the pattern of its name."""
    _check_names(asked.query, allowed)
    for name, value in asked.query.items():
        if re.fullmatch(allowed[name], value, re.DOTALL) is None:
            msg = f"the parameter {name} has another value than is passed on"
            raise RefusedError(msg)
    return dict(asked.query)


def _check_names(found: Mapping[str, object], allowed: Container[str]) -> None:
    for name in found:
        if name not in allowed:
            msg = f"the parameter {name[:50]!r} is not passed on"
            raise RefusedError(msg)


def _word(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _plain(asked: Asked, what: str) -> Passed:
    return Passed(path=f"/{what}", query=_only(asked))


def _events(asked: Asked) -> Passed:
    query = _only(asked, since=r"[0-9.]{1,32}", filters=".{0,4096}")
    return Passed(path="/events", query=query, labels="events")


def _list(asked: Asked) -> Passed:
    number = "-?[0-9]{1,9}"
    query = _only(asked, all=number, limit=number, size="0", trunc_cmd=number, filters=".{0,4096}")
    return Passed(path="/containers/json", query=query, labels="containers")


def _create(asked: Asked) -> Passed:
    query = _only(asked, name=_REFERENCE)
    if "name" not in query:
        msg = "a runner has a name"
        raise RefusedError(msg)
    return Passed(path="/containers/create", query=query, creates=query["name"])


def _look(asked: Asked, reference: str, what: str) -> Passed:
    return _of_container(reference, what, _only(asked))


def _top(asked: Asked, reference: str) -> Passed:
    # The engine hands them to the host's ps, which has ways to show every process's environment.
    return _of_container(reference, "top", _only(asked, ps_args=re.escape(TOP_ARGUMENTS)))


def _stats(asked: Asked, reference: str) -> Passed:
    query = _only(asked, stream="(?i:false|0)", **{"one-shot": "(?i:true|1)"})
    return _of_container(reference, "stats", {"stream": "false"} | query)


def _act(asked: Asked, reference: str, verb: str) -> Passed:
    # Without a body: long ago a start's could change the container.
    passed = _of_container(reference, verb, _only(asked, t="[0-9]{1,4}"))
    return replace(passed, starts=verb == "start")


def _attach(asked: Asked, reference: str) -> Passed:
    query = _only(asked, stream="1", stdin="1", stdout="1", stderr="1")
    return _of_container(reference, "attach", query, upgrades=True)


def _exec(asked: Asked, reference: str) -> Passed:
    """Programs as the room's own user, as `orchestrator audit isolation` runs them."""
    body = asked.body
    command = body.get("Cmd")
    if not isinstance(command, list) or not all(isinstance(word, str) for word in command):
        msg = "a command is a list of words"
        raise RefusedError(msg)
    made: JsonObject = {
        "User": "",
        "Privileged": False,
        "Tty": False,
        "AttachStdin": False,
        "AttachStdout": True,
        "AttachStderr": body.get("AttachStderr") is True,
        "Cmd": command,
        "WorkingDir": "/",
    }
    rest = {name: value for name, value in body.items() if name not in {"Container", "Env"}}
    if rest != made or body.get("Env") is not None:
        msg = "a program in a runner is its own user's, without privileges or variables"
        raise RefusedError(msg)
    return _of_container(reference, "exec", _only(asked), body=made)


def _exec_start(asked: Asked, exec_id: str) -> Passed:
    body: JsonObject = {"Detach": False, "Tty": False}
    if asked.body != body:
        msg = "a program in a runner is attached to"
        raise RefusedError(msg)
    return Passed(
        path="/exec/{id}/start",
        query=_only(asked),
        body=body,
        exec_id=exec_id,
        upgrades=True,
    )


def _exec_look(asked: Asked, exec_id: str) -> Passed:
    return Passed(path="/exec/{id}/json", query=_only(asked), exec_id=exec_id)


def _remove(asked: Asked, reference: str) -> Passed:
    switch = "(?i:true|false|0|1)"
    query = _only(asked, v=switch, force=switch, link="(?i:false|0)")
    return Passed(path="/containers/{id}", query=query, container=reference)


def _of_container(
    reference: str,
    what: str,
    query: Mapping[str, str],
    body: JsonObject | None = None,
    upgrades: bool = False,
) -> Passed:
    return Passed(
        path=f"/containers/{{id}}/{what}",
        query=query,
        container=reference,
        body=body,
        upgrades=upgrades,
    )


def _image_look(asked: Asked, reference: str) -> Passed:
    return Passed(path="/images/{id}/json", query=_only(asked), image=reference)


def _images(asked: Asked) -> Passed:
    switch = "(?i:true|false|0|1)"
    _only(asked, only_ids=switch, all=switch, filters=".{0,4096}")
    # The runners' alone: others' names are nobody's business here.
    query = {"filters": json.dumps({"reference": [IMAGE_NAME]})}
    return Passed(path="/images/json", query=query)


def _image_remove(asked: Asked, reference: str) -> Passed:
    # A name and a tag alone: with a digest behind them, engines differ in which image is meant.
    if re.fullmatch(f"{re.escape(IMAGE_NAME)}:{_TAG}", reference) is None:
        msg = f"only images {IMAGE_NAME}:… may be removed"
        raise RefusedError(msg)
    query = _only(asked, force="(?i:false|0)", noprune="(?i:true|false|0|1)")
    return Passed(path=f"/images/{reference}", query=query)


def _image_pull(asked: Asked) -> Passed:
    # Not fromSrc: a base that somebody made has programs of theirs, which a build runs as root.
    query = _only(asked, fromImage=_IMAGE, tag=_TAG)
    return Passed(path="/images/create", query=query, pulls=True)


def _build(asked: Asked) -> Passed:
    # Not among them: remote, networkmode, extrahosts, cgroupparent, outputs, version.
    query = _only(
        asked,
        t=f"{re.escape(IMAGE_NAME)}:{_TAG}",
        rm="1",
        forcerm="1",
        buildargs=".{0,16384}",
        labels=".{0,1024}",
    )
    return Passed(path="/build", query=query, builds=True)


_ROUTES: Final[tuple[tuple[str, re.Pattern[str], Callable[..., Passed]], ...]] = (
    ("GET", re.compile("/(version|info|_ping)"), _plain),
    ("HEAD", re.compile("/(_ping)"), _plain),
    ("GET", re.compile("/events"), _events),
    ("GET", re.compile("/containers/json"), _list),
    ("POST", re.compile("/containers/create"), _create),
    ("GET", re.compile(f"/containers/{_REFERENCE}/(json|changes)"), _look),
    ("GET", re.compile(f"/containers/{_REFERENCE}/top"), _top),
    ("GET", re.compile(f"/containers/{_REFERENCE}/stats"), _stats),
    ("POST", re.compile(f"/containers/{_REFERENCE}/(start|stop|unpause)"), _act),
    ("POST", re.compile(f"/containers/{_REFERENCE}/attach"), _attach),
    ("POST", re.compile(f"/containers/{_REFERENCE}/exec"), _exec),
    ("DELETE", re.compile(f"/containers/{_REFERENCE}"), _remove),
    ("POST", re.compile("/exec/([0-9a-f]{64})/start"), _exec_start),
    ("GET", re.compile("/exec/([0-9a-f]{64})/json"), _exec_look),
    ("GET", re.compile("/images/json"), _images),
    ("GET", re.compile(f"/images/{_IMAGE}/json"), _image_look),
    ("DELETE", re.compile(f"/images/{_IMAGE}"), _image_remove),
    ("POST", re.compile("/images/create"), _image_pull),
    ("POST", re.compile("/build"), _build),
)
