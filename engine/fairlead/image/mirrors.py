"""A registry's client that knows the places of an image: mirrors in their order, then the registry.

Rules:
- The next place is asked when one is out of reach, lacks the image, wants a login that is not
  there, or answers with something wrong; the last one's error is the one that is told, with what
  the others said. A mirror is given little patience.
- What answered once is asked first from then on. A layer that breaks off goes on from the next
  place at the byte where it stopped; digests rule over all of it.
- Each place has its own connections and logins: none is sent to another.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import NamedTuple, Self, TypeVar

from fairlead import errors, log
from fairlead.config import Config
from fairlead.image import answers, policy, registries, registry, transport
from fairlead.image.headers import Challenge
from fairlead.image.manifest import Descriptor
from fairlead.image.reference import Reference
from fairlead.image.registries import Endpoint, Registries
from fairlead.image.source import Fetched

# What one place says does not bind the next.
_PASSED_OVER = (
    errors.RegistryUnreachableError,
    errors.RegistryError,
    errors.ImageNotFoundError,
    errors.AuthError,
    errors.DigestError,
)

R = TypeVar("R")


class Places(NamedTuple):
    """What registries.conf says, as this user has it, and as the site has it."""

    own: Registries
    site: Registries
    config: Config

    def of(self, ref: Reference) -> tuple[Endpoint, ...]:
        """Return where an image is asked for.

        Raises:
            errors.PolicyError: the site or the user forbids it.
        """
        policy.check_registry(ref, self.config)
        sites = registries.endpoints(self.site, ref)
        found = registries.endpoints(self.own, ref)
        for endpoint in found:
            if endpoint not in sites:  # the user's own files lead there
                policy.check_registry(endpoint.reference, self.config)
                registries.endpoints(self.site, endpoint.reference)  # which the site may block
        return found

    def is_as_by_site(self, ref: Reference) -> bool:
        """Tell whether the user's files lead an image where the site's do."""
        return registries.endpoints(self.own, ref) == registries.endpoints(self.site, ref)


def places(config: Config, environ: Mapping[str, str], *, site: bool = False) -> Places:
    """Read registries.conf; with site the site's alone.

    Raises:
        errors.ConfigError: a file is malformed.
    """
    of_site = registries.load(config, environ, site=True)
    same = registries.files(config, environ) == registries.files(config, environ, site=True)
    own = of_site if site or same else registries.load(config, environ)
    return Places(own, of_site, config)


class Client:
    """A registry client by way of its mirrors; does what ``registry.Client`` does."""

    def __init__(
        self,
        config: Config,
        environ: Mapping[str, str] = os.environ,
        *,
        timing: transport.Timing | None = None,
        log_in: registry.LogIn | None = None,
        site: bool = False,
    ) -> None:
        """Make a client; with site it reads the site's registries.conf alone."""
        self._config, self._environ, self._log_in = config, environ, log_in
        self._timing = timing or transport.TIMING
        self._places = places(config, environ, site=site)
        self._clients: dict[tuple[str, bool, bool], registry.Client] = {}
        self._first: dict[str, Endpoint] = {}
        self._lock = threading.Lock()
        self._stopped = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for client in self._clients.values():
            client.__exit__(kind, error, trace)

    def stop(self) -> None:
        """Break all requests under way, from any thread; the client is of no use afterwards."""
        with self._lock:
            self._stopped = True
            clients = tuple(self._clients.values())
        for client in clients:
            client.stop()

    def manifest(self, ref: Reference, target: str) -> Fetched:
        """Return the manifest or index that target names; raises as ``registry.Client``."""
        return self._ask(ref, lambda client, at: client.manifest(at, target))

    def head(self, ref: Reference) -> str | None:
        """Return the digest that a tag has now, or None where only a GET can tell (or explain)."""
        order = self._order(ref)
        if len(order) == 1:
            return self._client(order[0], last=True).head(order[0].reference)

        def told(client: registry.Client, at: Reference) -> str | None:
            found = client.head(at)
            if found is None:  # whether it has the image at all only a GET tells
                found = client.manifest(at, at.target).digest
            return found

        return self._ask(ref, told)

    def document(self, ref: Reference, descriptor: Descriptor) -> bytes:
        """Return a small blob, size and digest verified."""
        return self._ask(ref, lambda client, at: client.document(at, descriptor))

    def blob(self, ref: Reference, descriptor: Descriptor) -> Iterator[bytes]:
        """Yield a blob's bytes to exactly its size; the receiver checks the digest."""
        at, said = 0, ""
        order = self._order(ref)
        for number, endpoint in enumerate(order):
            last = number == len(order) - 1
            client = self._client(endpoint, last=last)
            try:
                for chunk in client.blob(endpoint.reference, descriptor, at):
                    yield chunk
                    at += len(chunk)
            except _PASSED_OVER as error:
                if last or self._stopped:
                    raise _with_others(error, said) from error
                said = _noted(said, endpoint, error)
                continue
            self._first[ref.name] = endpoint
            return

    def header(self, ref: Reference, offered: tuple[Challenge, ...], at: str) -> str | None:
        """Return the Authorization header that answers the challenges of the place called at.

        None without one, and for whatever is no place of this image.
        """
        for endpoint in self._places.of(ref):
            if endpoint.reference.name == at:
                return self._client(endpoint, last=True).header(endpoint.reference, offered)
        return None

    def endpoints(self, ref: Reference) -> tuple[Endpoint, ...]:
        """Return where an image is asked for; raises as ``Places.of``."""
        return self._places.of(ref)

    def signatures(self, ref: Reference, digest: str) -> tuple[bytes, ...]:
        """Return the OpenPGP messages that any place itself keeps for a manifest.

        Raises:
            errors.Error: no place can be asked; the last one's.
        """
        found: list[bytes] = []
        failed: list[errors.Error] = []
        places = self._order(ref)
        for endpoint in places:
            client = self._client(endpoint, last=endpoint == places[-1])
            try:
                found += answers.signatures(client, endpoint.reference, digest)
            except _PASSED_OVER as error:
                failed.append(error)
        if len(failed) == len(places):
            raise failed[-1]
        return tuple(found)

    def has_blob(self, ref: Reference, descriptor: Descriptor) -> bool:
        """Tell whether the place that answered last offers this blob, of this size."""
        endpoint = self._order(ref)[0]
        return self._client(endpoint, last=True).has_blob(endpoint.reference, descriptor)

    def origin(self, ref: Reference) -> str:
        """Return the scheme, host and port of the place that answered last."""
        endpoint = self._order(ref)[0]
        return self._client(endpoint, last=True).origin(endpoint.reference)

    def is_trusted(self, ref: Reference) -> bool:
        """Tell whether the word of the place that answered last counts."""
        endpoint = self._order(ref)[0]
        return self._client(endpoint, last=True).is_trusted(endpoint.reference)

    # -- places ------------------------------------------------------------------------------------

    def _order(self, ref: Reference) -> tuple[Endpoint, ...]:
        found = self._places.of(ref)
        first = self._first.get(ref.name)
        if first is None:
            return found
        return (first, *(endpoint for endpoint in found if endpoint != first))

    def _ask(self, ref: Reference, ask: Callable[[registry.Client, Reference], R]) -> R:
        said = ""
        order = self._order(ref)
        for number, endpoint in enumerate(order):
            last = number == len(order) - 1
            try:
                answer = ask(self._client(endpoint, last=last), endpoint.reference)
            except _PASSED_OVER as error:
                if last or self._stopped:
                    raise _with_others(error, said) from error
                said = _noted(said, endpoint, error)
                continue
            self._first[ref.name] = endpoint
            return answer
        raise AssertionError("an image has a place")

    def _client(self, endpoint: Endpoint, *, last: bool) -> registry.Client:
        key = (endpoint.reference.registry, endpoint.insecure, last)
        with self._lock:
            if key not in self._clients:
                self._clients[key] = self._new_client(*key)
                if self._stopped:
                    self._clients[key].stop()
            return self._clients[key]

    def _new_client(self, host: str, insecure: bool, last: bool) -> registry.Client:
        timing = self._timing
        if not last:
            timing = timing._replace(
                tries=min(timing.tries, 2), connect_s=min(timing.connect_s, 3.0)
            )
        return registry.Client(
            self._config,
            self._environ,
            timing=timing,
            log_in=self._log_in,
            unverified=host if insecure else "",
        )


def _noted(said: str, endpoint: Endpoint, error: errors.Error) -> str:
    log.debug(f"{endpoint.reference.registry} is passed over: {error.message}")
    return f"{said}; before that {error.message}"


def _with_others(error: errors.Error, said: str) -> errors.Error:
    return type(error)(f"{error.message}{said}", hint=error.hint) if said else error
