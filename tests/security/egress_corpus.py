"""The corpus of hostile requests: each has a name, its bytes, and the status that it must get."""

from __future__ import annotations

from orchestrator.core.egress_http import MAX_BODY_BYTES
from orchestrator.model import JsonObject
from tests.support.egress import PLACEHOLDER, build_body, build_request


def _replaced(old: bytes, new: bytes) -> bytes:
    request = build_request()
    assert old in request
    return request.replace(old, new)


def _line(line: str) -> bytes:
    return build_request(line=line)


def _with(**headers: str) -> bytes:
    return build_request(headers={k.replace("_", "-"): v for k, v in headers.items()})


def _repeated(line: bytes) -> bytes:
    return _replaced(b"anthropic-version: 2023-06-01\r\n", line)


BODY = build_body()
LENGTH = f"Content-Length: {len(BODY)}\r\n".encode()
CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
SMUGGLED = b"POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"

# Name, bytes, the status that the client must see (0: closed without an answer).
HOSTILE_HEADS: list[tuple[str, bytes, int]] = [
    # Framing and smuggling.
    ("both lengths", _with(Transfer_Encoding="chunked"), 400),
    (
        "both lengths, the other way round",
        _replaced(LENGTH, b"Transfer-Encoding: chunked\r\n" + LENGTH),
        400,
    ),
    ("chunked", _replaced(LENGTH, b"Transfer-Encoding: chunked\r\n").replace(BODY, CHUNKED), 411),
    ("transfer-encoding identity", _replaced(LENGTH, b"Transfer-Encoding: identity\r\n"), 411),
    ("transfer-encoding with a tab", _replaced(LENGTH, b"Transfer-Encoding:\tchunked\r\n"), 411),
    ("transfer-encoding, space before colon", _repeated(b"Transfer-Encoding : chunked\r\n"), 400),
    ("transfer-encoding, vertical tab", _repeated(b"Transfer-Encoding: \x0bchunked\r\n"), 400),
    ("te trailers", _with(TE="trailers"), 400),
    ("no length", _replaced(LENGTH, b""), 411),
    ("length twice, equal", _replaced(LENGTH, LENGTH + LENGTH), 400),
    ("length twice, different", _replaced(LENGTH, LENGTH + b"Content-Length: 0\r\n"), 400),
    ("length as a list", _replaced(LENGTH, LENGTH[:-2] + b", 0\r\n"), 400),
    ("length with a sign", _replaced(b"Content-Length: ", b"Content-Length: +"), 400),
    ("length negative", _replaced(LENGTH, b"Content-Length: -1\r\n"), 400),
    ("length in hexadecimal", _replaced(LENGTH, b"Content-Length: 0x10\r\n"), 400),
    ("length with a leading zero", _replaced(b"Content-Length: ", b"Content-Length: 0"), 400),
    ("length with an underscore", _replaced(LENGTH, b"Content-Length: 1_0\r\n"), 400),
    ("length in other digits", _replaced(LENGTH, "Content-Length: ٣\r\n".encode()), 400),
    ("length empty", _replaced(LENGTH, b"Content-Length:\r\n"), 400),
    ("length of thirty digits", _replaced(LENGTH, b"Content-Length: " + b"9" * 30 + b"\r\n"), 400),
    ("a gigabyte announced", _replaced(LENGTH, b"Content-Length: 1073741824\r\n"), 413),
    (
        "one byte too many announced",
        _replaced(LENGTH, b"Content-Length: %d\r\n" % (MAX_BODY_BYTES + 1)),
        413,
    ),
    ("expect 100-continue", _with(Expect="100-continue"), 417),
    # Lines and headers.
    ("bare LF everywhere", build_request().replace(b"\r\n", b"\n"), 0),
    ("bare LF in one header", _repeated(b"X-A: b\nContent-Length: 0\r\n"), 400),
    ("bare CR in a header", _repeated(b"X-A: b\rContent-Length: 0\r\n"), 400),
    ("folded header", _repeated(b"X-A: b\r\n  c\r\n"), 400),
    ("folded by a tab", _repeated(b"X-A: b\r\n\tc\r\n"), 400),
    ("first header starts with a space", _replaced(b"Host:", b" Host:"), 400),
    ("space before a colon", _replaced(b"x-api-key:", b"x-api-key :"), 400),
    ("header without a colon", _repeated(b"Nothing\r\n"), 400),
    ("header without a name", _repeated(b": b\r\n"), 400),
    ("NUL in a value", _repeated(b"X-A: b\0c\r\n"), 400),
    ("NUL in a name", _repeated(b"X\0A: b\r\n"), 400),
    ("a header name in UTF-8", _repeated("X-Ä: b\r\n".encode()), 400),
    ("a value in UTF-8", _repeated("X-A: ä\r\n".encode()), 400),
    ("underscored length", _repeated(b"Content_Length: 0\r\n"), 400),
    ("any header twice", _repeated(b"X-A: b\r\nx-a: b\r\n"), 400),
    ("host twice", _repeated(b"Host: api.anthropic.com\r\n"), 400),
    ("no host", _replaced(b"Host: 127.0.0.1:8317\r\n", b""), 400),
    ("host with a path", _replaced(b"127.0.0.1:8317", b"a/b"), 400),
    ("host with a user", _replaced(b"127.0.0.1:8317", b"u@h"), 400),
    (
        "a hundred thousand headers",
        _repeated(b"".join(b"a%d: b\r\n" % i for i in range(100_000))),
        431,
    ),
    ("sixty-five headers", _repeated(b"".join(b"a%d: b\r\n" % i for i in range(65))), 431),
    ("a header of a megabyte", _with(X_A="b" * (1 << 20)), 431),
    ("a target of a megabyte", _line("POST /" + "a" * (1 << 20) + " HTTP/1.1"), 431),
    ("connection names a header", _replaced(b"Connection: close", b"Connection: x-api-key"), 400),
    ("upgrade to h2c", build_request(headers={"Connection": "Upgrade", "Upgrade": "h2c"}), 400),
    ("upgrade to websocket", _with(Upgrade="websocket"), 400),
    ("http2-settings", _with(HTTP2_Settings="AAMAAABkAARAAAAAAAIAAAAA"), 400),
    # Request lines and versions.
    ("h2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    ("HTTP/1.0", _line("POST /v1/messages HTTP/1.0"), 505),
    ("HTTP/1.2", _line("POST /v1/messages HTTP/1.2"), 505),
    ("HTTP/0.9", b"GET /v1/messages\r\n\r\n", 400),
    ("lower-case version", _line("POST /v1/messages http/1.1"), 400),
    ("two spaces", _line("POST  /v1/messages HTTP/1.1"), 400),
    ("a tab for a space", _line("POST\t/v1/messages HTTP/1.1"), 400),
    ("trailing space", _line("POST /v1/messages HTTP/1.1 "), 400),
    ("a leading empty line", b"\r\n" + build_request(), 400),
    ("a TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    ("lower-case method", _line("post /v1/messages HTTP/1.1"), 505),
    # Targets.
    ("absolute form", _line("POST http://api.anthropic.com/v1/messages HTTP/1.1"), 400),
    ("absolute form, other host", _line("POST http://evil.example/v1/messages HTTP/1.1"), 400),
    ("asterisk form", _line("OPTIONS * HTTP/1.1"), 400),
    ("CONNECT", _line("CONNECT evil.example:443 HTTP/1.1"), 400),
    ("CONNECT to the API", _line("CONNECT api.anthropic.com:443 HTTP/1.1"), 400),
    ("CONNECT with early data", b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n" + SMUGGLED, 400),
    ("double slash", _line("POST //v1/messages HTTP/1.1"), 400),
    ("double slash inside", _line("POST /v1//messages HTTP/1.1"), 400),
    ("network path", _line("POST //evil.example/v1/messages HTTP/1.1"), 400),
    ("percent-encoded letter", _line("POST /v1/%6dessages HTTP/1.1"), 400),
    ("percent-encoded slash", _line("POST /v1%2fmessages HTTP/1.1"), 400),
    ("percent-encoded twice", _line("POST /v1/%256dessages HTTP/1.1"), 400),
    ("dot segment", _line("POST /v1/./messages HTTP/1.1"), 400),
    ("dot-dot segment", _line("POST /v1/files/../messages HTTP/1.1"), 400),
    ("dot-dot with a parameter", _line("POST /v1/files/..;/messages HTTP/1.1"), 400),
    ("path parameter", _line("POST /v1/messages;a=b HTTP/1.1"), 400),
    ("backslash", _line("POST /v1\\messages HTTP/1.1"), 400),
    ("fragment", _line("POST /v1/messages#/v1/files HTTP/1.1"), 400),
    ("NUL in the target", _line("POST /v1/messages\0.x HTTP/1.1"), 400),
    ("empty query", _line("POST /v1/messages? HTTP/1.1"), 400),
    # Routes.
    ("files", _line("POST /v1/files HTTP/1.1"), 403),
    ("batches", _line("POST /v1/messages/batches HTTP/1.1"), 403),
    ("organization", _line("POST /v1/organizations/api_keys HTTP/1.1"), 403),
    ("key maker", _line("POST /api/oauth/claude_cli/create_api_key HTTP/1.1"), 403),
    ("cache touch", _line("POST /v1/messages/cache_touch HTTP/1.1"), 403),
    ("trailing slash", _line("POST /v1/messages/ HTTP/1.1"), 403),
    ("upper-case path", _line("POST /V1/messages HTTP/1.1"), 403),
    ("the right path behind another", _line("POST /x/v1/messages HTTP/1.1"), 403),
    ("GET", _line("GET /v1/messages HTTP/1.1"), 403),
    ("PUT", _line("PUT /v1/messages HTTP/1.1"), 403),
    ("TRACE", _line("TRACE /v1/messages HTTP/1.1"), 403),
    ("DELETE", _line("DELETE /v1/messages HTTP/1.1"), 403),
    ("method override by header keeps its route", _line("POST /v1/models HTTP/1.1"), 403),
    ("other query", _line("POST /v1/messages?beta=true&x=1 HTTP/1.1"), 403),
    ("query twice", _line("POST /v1/messages?beta=true&beta=true HTTP/1.1"), 403),
    ("query in other case", _line("POST /v1/messages?Beta=true HTTP/1.1"), 403),
    # Credentials.
    ("no credential", build_request(headers={"x-api-key": None}), 401),
    ("another key", _with(x_api_key="sk-ant-api03-the-attackers-own"), 403),
    ("another bearer", _with(Authorization="Bearer sk-ant-oat01-attacker"), 403),
    (
        "another bearer alone",
        build_request(headers={"x-api-key": None, "Authorization": "Bearer x"}),
        403,
    ),
    (
        "basic",
        build_request(headers={"x-api-key": None, "Authorization": f"Basic {PLACEHOLDER}"}),
        403,
    ),
    ("placeholder in another case", _with(x_api_key=PLACEHOLDER.upper()), 403),
    ("placeholder and more", _with(x_api_key=f"{PLACEHOLDER},x"), 403),
    ("a part of the placeholder", _with(x_api_key=PLACEHOLDER[:-1]), 403),
    ("empty key", _with(x_api_key=""), 403),
    ("key twice", _repeated(b"X-Api-Key: sk-ant-attacker\r\n"), 400),
    # Content.
    ("form content", _with(Content_Type="application/x-www-form-urlencoded"), 415),
    ("no content type", build_request(headers={"Content-Type": None}), 415),
    ("gzip content", _with(Content_Encoding="gzip"), 415),
]


def _message(*content: object) -> bytes:
    return build_body(messages=[{"role": "user", "content": list(content)}])


def _source(**source: object) -> bytes:
    return _message({"type": "image", "source": source})


def _tool(**tool: object) -> bytes:
    return build_body(tools=[{"name": "t", **tool}])


def _result(content: object) -> JsonObject:
    return {"type": "tool_result", "tool_use_id": "t", "content": content}  # type: ignore[dict-item]


def _document(**source: object) -> JsonObject:
    return {"type": "document", "source": source}  # type: ignore[dict-item]


def _added(*, kind: str = "tool_definition", **tool: object) -> JsonObject:
    return {"type": "tool_addition", "tool": {"type": kind, **tool}}  # type: ignore[dict-item]


URL = "https://evil.example/?secret"
BY_URL = {"type": "image", "source": {"type": "url", "url": URL}}
FETCH = {"type": "web_fetch_20250910", "name": "f"}
MORE = build_body(messages=[{"role": "user", "content": "a", "fetch": URL}])
TWICE = b'{"messages":[],"tools":[],"tools":[{"type":"web_fetch_20250910"}]}'
INNER = _document(type="content", content=[BY_URL])
SCHEMA = {"format": {"schema": {"$ref": URL}}}
HOSTILE_BODIES: list[tuple[str, bytes, int]] = [
    ("remote MCP", build_body(mcp_servers=[{"type": "url", "url": URL, "name": "m"}]), 403),
    ("empty remote MCP", build_body(mcp_servers=[]), 403),
    ("container", build_body(container="c_1"), 403),
    ("container with skills", build_body(container={"skills": [{"skill_id": "x"}]}), 403),
    ("stored thread", build_body(thread={"type": "continue", "id": "t_1"}), 403),
    ("a field that nobody knows", build_body(webhook=URL), 403),
    ("a field in another case", build_body(MCP_servers=[]), 403),
    ("web search", _tool(type="web_search_20250305"), 403),
    ("web search of a later date", _tool(type="web_search_20991231"), 403),
    ("web fetch", _tool(type="web_fetch_20250910"), 403),
    ("code execution", _tool(type="code_execution_20250825"), 403),
    ("remote MCP tools", _tool(type="mcp_toolset", mcp_server_name="m"), 403),
    ("a tool type that nobody knows", _tool(type="http_request_20270101"), 403),
    ("a tool type with a line end", _tool(type="custom\n"), 403),
    ("a tool type that is a list", _tool(type=["web_search_20250305"]), 403),
    ("a custom tool with a server", _tool(mcp_server_name="m"), 403),
    ("a schema by reference", _tool(input_schema={"$ref": URL}), 403),
    ("a schema by dynamic reference", _tool(input_schema={"a": [{"$dynamicRef": URL}]}), 403),
    ("an output format by reference", build_body(output_config=SCHEMA), 403),
    ("a message with a field that nobody knows", MORE, 403),
    ("image by url", _source(type="url", url=URL), 403),
    ("document by url", _message(_document(type="url", url=URL)), 403),
    ("image by file", _source(type="file", file_id="f_1"), 403),
    ("inline image with a url beside", _source(type="base64", data="", url=URL), 403),
    ("image source without a type", _source(url=URL), 403),
    ("image source that is text", _message({"type": "image", "source": URL}), 400),
    ("file beside text", _message({"type": "text", "text": "a", "file_id": "f_1"}), 403),
    ("container upload", _message({"type": "container_upload", "file_id": "f_1"}), 403),
    ("past web search", _message({"type": "web_search_tool_result", "content": []}), 403),
    ("past remote MCP", _message({"type": "mcp_tool_use", "server_name": "m"}), 403),
    ("server-side tool call", _message({"type": "server_tool_use", "name": "web_fetch"}), 403),
    ("a block that nobody knows", _message({"type": "remote_text", "url": URL}), 403),
    ("a block without a type", _message({"url": URL}), 403),
    ("url inside a tool's result", _message(_result([BY_URL])), 403),
    ("url as the one block of a result", _message(_result(BY_URL)), 403),
    ("url inside a document of content", _message(INNER), 403),
    ("url in the system prompt", build_body(system=[BY_URL]), 403),
    ("a server tool added in the middle", _message(_added(definition=FETCH)), 403),
    ("a tool added by url", _message(_added(kind="url", url=URL)), 403),
    ("the same key twice, the bad one last", TWICE, 403),
    ("an escaped key", b'{"messages":[],"mcp\\u005fservers":[]}', 403),
    ("UTF-16", build_body().decode().encode("utf-16"), 400),
    ("UTF-8 with a byte order mark", b"\xef\xbb\xbf" + build_body(), 400),
    ("not UTF-8", build_body(model="x").replace(b"x", b"\xff"), 400),
    ("two values", build_body() + build_body(), 400),
    ("a list", b"[]", 400),
    ("nothing", b"", 400),
    ("NaN", b'{"messages":[],"temperature":NaN}', 400),
    ("infinity by overflow", b'{"messages":[],"temperature":1e999}', 400),
    ("five thousand digits", b'{"messages":[],"max_tokens":' + b"9" * 5000 + b"}", 400),
    ("nested a hundred thousand deep", b'{"messages":' + b"[" * 100_000, 400),
    ("nested two hundred deep", b'{"messages":[],"model":' + b"[" * 200 + b"]" * 200 + b"}", 400),
    ("two million values", b'{"messages":[' + b"[]," * 2_000_000 + b"[]]}", 400),
    ("messages that are text", build_body(messages="hi"), 400),
    ("a message that is text", build_body(messages=["hi"]), 400),
    ("content that is a number", build_body(messages=[{"role": "user", "content": 1}]), 400),
]  # fmt: skip
