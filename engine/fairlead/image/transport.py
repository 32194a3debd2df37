"""One HTTP request at a time over urllib3: TLS, proxies, time-outs, and an end on demand.

Rules:
- TLS is always verified; a site's own authorities are read from the system's bundle,
  SSL_CERT_FILE, SSL_CERT_DIR and ``certs.d/HOST[:PORT]`` as podman and docker do. A failed
  verification is final, never retried around.
- No redirect is followed, nothing is retried and no body is decoded here: that is ``registry``'s
  to decide.
- Link-local addresses (169.254.0.0/16, fe80::/10: a cloud's metadata service) are never spoken
  to, whatever name leads there: a registry chooses the token server and the redirects.
- ``abort`` breaks every live connection, so that threads that wait for one end at once.

Source: urllib3 2 ``PoolManager``, ``HTTPConnection``; containers-certs.d(5); curl's rules for
proxy variables.
"""

from __future__ import annotations

import glob
import http.client
import ipaddress
import os
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import urljoin, urlsplit

import urllib3
from urllib3 import connection, connectionpool, exceptions

from fairlead import __version__, errors
from fairlead.image import headers

CERTIFICATE_DIRS = ("/etc/containers/certs.d", "/etc/docker/certs.d")
CHUNK = 256 << 10
MAX_DROPPED = 64 << 10
MAX_REDIRECTS = 5
PATIENCE = {429, 500, 502, 503, 504}
USER_AGENT = f"fairlead/{__version__}"


class Timing(NamedTuple):
    """How patient the client is; seconds, bytes per second, and a count."""

    tries: int = 5
    connect_s: float = 10.0
    idle_s: float = 30.0
    pause_s: float = 0.5
    max_pause_s: float = 60.0
    rate_window_s: float = 60.0
    least_rate: int = 1024


TIMING = Timing()


class Broken(Exception):  # noqa: N818 - no failure yet: it may be tried again
    """A request that may be tried again: it broke, or the server asked for patience."""

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_s = retry_after_s


class Transport:
    """The connections of one client; a context manager that leaves no socket behind."""

    def __init__(
        self, environ: Mapping[str, str], timing: Timing, unverified: frozenset[str] = frozenset()
    ) -> None:
        """Make one; of unverified, HOST[:PORT], any certificate is good."""
        self._environ = environ
        self._unverified = unverified
        self._timing = timing
        self._lock = threading.Lock()
        self._managers: dict[tuple[str, str, str], urllib3.PoolManager] = {}
        self._live: weakref.WeakSet[connection.HTTPConnection] = weakref.WeakSet()
        self.aborted = threading.Event()

    def request(
        self, method: str, url: str, sent: Mapping[str, str], body: bytes | None = None
    ) -> urllib3.BaseHTTPResponse:
        """Send one request; the response's body is not yet read.

        Raises:
            Broken: the host cannot be reached, or the connection failed on the way.
            errors.RegistryError: TLS verification failed, or the address is refused.
        """
        if self.aborted.is_set():
            raise Broken("the work was stopped")
        sent = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity", **sent}
        try:
            return self._manager(url).urlopen(
                method,
                url,
                body=body,
                headers=sent,
                redirect=False,
                retries=False,
                preload_content=False,
                decode_content=False,
                timeout=urllib3.Timeout(connect=self._timing.connect_s, read=self._timing.idle_s),
            )
        except exceptions.HTTPError as error:
            raise failure(error, url) from error
        except (OSError, ValueError) as error:
            # http.client lets a few through: an over-long header line, a malformed chunk size
            raise Broken(f"{_host(url)}: {error}") from error

    def chunks(self, response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
        """Yield what arrives as it arrives, so that a trickle is noticed.

        Raises:
            Broken: the connection failed, or too little came for too long.
        """
        timing = self._timing
        window_end, received = time.monotonic() + timing.rate_window_s, 0
        assert isinstance(response, urllib3.HTTPResponse)
        while True:
            try:
                data = response.read1(CHUNK)
            except (exceptions.HTTPError, OSError, ValueError) as error:
                raise _body_failure(error) from error
            if not data:
                return
            received += len(data)
            now = time.monotonic()
            if now >= window_end:
                if received < timing.least_rate * timing.rate_window_s:
                    raise Broken(f"less than {timing.least_rate} bytes a second arrive")
                window_end, received = now + timing.rate_window_s, 0
            yield data

    def document(self, response: urllib3.BaseHTTPResponse, limit: int, where: str) -> bytes:
        """Return a whole body of at most limit bytes.

        Raises:
            Broken: the connection failed, or the body takes too long.
            errors.RegistryError: it is longer, or encoded.
        """
        check_encoding(response, where)
        data = b""
        deadline = time.monotonic() + 4 * self._timing.idle_s
        try:
            for chunk in self.chunks(response):
                data += chunk
                if len(data) > limit:
                    raise errors.RegistryError(f"{where}: the answer has more than {limit} bytes")
                if time.monotonic() > deadline:
                    raise Broken("the answer takes too long")
        except BaseException:
            response.close()
            raise
        response.release_conn()
        return data

    def drop(self, response: urllib3.BaseHTTPResponse) -> bytes:
        """Read a short body that hardly matters, so that the connection can serve again."""
        try:
            return self.document(response, MAX_DROPPED, "")
        except (Broken, errors.RegistryError):
            return b""

    def refusal(self, response: urllib3.BaseHTTPResponse) -> str:
        """Return what a status that is no success says: the server's own words, or the status.

        Raises:
            Broken: the status asks to try again later.
        """
        said = headers.words(self.drop(response), response.headers.get("Content-Type"))
        status = f"{response.status} {response.reason or ''}".strip()
        if response.status in PATIENCE:
            asked = headers.retry_after_s(response.headers.get("Retry-After"))
            raise Broken(f"the registry answered {': '.join(filter(None, (status, said)))}", asked)
        return said or status

    def abort(self) -> None:
        """Break every connection; a thread that reads one gets ``Broken`` at once."""
        self.aborted.set()
        with self._lock:
            live = list(self._live)
        for conn in live:
            if conn.sock is not None:
                try:
                    conn.sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue  # already closed by its owner

    def close(self) -> None:
        """Close idle connections."""
        for manager in self._managers.values():
            manager.clear()
        self._managers.clear()

    def _manager(self, url: str) -> urllib3.PoolManager:
        parts = urlsplit(url)
        proxy = proxy_for(url, self._environ) or ""
        own = f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)
        named = own in self._unverified or bool(_certificates(own))
        certificates = own if parts.scheme == "https" and named else ""
        with self._lock:
            key = (parts.scheme, proxy, certificates)
            if key not in self._managers:
                self._managers[key] = self._new_manager(*key)
            return self._managers[key]

    def _new_manager(self, scheme: str, proxy: str, certificates: str) -> urllib3.PoolManager:
        options: dict[str, Any] = {"maxsize": 8}
        if scheme == "https":  # reading the system's authorities costs 20 ms
            options["ssl_context"] = _tls_context(certificates)
            if certificates and certificates in self._unverified:
                urllib3.disable_warnings(exceptions.InsecureRequestWarning)
                options["ssl_context"].check_hostname = False
                options["ssl_context"].verify_mode = ssl.CERT_NONE
        if proxy:
            parts = urlsplit(proxy)
            if parts.scheme not in {"http", "https"} or not parts.hostname:
                raise errors.ConfigError(
                    f"proxy {parts.scheme}://{parts.hostname}: only http and https proxies work"
                )
            if parts.username:
                login = f"{parts.username}:{parts.password or ''}"
                options["proxy_headers"] = urllib3.make_headers(proxy_basic_auth=login)
            manager: urllib3.PoolManager = urllib3.ProxyManager(proxy, **options)
        else:
            manager = urllib3.PoolManager(**options)
        manager.pool_classes_by_scheme = _pool_classes(self._live, self._lock, direct=not proxy)
        return manager


def failure(error: Exception, url: str) -> Broken | errors.RegistryError:
    """Return what a failed request means: something to try again, or a final refusal."""
    host = _host(url)
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, errors.RegistryError):
            return cause
        if (
            isinstance(cause, ssl.SSLError | exceptions.SSLError)
            and "CERTIFICATE" in str(cause).upper()
        ):
            why = getattr(cause, "verify_message", "") or str(cause)
            return errors.RegistryError(
                f"{host}: its TLS certificate is not trusted: {why}",
                hint="check the clock, or add its authority to /etc/containers/certs.d",
            )
        if isinstance(cause, OSError) and cause.strerror:
            return Broken(f"{host}: {cause.strerror}")
        cause = cause.__cause__ or cause.__context__
    # Asked last: urllib3 calls every failed connection a time-out as well.
    late = isinstance(error, exceptions.TimeoutError)
    return Broken(f"{host}: {'no answer in time' if late else error}")


def redirected(where: str, url: str, location: str, count: int) -> str:
    """Return where a redirect leads: never down from https, nor to anything but a host.

    Raises:
        errors.RegistryError: it is refused.
    """
    if count > MAX_REDIRECTS:
        raise errors.RegistryError(
            f"{where}: the registry redirects more than {MAX_REDIRECTS} times"
        )
    try:
        target = urljoin(url, location)
        parts = urlsplit(target)
        fine = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.username is None
        _ = parts.port  # an absurd port raises here
    except ValueError:
        fine = False
    if not fine or (url.startswith("https:") and not target.startswith("https:")):
        raise errors.RegistryError(
            f"{where}: the registry redirects to {location[:200]!r}, which is refused"
        )
    return target


def check_encoding(response: urllib3.BaseHTTPResponse, where: str) -> None:
    """Refuse a body that is encoded although we asked for none: it could unpack to anything.

    Raises:
        errors.RegistryError: it is.
    """
    encoding = response.headers.get("Content-Encoding") or "identity"
    if encoding.lower() != "identity":
        response.close()
        raise errors.RegistryError(f"{where}: the body came encoded as {encoding!r}, unasked")


def _body_failure(error: Exception) -> Broken:
    if isinstance(error, exceptions.TimeoutError):
        return Broken("no data in time")
    cause = error.__cause__ or error.__context__
    if isinstance(cause, exceptions.IncompleteRead | http.client.IncompleteRead):
        return Broken("the connection was closed early")
    if isinstance(cause, OSError) and cause.strerror:
        return Broken(cause.strerror)
    return Broken(str(error))


def proxy_for(url: str, environ: Mapping[str, str]) -> str | None:
    """Return the proxy for a URL: HTTPS_PROXY or HTTP_PROXY, else ALL_PROXY, or none by NO_PROXY.

    Lower-case names win, as in curl; the loopback is never reached by a proxy.
    """
    parts = urlsplit(url)
    host, port = (parts.hostname or "").lower(), parts.port
    for name in (f"{parts.scheme}_proxy", "all_proxy"):
        proxy = environ.get(name) or environ.get(name.upper())
        if proxy:
            break
    else:
        return None
    skipped = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    if is_loopback(host) or any(
        _skips(item.strip().lower(), host, port) for item in skipped.split(",")
    ):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine by its very name, whatever a name server says."""
    if host == "localhost":
        return True
    address = _address(host)
    return address is not None and address.is_loopback


def _skips(item: str, host: str, port: int | None) -> bool:
    if not item:
        return False
    if item == "*":
        return True
    if "/" in item:
        address = _address(host)
        try:
            return address is not None and address in ipaddress.ip_network(item, strict=False)
        except ValueError:
            return False
    name, colon, wanted = item.rpartition(":")
    if colon and wanted.isdecimal() and _address(item) is None:
        if int(wanted) != port:
            return False
        item = name
    item = item.strip("[]").removeprefix("*").lstrip(".")
    return host == item or host.endswith(f".{item}")


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        found = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None
    # ::ffff:169.254.169.254 is reached by IPv4, and is what it says there; Python says otherwise.
    return getattr(found, "ipv4_mapped", None) or found


def _host(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)


def _certificates(own: str) -> list[str]:
    return [f"{folder}/{own}" for folder in CERTIFICATE_DIRS if os.path.isdir(f"{folder}/{own}")]


def _tls_context(own: str) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for folder in _certificates(own) if own else []:
        try:
            for path in sorted(glob.glob(f"{glob.escape(folder)}/*.crt")):
                context.load_verify_locations(path)
            for path in sorted(glob.glob(f"{glob.escape(folder)}/*.cert")):
                context.load_cert_chain(path, f"{path.removesuffix('.cert')}.key")
        except OSError as error:  # ssl.SSLError is one
            raise errors.ConfigError(f"{folder}: {error.strerror or error}") from error
    return context


def _pool_classes(
    live: weakref.WeakSet[connection.HTTPConnection], lock: threading.Lock, *, direct: bool
) -> dict[str, type[connectionpool.HTTPConnectionPool]]:
    """Return pools whose connections note themselves in live and refuse link-local peers.

    With a proxy the peer is the proxy, which the site's administrator chose.
    """

    def guarded(sock: socket.socket) -> socket.socket:
        peer = str(sock.getpeername()[0]).partition("%")[0]
        address = _address(peer)
        if direct and address is not None and address.is_link_local:
            sock.close()
            raise errors.RegistryError(
                f"{peer}: refused: a link-local address is no registry or token server"
            )
        return sock

    class Plain(connection.HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return guarded(super()._new_conn())

        def connect(self) -> None:
            super().connect()
            with lock:
                live.add(self)

    class Secure(connection.HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return guarded(super()._new_conn())

        def connect(self) -> None:
            super().connect()
            with lock:
                live.add(self)

    class PlainPool(connectionpool.HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(connectionpool.HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}
