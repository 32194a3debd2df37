"""A whole registry in this process, behind the production interface, that can misbehave on demand.

::

    with FaultyRegistry() as registry:
        registry.add("demo/x", "1", image)
        registry.fault("/blobs/", cut(at=0.5), times=1)      # the first blob request breaks half way
        ... pull(f"{registry.host}/demo/x:1") ...
        assert registry.count("GET", image.layer_digests[0]) == 2

Faults are functions from an ``Answer`` to an ``Answer``; the server sends whatever comes out,
byte by byte.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple, Self
from urllib.parse import parse_qs, urlsplit

from images import Image, digest_of


class Answer(NamedTuple):
    """What the server will send.

    Attributes:
        cut_at: reset the connection after so many bytes of the body (a float: that share of it).
        stall_at: send nothing more after so many bytes, and keep the connection open.
        rate: bytes per second, 0 for as fast as possible.
        close: end the connection in good order after the body.
    """

    status: int
    headers: dict[str, str]
    body: bytes = b""
    cut_at: float | None = None
    stall_at: int | None = None
    rate: float = 0
    close: bool = False


Fault = Callable[[Answer], Answer]


class Request(NamedTuple):
    """What a client sent."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


# -- faults ----------------------------------------------------------------------------------------


def cut(at: float) -> Fault:
    """Reset the connection after a share (float) or number (int) of the body's bytes."""
    return lambda answer: answer._replace(cut_at=at)


def drop() -> Fault:
    """Reset the connection before any answer."""
    return lambda answer: answer._replace(cut_at=-1)


def stall(at: int) -> Fault:
    """Go silent after so many bytes of the body."""
    return lambda answer: answer._replace(stall_at=at)


def trickle(rate: float) -> Fault:
    """Send the body at so many bytes per second."""
    return lambda answer: answer._replace(rate=rate)


def status(code: int, body: bytes = b"", **headers: str) -> Fault:
    """Answer with another status; underscores in header names become dashes."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _: Answer(code, {"Content-Type": "application/json", **sent}, body)


def said(code: int, name: str, message: str, **headers: str) -> Fault:
    """Answer with an error in the distribution's form."""
    return status(code, error_body(name, message), **headers)


def html() -> Fault:
    """Answer 200 with a captive portal's page."""
    page = b"<html><body>Please log in to the network</body></html>"
    return lambda _: Answer(200, {"Content-Type": "text/html; charset=utf-8"}, page)


def short(count: int, *, length: int | None = None) -> Fault:
    """Answer 200 with fewer bytes, in good order; length overrides Content-Length."""

    def act(answer: Answer) -> Answer:
        told = {"Content-Length": str(length)} if length is not None else {}
        return answer._replace(
            body=answer.body[:count], headers={**answer.headers, **told}, close=True
        )

    return act


def other_body(body: bytes) -> Fault:
    """Answer with other content."""
    return lambda answer: answer._replace(body=body)


def header(name: str, value: str | None) -> Fault:
    """Answer with one header changed, or without it."""

    def act(answer: Answer) -> Answer:
        headers = {key: item for key, item in answer.headers.items() if key.lower() != name.lower()}
        return answer._replace(headers=headers if value is None else {**headers, name: value})

    return act


def redirect(url: str, code: int = 307) -> Fault:
    """Send the client elsewhere."""
    return lambda _: Answer(code, {"Location": url})


def unlike_range(whole: bytes) -> Fault:
    """Answer a range request with 200 and everything."""
    return lambda answer: Answer(200, {"Content-Type": "application/octet-stream"}, whole)


# -- the server ------------------------------------------------------------------------------------


class _Planned:
    def __init__(self, part: str, fault: Fault, times: int, method: str | None, skip: int) -> None:
        self.part, self.fault, self.left, self.method, self.skip = part, fault, times, method, skip


class FaultyRegistry:
    """The server; a context manager. All state may be changed while it runs."""

    def __init__(self, *, tls: tuple[str, str] | None = None) -> None:
        self.manifests: dict[tuple[str, str], tuple[str, bytes]] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[Request] = []
        self.login: tuple[str, str] | None = None
        self.scheme = "none"  # or "basic", "bearer"
        self.realm: str | None = None  # instead of our own
        self.token_uses = -1  # requests that a token is good for
        self.tokens: dict[str, int] = {}
        self.uploads: dict[str, bytes] = {}
        self.mounts = True
        self.told_digest = True
        self._faults: list[_Planned] = []
        self._lock = threading.Lock()
        self.stopping = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.registry = self
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self._server.tls = context
        self.port = self._server.server_address[1]
        self.host = f"127.0.0.1:{self.port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def add(self, repository: str, tag: str, image: Image) -> str:
        for child in image.children:
            self.add(repository, child.digest, child)
        for name in (tag, image.digest):
            self.manifests[repository, name] = image.media_type, image.manifest
        self.blobs.update(image.blobs)
        return f"{self.host}/{repository}:{tag}"

    def fault(
        self, part: str, fault: Fault, *, times: int = -1, method: str | None = None, skip: int = 0
    ) -> None:
        """Apply a fault to the next requests (after the first ``skip``) whose path holds part."""
        with self._lock:
            self._faults.append(_Planned(part, fault, times, method, skip))

    def heal(self) -> None:
        with self._lock:
            self._faults.clear()

    def count(self, method: str, part: str) -> int:
        return sum(r.method == method and part in r.path for r in list(self.requests))

    # -- used by the handler

    def spoil(self, request: Request, answer: Answer) -> Answer:
        with self._lock:
            for planned in self._faults:
                if planned.part not in request.path or planned.left == 0:
                    continue
                if planned.method not in {None, request.method}:
                    continue
                if planned.skip > 0:
                    planned.skip -= 1
                    continue
                planned.left -= 1
                answer = planned.fault(answer)
        return answer

    def answer(self, request: Request) -> Answer:
        path = urlsplit(request.path).path
        if path == "/token":
            return self._token(request)
        refused = self._refused(request)
        if refused is not None:
            return refused
        if path == "/v2/":
            return Answer(200, {})
        parts = path.split("/")
        if len(parts) < 5 or parts[1] != "v2":
            return Answer(404, {"Content-Type": "text/plain"}, b"404 page not found")
        if request.method in {"POST", "PATCH", "PUT"} or parts[-2] == "uploads":
            return self._upload(request, parts)
        repository, kind, name = "/".join(parts[2:-2]), parts[-2], parts[-1]
        if kind == "manifests":
            return self._manifest(repository, name)
        return self._blob(name, request.headers.get("range"), request.headers.get("if-range"))

    def _upload(self, request: Request, parts: list[str]) -> Answer:
        """The write half: sessions by number, each piece only where the one before ended."""
        repository = "/".join(parts[2 : parts.index("blobs")]) if "blobs" in parts else ""
        if parts[-2] == "manifests":
            kind = request.headers.get("content-type", "")
            for name in (parts[-1], digest_of(request.body)):
                self.manifests["/".join(parts[2:-2]), name] = (kind, request.body)
            return Answer(201, {})
        query = parse_qs(urlsplit(request.path).query)
        if request.method == "POST":
            if query.get("mount", [""])[0] in self.blobs and self.mounts:
                return Answer(201, {})
            number = str(len(self.uploads))
            self.uploads[number] = b""
            return Answer(202, {"Location": f"/v2/{repository}/blobs/uploads/{number}?_state=x"})
        number = parts[-1]
        headers = {"Location": f"/v2/{repository}/blobs/uploads/{number}?_state=y"}
        if request.method == "PATCH":
            first = int(request.headers["content-range"].partition("-")[0])
            if first != len(self.uploads[number]):
                return Answer(416, headers)
            self.uploads[number] += request.body
        if request.method == "PUT":
            (digest,) = query["digest"]
            if digest_of(self.uploads[number]) != digest:
                return said(400, "DIGEST_INVALID", "digest did not match")(Answer(400, {}))
            self.blobs[digest] = self.uploads.pop(number)
            return Answer(201, {})
        headers["Range"] = f"0-{max(0, len(self.uploads[number]) - 1)}"
        return Answer(202 if request.method == "PATCH" else 204, headers)

    def _manifest(self, repository: str, name: str) -> Answer:
        if (repository, name) not in self.manifests:
            known = any(repository == other for other, _ in self.manifests)
            words = ("MANIFEST_UNKNOWN", "manifest unknown")
            if not known:
                words = ("NAME_UNKNOWN", "repository name not known to registry")
            return said(404, *words)(Answer(404, {}))
        media_type, data = self.manifests[repository, name]
        headers = {"Content-Type": media_type}
        if self.told_digest:
            headers["Docker-Content-Digest"] = digest_of(data)
        return Answer(200, headers, data)

    def _blob(self, digest: str, span: str | None, if_range: str | None) -> Answer:
        if digest not in self.blobs:
            return said(404, "BLOB_UNKNOWN", "blob unknown to registry")(Answer(404, {}))
        data = self.blobs[digest]
        etag = f'"{digest}"'
        headers = {
            "Content-Type": "application/octet-stream",
            "ETag": etag,
            "Accept-Ranges": "bytes",
        }
        if span and if_range in {None, etag}:
            first = int(span.removeprefix("bytes=").partition("-")[0])
            if first >= len(data):
                return Answer(416, {"Content-Range": f"bytes */{len(data)}"})
            headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
            return Answer(206, headers, data[first:])
        return Answer(200, headers, data)

    def _refused(self, request: Request) -> Answer | None:
        if self.scheme == "none":
            return None
        sent = request.headers.get("authorization", "")
        if self.scheme == "basic":
            assert self.login is not None
            if sent == _basic(*self.login):
                return None
            offer = 'Basic realm="tests"'
        else:
            with self._lock:
                left = self.tokens.get(sent.removeprefix("Bearer "), 0)
                if left:
                    self.tokens[sent.removeprefix("Bearer ")] = left - 1
                    return None
            realm = f"http://{self.host}/token" if self.realm is None else self.realm
            offer = f'Bearer realm="{realm}",service="tests",scope="repository:x:pull"'
        return said(401, "UNAUTHORIZED", "authentication required", WWW_Authenticate=offer)(
            Answer(401, {})
        )

    def _token(self, request: Request) -> Answer:
        if self.login is not None:
            form = parse_qs(request.body.decode())
            refreshed = form.get("refresh_token") == [self.login[1]]
            if not refreshed and request.headers.get("authorization") != _basic(*self.login):
                return said(401, "UNAUTHORIZED", "incorrect username or password")(Answer(401, {}))
        with self._lock:
            token = f"token-{len(self.tokens)}"
            self.tokens[token] = self.token_uses
        body = json.dumps({"token": token, "expires_in": 60}).encode()
        return Answer(200, {"Content-Type": "application/json"}, body)


def error_body(code: str, message: str) -> bytes:
    return json.dumps({"errors": [{"code": code, "message": message, "detail": None}]}).encode()


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    registry: FaultyRegistry
    tls: ssl.SSLContext | None = None

    def finish_request(self, request: socket.socket, client_address: object) -> None:
        if self.tls is not None:
            request = self.tls.wrap_socket(request, server_side=True)
        super().finish_request(request, client_address)  # type: ignore[arg-type]

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: broken connections are what this server is for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    timeout = 60

    def log_message(self, *_: object) -> None:
        """Keep the test output quiet."""

    def _serve(self) -> None:
        registry = self.server.registry
        length = int(self.headers.get("Content-Length") or 0)
        sent = {key.lower(): value for key, value in self.headers.items()}
        request = Request(self.command, self.path, sent, self.rfile.read(length))
        registry.requests.append(request)
        answer = registry.spoil(request, registry.answer(request))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError, ssl.SSLError):
            self._send(answer)

    do_GET = do_HEAD = do_POST = do_PATCH = do_PUT = _serve  # noqa: N815

    def _send(self, answer: Answer) -> None:
        if answer.cut_at is not None and answer.cut_at < 0:
            self._reset()
            return
        self.send_response(answer.status)
        headers = {"Content-Length": str(len(answer.body)), **answer.headers}
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        self._send_body(answer)
        if answer.close:
            self.close_connection = True

    def _send_body(self, answer: Answer) -> None:
        body = answer.body
        if answer.cut_at is not None:
            at = answer.cut_at if isinstance(answer.cut_at, int) else int(len(body) * answer.cut_at)
            self.wfile.write(body[:at])
            self.wfile.flush()
            time.sleep(0.05)  # a reset throws away what the peer has not read yet; let it read
            self._reset()
        elif answer.stall_at is not None:
            self.wfile.write(body[: answer.stall_at])
            self.wfile.flush()
            self.server.registry.stopping.wait(60)
            self.close_connection = True
        elif answer.rate:
            step = max(1, int(answer.rate / 20))
            for start in range(0, len(body), step):
                self.wfile.write(body[start : start + step])
                self.wfile.flush()
                if self.server.registry.stopping.wait(step / answer.rate):
                    return
        else:
            self.wfile.write(body)

    def _reset(self) -> None:
        # Closed with nothing lingering, a socket sends RST; shutdown() would send FIN first.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        os.close(self.connection.detach())
