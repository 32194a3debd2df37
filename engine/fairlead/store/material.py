"""What an image that is to be written is made of: another's layers, and trees of this store.

Layers of a registry's image are read from there again, since a store keeps trees and no compressed
layers (unless ``keep_blobs`` says so); the registry is asked to copy where it is the target, too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from fairlead import errors
from fairlead.image import derive, files, manifest
from fairlead.image.derive import Added, Documents
from fairlead.image.manifest import Descriptor
from fairlead.image.outgoing import Blob
from fairlead.image.reference import Reference
from fairlead.image.source import Source
from fairlead.store import blobs, layertar
from fairlead.store.layout import Store
from fairlead.store.resolve import resolve

COMPRESSION = 1  # of isal's 0 to 3: nearly gzip -6 at ten times its speed
_CHUNK = 1 << 20


class Material(NamedTuple):
    """An image's documents and where its layers come from."""

    documents: Documents
    blobs: tuple[Blob, ...]


def of_source(
    client: Source, ref: Reference, store: Store, target: Reference | None = None
) -> Material:
    """Return an image as its source has it; target: the reference that it will be written to.

    Raises:
        errors.Error: not found, not allowed, out of reach, or not for this machine.
    """
    found = resolve(client, ref, ref.digest, store)
    data = blobs.read(store, found.manifest.digest)
    data = client.manifest(ref, found.manifest.digest).data if data is None else data
    config = blobs.read(store, found.manifest.config.digest)
    config = client.document(ref, found.manifest.config) if config is None else config
    shared = target is not None and not ref.transport and target.registry == ref.registry
    repository = ref.repository if shared else ""
    documents = Documents(
        data,
        found.manifest.media_type,
        found.manifest.digest,
        config,
        found.manifest.config,
        found.manifest.layers,
    )
    parts = (_blob(client, ref, store, layer, repository) for layer in found.manifest.layers)
    return Material(documents, tuple(parts))


def _blob(client: Source, ref: Reference, store: Store, layer: Descriptor, repository: str) -> Blob:
    def read() -> Iterator[bytes]:
        kept = blobs.path(store, layer.digest)
        if os.path.exists(kept):
            fd, info = files.open_file(kept)
            try:
                yield from files.chunks(fd, 0, info.st_size, kept)
            finally:
                os.close(fd)
        else:
            yield from client.blob(ref, layer)

    return Blob(layer, read, repository)


def extended(
    base: Material, layer: Layer | None, environ: Mapping[str, str], created_by: str
) -> Material:
    """Return an image with one more layer; the image itself where that layer is empty."""
    if layer is None:
        return base
    added = Added(layer.descriptor, layer.diff_id)
    below = base.documents
    documents = derive.extend(below.config, below.layers, (added,), created(environ), created_by)
    own = tuple(
        blob._replace(descriptor=descriptor)
        for blob, descriptor in zip(base.blobs, documents.layers, strict=False)
    )
    return Material(documents, (*own, Blob(layer.descriptor, layer.read)))


def rootless(config: dict[str, object]) -> Material:
    """Return an image without layers, for a root that never had any."""
    data = derive.fresh(manifest.this_platform(), config)
    return Material(derive.documents(data, ()), ())


def created(environ: Mapping[str, str]) -> str:
    """Return the time for a configuration: now, or SOURCE_DATE_EPOCH."""
    import time

    text = environ.get("SOURCE_DATE_EPOCH", "")
    when = int(text) if text.isascii() and text.isdecimal() and len(text) < 12 else time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when))


# -- layers of our own -----------------------------------------------------------------------------


class Layer(NamedTuple):
    """A compressed layer in a stage."""

    path: str
    descriptor: Descriptor
    diff_id: str

    def read(self) -> Iterator[bytes]:
        """Yield its bytes."""
        with open(self.path, "rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk


class Compressed:
    """An archive's sink: compresses to a file, and knows both digests in the end."""

    def __init__(self, path: str) -> None:
        import hashlib

        from isal import isal_zlib

        self._path = path
        self._file = open(path, "xb")  # noqa: SIM115 - closed by finish
        # 31: a gzip header, in which the time is 0: the same tree gives the same bytes.
        self._pack = isal_zlib.compressobj(COMPRESSION, isal_zlib.DEFLATED, 31)
        self._plain, self._packed, self._size = hashlib.sha256(), hashlib.sha256(), 0

    def write(self, data: bytes) -> None:
        """Take the next bytes of the archive."""
        self._plain.update(data)
        self._out(self._pack.compress(data))

    def _out(self, data: bytes) -> None:
        self._packed.update(data)
        self._size += len(data)
        self._file.write(data)

    def finish(self) -> Layer:
        """End the file."""
        self._out(self._pack.flush())
        self._file.close()
        digest = f"sha256:{self._packed.hexdigest()}"
        return Layer(
            self._path,
            Descriptor(derive.LAYER, digest, self._size),
            f"sha256:{self._plain.hexdigest()}",
        )


def write_layer(path: str, walk: Callable[[layertar.Sink], int]) -> None:
    """Write a layer and, beside it, what it is; for a child that reads with the user's rights."""
    sink = Compressed(path)
    count = walk(sink)
    layer = sink.finish()
    with open(f"{path}.json", "x", encoding="utf-8") as file:
        json.dump([count, layer.descriptor.digest, layer.descriptor.size, layer.diff_id], file)


def written(path: str) -> Layer | None:
    """Return the layer that ``write_layer`` wrote; None if nothing is in it."""
    with open(f"{path}.json", encoding="utf-8") as file:
        count, digest, size, diff_id = json.load(file)
    return Layer(path, Descriptor(derive.LAYER, digest, size), diff_id) if count else None


def squash_program() -> str:
    """Return the program that writes squashfs images.

    Raises:
        errors.ArchiveError: it is not installed.
    """
    import shutil

    found = shutil.which("mksquashfs", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        raise errors.ArchiveError(
            "this machine has no mksquashfs", hint="install squashfs-tools 4.5 or later"
        )
    return found
