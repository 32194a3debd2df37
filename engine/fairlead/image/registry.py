"""The distribution API's client: patient with faults, strict with answers.

Rules (security.md section 2 rows 15 and 19 to 23, section 4 faults 4 to 8):
- The only module (with ``transport`` below it) that opens sockets. Loopback registries and those
  listed in ``insecure_registries`` are spoken to in plain HTTP, every other in verified TLS, and
  never down from it. One that registries.conf calls insecure is spoken to in TLS without proof
  where it has it, else in plain HTTP.
- A login goes to the registry's own origin and to the token server that it names, nowhere else: a
  redirect to another host carries none, and a 401 from there is final. A token is asked for anew
  once per request.
- 429, 500, 502, 503, 504 and broken connections are tried five times with growing, jittered
  pauses (Retry-After is followed up to a minute); 401, 403 and 404 are final. What fails five
  times counts as out of reach.
- Bodies are never decoded (``Accept-Encoding: identity``), documents end at 4 MiB, blobs at their
  descriptor's size.
- A blob whose connection broke goes on where it stopped (Range, If-Range). A server that sends
  everything again has its first part read past; the digest, checked by the receiver, rules over
  both.

Source: distribution-spec 1.1 "Pull"; distribution ``docs/spec/auth/token.md``; RFC 9110 section 14.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import urlsplit

import urllib3

from fairlead import errors
from fairlead.config import Config
from fairlead.image import answers, headers, login, manifest, reference, registries, transport
from fairlead.image.auth import Credentials
from fairlead.image.login import Login
from fairlead.image.manifest import Descriptor
from fairlead.image.reference import Reference
from fairlead.image.source import Fetched, digest_like
from fairlead.image.transport import Broken

PROGRESS = 1 << 20  # bytes after which a broken connection starts a new count of tries
_REDIRECTS = {301, 302, 303, 307, 308}

R = TypeVar("R")
LogIn = Callable[[Reference, tuple[headers.Challenge, ...]], Login | None]


class Client:
    """A registry client; a context manager. Its methods may be called from several threads."""

    def __init__(
        self,
        config: Config,
        environ: Mapping[str, str] = os.environ,
        *,
        timing: transport.Timing | None = None,
        log_in: LogIn | None = None,
        scopes: tuple[str, ...] = (),
        unverified: str = "",
    ) -> None:
        """Make a client.

        log_in answers challenges in place of the logins in environ's files; scopes are asked of a
        token server instead of the right to pull; unverified is a registry that need not prove who
        it is, and may speak plain HTTP.
        """
        self._scopes = scopes
        self._config, self._environ, self._own_log_in = config, environ, log_in
        self._timing = timing or transport.TIMING
        self._unverified = unverified
        self._speaks_tls: bool | None = None  # the unverified one, once it was asked
        lenient = frozenset({unverified} - {""})
        self._transport = transport.Transport(environ, self._timing, lenient)
        self._login_lock = threading.Lock()
        self._logins: dict[str, Login] = {}  # by "registry/repository"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._transport.close()

    def stop(self) -> None:
        """Break all requests under way, from any thread; the client is of no use afterwards."""
        self._transport.abort()

    def manifest(self, ref: Reference, target: str) -> Fetched:
        """Return the manifest or index that target (a tag or digest) names, its digest verified.

        Raises:
            errors.ImageNotFoundError, errors.AuthError, errors.RegistryUnreachableError,
            errors.RegistryError
            errors.DigestError: the bytes are not what their digest says.
        """

        def once() -> Fetched:
            response = self._open(
                ref, "GET", f"manifests/{target}", {"Accept": ", ".join(manifest.ACCEPT)}
            )
            if response.status != 200:
                raise self._refusal(ref, response, f"{ref.name}{_joined(target)}")
            kind = response.headers.get("Content-Type") or ""
            if kind.lower().startswith("text/html"):
                self._transport.drop(response)
                raise errors.RegistryError(
                    f"{ref}: the registry answered with a web page instead of a manifest"
                )
            data = self._transport.document(response, manifest.MAX_DOCUMENT, str(ref))
            return Fetched(kind, answers.document_digest(ref, target, response, data), data)

        return self._patiently(ref, once)

    def head(self, ref: Reference) -> str | None:
        """Return the digest that a tag has now, or None where only a GET can tell (or explain).

        Raises:
            errors.DigestError: a digest was asked for, and the registry means another.
            errors.RegistryUnreachableError, errors.RegistryError, errors.AuthError
        """

        def once() -> str | None:
            accept = {"Accept": ", ".join(manifest.ACCEPT)}
            response = self._open(ref, "HEAD", f"manifests/{ref.target}", accept)
            if response.status != 200:
                self._transport.refusal(response)  # what may pass is raised, to be tried again
                return None
            self._transport.drop(response)
            told = answers.told_digest(response)
            if ref.digest and told not in {None, ref.digest}:
                raise errors.DigestError(f"{ref}: the registry answers with {told}")
            return told

        return self._patiently(ref, once)

    def document(self, ref: Reference, descriptor: Descriptor) -> bytes:
        """Return a small blob (an image configuration), size and digest verified.

        Raises:
            errors.DigestError: it has another size or digest, or is no small blob.
        """
        if descriptor.size > manifest.MAX_DOCUMENT:
            raise errors.ManifestError(
                f"{ref}: {descriptor.digest} has {descriptor.size} bytes, too many"
            )
        data = b"".join(self.blob(ref, descriptor))
        if (
            len(data) != descriptor.size
            or digest_like(descriptor.digest, data) != descriptor.digest
        ):
            raise errors.DigestError(f"{ref}: {descriptor.digest}: the registry sent other content")
        return data

    def blob(self, ref: Reference, descriptor: Descriptor, offset: int = 0) -> Iterator[bytes]:
        """Yield a blob's bytes from offset to exactly its size; the receiver checks the digest.

        Raises:
            errors.DigestError: the registry has more or fewer bytes than the descriptor says.
            errors.RegistryUnreachableError: five tries in a row brought less than a MiB.
        """
        at, failures, etag = offset, 0, ""
        while at < descriptor.size:
            start = at
            try:
                response = self._open_blob(ref, descriptor, at, etag)
                etag = headers.strong_etag(response.headers.get("ETag")) or etag
                for chunk in self._body(ref, response, descriptor, at):
                    yield chunk
                    at += len(chunk)
            except Broken as broken:
                failures = 1 if at - start >= PROGRESS else failures + 1
                if failures >= self._timing.tries or self._transport.aborted.is_set():
                    reason = broken.reason.removeprefix(f"{ref.registry}: ")
                    raise errors.RegistryUnreachableError(
                        f"{ref}: {descriptor.digest}: {reason}, "
                        f"after {at} of {descriptor.size} bytes"
                    ) from broken
                self._pause(failures, broken.retry_after_s)

    def has_blob(self, ref: Reference, descriptor: Descriptor) -> bool:
        """Tell whether the registry offers this blob, of this size, to this login.

        Raises:
            errors.AuthError, errors.RegistryError, errors.RegistryUnreachableError
        """

        def once() -> bool:
            response = self._open(ref, "HEAD", f"blobs/{descriptor.digest}", {})
            length = headers.content_length(response.headers.get("Content-Length"))
            if response.status not in {200, 404}:
                raise self._refusal(ref, response, f"{ref}: {descriptor.digest}", blob=True)
            self._transport.drop(response)
            return response.status == 200 and length in {None, descriptor.size}

        return self._patiently(ref, once)

    def header(self, ref: Reference, offered: tuple[headers.Challenge, ...]) -> str | None:
        """Return the Authorization header that answers a registry's challenges, None without one.

        Raises:
            errors.AuthError, errors.RegistryError, errors.RegistryUnreachableError
        """

        def once() -> str | None:
            return self._logins[ref.name].header if self._log_in(ref, offered, stale=None) else None

        return self._patiently(ref, once)

    def verify(self, ref: Reference, credentials: Credentials) -> None:
        """Show a login to a registry; it is told to no other.

        Raises:
            errors.AuthError: it is refused.
            errors.RegistryError, errors.RegistryUnreachableError
        """
        url = f"{self._base(ref)}/v2/"

        def once() -> None:
            response = self._transport.request("GET", url, {})
            if response.status == 401:
                self._transport.drop(response)
                offered = headers.challenges(response.headers.get("WWW-Authenticate"))
                found = login.answer(
                    *(ref, offered, credentials, self._transport),
                    plain=self._plain(ref),
                    scopes=(),
                )
                sent = {"Authorization": found.header} if found else {}
                response = self._transport.request("GET", url, sent)
            if response.status == 200:
                self._transport.drop(response)
                return
            said = self._transport.refusal(response)
            if response.status in {401, 403}:
                raise errors.AuthError(
                    f"{ref.registry}: the registry refused the login: {said}",
                    hint="check user name and password",
                )
            raise errors.RegistryError(f"{ref.registry}: the registry answered {said}")

        self._patiently(ref, once)

    def origin(self, ref: Reference) -> str:
        """Return the registry's scheme, host and port."""
        return self._base(ref)

    def is_trusted(self, ref: Reference) -> bool:
        """Tell whether the registry's word counts: verified TLS, or listed by the configuration."""
        host, _ = reference.split_host(ref.registry)
        listed = {*self._config.insecure_registries, self._unverified}
        return not self._plain(ref) or ref.registry in listed or host in listed

    # -- one exchange ------------------------------------------------------------------------------

    def send(
        self, ref: Reference, method: str, path: str, wanted: Mapping[str, str], body: bytes = b""
    ) -> urllib3.BaseHTTPResponse:
        """Send one request of an upload, as ``_open``; path may be what the registry named before.

        Raises:
            Broken: it may be tried again.
            errors.AuthError, errors.RegistryError
        """
        url = path
        if path.startswith(("/", "http:", "https:")):
            url = transport.redirected(str(ref), f"{self._base(ref)}/", path, 1)
        return self._open(ref, method, url, wanted, body)

    def patiently(self, ref: Reference, once: Callable[[], R]) -> R:
        """Return what once returns, tried again as every request is.

        Raises:
            errors.RegistryUnreachableError: it was Broken five times.
        """
        return self._patiently(ref, once)

    def answer(self, response: urllib3.BaseHTTPResponse) -> bytes:
        """Return the short body of an answer that hardly matters."""
        return self._transport.drop(response)

    def refusal(
        self, ref: Reference, response: urllib3.BaseHTTPResponse, where: str
    ) -> errors.Error:
        """Return the error for a status that is no success; raises Broken if it may pass."""
        return self._refusal(ref, response, where, blob=True)

    def _open(
        self,
        ref: Reference,
        method: str,
        path: str,
        wanted: Mapping[str, str],
        body: bytes | None = None,
    ) -> urllib3.BaseHTTPResponse:
        """Send a request; follow redirects, log in when asked to. Any status comes back."""
        base = self._base(ref)
        url = path if "://" in path else f"{base}/v2/{ref.repository}/{path}"
        logged_in = False
        redirects = 0
        while True:
            own = _origin(url) == _origin(base)
            held = self._logins.get(ref.name) if own else None
            sent = {**wanted, **({"Authorization": held.header} if held else {})}
            response = self._transport.request(method, url, sent, body)
            if response.status in _REDIRECTS and response.headers.get("Location"):
                self._transport.drop(response)
                redirects += 1
                url = transport.redirected(
                    str(ref), url, str(response.headers["Location"]), redirects
                )
            elif response.status == 401 and own and not logged_in:
                logged_in = True
                offered = headers.challenges(response.headers.get("WWW-Authenticate"))
                if not self._log_in(ref, offered, stale=held):
                    return response
                self._transport.drop(response)
            else:
                return response

    def _open_blob(
        self, ref: Reference, descriptor: Descriptor, at: int, etag: str
    ) -> urllib3.BaseHTTPResponse:
        wanted = {"Range": f"bytes={at}-"} if at else {}
        if at and etag:
            wanted["If-Range"] = etag
        response = self._open(ref, "GET", f"blobs/{descriptor.digest}", wanted)
        if response.status not in {200, 206}:
            if response.status == 416:
                self._transport.drop(response)
                raise _wrong_size(ref, descriptor, f"ends before byte {at}")
            raise self._refusal(ref, response, f"{ref}: blob {descriptor.digest}", blob=True)
        transport.check_encoding(response, str(ref))
        return response

    def _body(
        self, ref: Reference, response: urllib3.BaseHTTPResponse, descriptor: Descriptor, at: int
    ) -> Iterator[bytes]:
        """Yield a blob response's bytes from position at to the blob's end, and not one more."""
        skip = at
        try:
            if response.status == 206:
                part = headers.content_range(response.headers.get("Content-Range"))
                if part is None or part.first > at or part.total not in {None, descriptor.size}:
                    raise Broken("the registry answered a range request with a wrong Content-Range")
                skip = at - part.first
            else:
                length = headers.content_length(response.headers.get("Content-Length"))
                if length is not None and length != descriptor.size:
                    raise _wrong_size(ref, descriptor, f"has {length} bytes")
            left = descriptor.size - at
            for data in self._transport.chunks(response):
                chunk, skip = data[skip:], max(0, skip - len(data))
                if len(chunk) > left:
                    raise _wrong_size(ref, descriptor, "goes on after its end")
                left -= len(chunk)
                if chunk:
                    yield chunk
            if left:
                raise Broken("the body ended early")
        except BaseException:
            response.close()
            raise
        response.release_conn()

    def _refusal(
        self, ref: Reference, response: urllib3.BaseHTTPResponse, where: str, *, blob: bool = False
    ) -> errors.Error:
        """Return the error for a status that is no success, with the server's own words."""
        said = self._transport.refusal(response)
        if response.status in {401, 403}:
            held = self._logins.get(ref.name)
            what = (
                f"refused the login of {held.origin}" if held and held.origin else "wants a login"
            )
            return errors.AuthError(f"{where}: the registry {what}: {said}")
        if response.status == 404 and not blob:
            return errors.ImageNotFoundError(
                f"{where}: the registry has no such image or tag: {said}"
            )
        if response.status == 404:
            return errors.RegistryError(
                f"{where}: the registry has the image but not this part of it: {said}",
                hint="push the image again",
            )
        return errors.RegistryError(f"{where}: the registry answered {said}")

    # -- patience ----------------------------------------------------------------------------------

    def _patiently(self, ref: Reference, once: Callable[[], R]) -> R:
        failures = 0
        while True:
            try:
                return once()
            except Broken as broken:
                failures += 1
                if failures >= self._timing.tries or self._transport.aborted.is_set():
                    reason = broken.reason.removeprefix(f"{ref.registry}: ")
                    raise errors.RegistryUnreachableError(f"{ref}: {reason}") from broken
                self._pause(failures, broken.retry_after_s)

    def _pause(self, failures: int, asked_s: float | None) -> None:
        timing = self._timing
        spread = random.uniform(0.5, 1.0)  # noqa: S311 - against stampedes, no secret
        pause = timing.pause_s * 2 ** (failures - 1) * spread
        self._transport.aborted.wait(min(timing.max_pause_s, max(pause, asked_s or 0.0)))

    # -- login -------------------------------------------------------------------------------------

    def _base(self, ref: Reference) -> str:
        return f"{'http' if self._plain(ref) else 'https'}://{_api_host(ref)}"

    def _plain(self, ref: Reference) -> bool:
        if ref.registry == self._unverified:
            return not self._has_tls(ref)
        host, _ = reference.split_host(ref.registry)
        listed = self._config.insecure_registries
        return transport.is_loopback(host) or ref.registry in listed or host in listed

    def _has_tls(self, ref: Reference) -> bool:
        """Tell whether an unverified registry speaks TLS; asked once."""
        if self._speaks_tls is None:
            try:
                answer = self._transport.request("GET", f"https://{_api_host(ref)}/v2/", {})
                self._transport.drop(answer)
                self._speaks_tls = True
            except Broken:
                self._speaks_tls = False
        return self._speaks_tls

    def _log_in(
        self, ref: Reference, offered: tuple[headers.Challenge, ...], *, stale: Login | None
    ) -> bool:
        """Get a login in place of the one that was not accepted; False if there is none."""
        with self._login_lock:
            if self._logins.get(ref.name) != stale:
                return True  # another thread has just done it
            found = (
                self._own_log_in(ref, offered)
                if self._own_log_in
                else login.log_in(
                    *(ref, offered, self._environ, self._transport),
                    plain=self._plain(ref),
                    scopes=self._scopes,
                    helpers=registries.load(self._config, self._environ).helpers,
                )
            )
            if found is None:
                return False
            self._logins[ref.name] = found
            return True


# -- answers ---------------------------------------------------------------------------------------


def _api_host(ref: Reference) -> str:
    return "registry-1.docker.io" if ref.registry == reference.DOCKER_HUB else ref.registry


def _joined(target: str) -> str:
    return f"@{target}" if reference.is_digest(target) else f":{target}"


def _origin(url: str) -> tuple[str, str | None, int]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


def _wrong_size(ref: Reference, descriptor: Descriptor, what: str) -> errors.DigestError:
    return errors.DigestError(
        f"{ref}: {descriptor.digest} should have {descriptor.size} bytes but {what}"
    )
