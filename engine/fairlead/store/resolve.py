"""From a reference to one image's documents: index, manifest, configuration, all verified.

Rules:
- A document that is in the store by its digest is not fetched again; of many processes that want
  the same one, one fetches it and the others wait (``layout.Lock``).
- Indexes may nest four deep; one that names itself is refused.
- The configuration's own platform is checked too: an image without an index is for one machine
  all the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from fairlead import errors
from fairlead.image import manifest
from fairlead.image.manifest import Descriptor
from fairlead.image.reference import Reference
from fairlead.image.source import Source
from fairlead.store import blobs
from fairlead.store.layout import Lock, Stage, Store

if TYPE_CHECKING:
    from fairlead.store.spread import Spread

MAX_DEPTH = 4


class Resolved(NamedTuple):
    """A reference's documents.

    Attributes:
        target: digest that the reference meant, of an index or of the manifest itself.
        manifest: this machine's manifest.
        config: its configuration.
    """

    target: str
    manifest: manifest.Manifest
    config: manifest.ImageConfig


def resolve(
    client: Source,
    reference: Reference,
    target: str | None,
    store: Store | None = None,
    spread: Spread | None = None,
) -> Resolved:
    """Return the documents of a reference; target is its digest if known already.

    Without a store nothing is kept. With spread the nodes of a step fetch them together.

    Raises:
        errors.Error: not found, not allowed, out of reach, not for this machine, or malformed.
    """
    documents = _Documents(client, reference, store, spread)
    platform = manifest.this_platform()
    with about(reference):
        if target is None:
            target, found = documents.tagged()
        else:
            found = documents.manifest(target)
        first, seen = target, {target}
        while isinstance(found, manifest.Index):
            chosen = manifest.select(found, platform).digest
            if chosen in seen:
                raise errors.ManifestError(f"{found.digest}: the index names itself")
            if len(seen) > MAX_DEPTH:
                raise errors.ManifestError(
                    f"{first}: indexes are nested more than {MAX_DEPTH} deep"
                )
            seen.add(chosen)
            found = documents.manifest(chosen)
        config = manifest.parse_config(documents.config(found.config), found.config.digest)
        manifest.check_pair(found, config)
        if not manifest.matches(config.platform, platform):
            raise manifest.no_platform(platform, (config.platform,))
    return Resolved(first, found, config)


@contextlib.contextmanager
def about(reference: Reference) -> Iterator[None]:
    """Put the reference before an error about a document that it leads to."""
    try:
        yield
    except (
        errors.ManifestError,
        errors.PlatformError,
        errors.DigestError,
        errors.LayerError,
    ) as error:
        if error.message.startswith(str(reference)):
            raise
        raise type(error)(f"{reference}: {error.message}", hint=error.hint) from error


class _Documents:
    """Where documents come from: the store, then the image's source."""

    def __init__(
        self, client: Source, reference: Reference, store: Store | None, spread: Spread | None
    ) -> None:
        self._client, self._reference, self._store = client, reference, store
        self._spread = spread

    def tagged(self) -> tuple[str, manifest.Manifest | manifest.Index]:
        """Return the digest and the document of the reference's tag, asked for by name."""
        fetched = self._client.manifest(self._reference, self._reference.target)
        found = manifest.parse(fetched.data, fetched.media_type, fetched.digest)
        if self._store is not None:
            self._keep(fetched.digest, fetched.data)
        return fetched.digest, found

    def manifest(self, digest: str) -> manifest.Manifest | manifest.Index:
        """Return the manifest or index with this digest."""
        served = ""

        def fetch() -> bytes:
            nonlocal served
            fetched = self._client.manifest(self._reference, digest)
            served = fetched.media_type
            manifest.parse(
                fetched.data, served, digest
            )  # before it is kept: Content-Type is known only now
            return fetched.data

        data = self._stored(digest, fetch)
        return manifest.parse(data, served, digest)

    def config(self, descriptor: Descriptor) -> bytes:
        """Return the configuration's bytes."""
        return self._stored(
            descriptor.digest, lambda: self._client.document(self._reference, descriptor)
        )

    def _stored(self, digest: str, fetch: Callable[[], bytes]) -> bytes:
        if self._store is None:
            return fetch()
        data = blobs.read(self._store, digest)
        if data is None and self._spread is not None:
            return self._together(digest, fetch, self._spread)
        return self._own(digest, fetch) if data is None else data

    def _own(self, digest: str, fetch: Callable[[], bytes]) -> bytes:
        assert self._store is not None
        with Lock(self._store, blobs.lock_name(digest)):
            data = blobs.read(self._store, digest)
            if data is None:
                data = fetch()
                self._keep(digest, data)
        return data

    def _together(self, digest: str, fetch: Callable[[], bytes], spread: Spread) -> bytes:
        """Return what another node sent, or fetch it for all; nobody is waited for under a lock."""
        data = spread.document(digest)
        if data is not None:
            self._keep(digest, data)
            return data
        try:
            data = self._own(digest, fetch)
        except BaseException:
            spread.leave(digest)
            raise
        spread.send_document(digest, data)
        return data

    def _keep(self, digest: str, data: bytes) -> None:
        assert self._store is not None
        with Stage(self._store) as stage:
            blobs.put(self._store, stage, digest, data)
