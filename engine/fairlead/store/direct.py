"""Layers that lie on this machine, read where they are: no thread, no copy, one after the other.

The counterpart of ``transfer`` for local sources. Size and digest are verified while the layer is
unpacked, and before its end is told to whoever reads it: a tree is published only if every byte
that went into it was right.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

from fairlead import errors, log
from fairlead.image.manifest import Descriptor
from fairlead.image.reference import Reference
from fairlead.image.source import Source
from fairlead.store import blobs
from fairlead.store.resolve import about

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class Direct:
    """The layers of one image; a context manager, as ``transfer.Transfer`` is."""

    def __init__(
        self,
        client: Source,
        reference: Reference,
        layers: tuple[Descriptor, ...],
        progress: log.Progress | None,
    ) -> None:
        self._client, self._reference = client, reference
        self._layers, self._progress = layers, progress
        self._current: _Verified | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._progress is not None:
            for layer in self._layers:
                self._progress.finish(layer.digest)
        # What cannot be unpacked may have been altered: then its own digest is the better word.
        if isinstance(error, errors.LayerError | errors.DigestError) and self._current is not None:
            with about(self._reference):
                self._current.drain()

    def layer(self, number: int) -> io.RawIOBase:
        """Return layer number as a stream."""
        descriptor = self._layers[number]
        chunks = self._client.blob(self._reference, descriptor)
        self._current = _Verified(chunks, descriptor, self._progress)
        return self._current

    def applied(self, number: int) -> None:
        """Say that layer number is unpacked."""
        self._current = None
        if self._progress is not None:
            self._progress.finish(self._layers[number].digest)


class _Verified(io.RawIOBase):
    """A blob's bytes; the end is reached only if size and digest are right."""

    def __init__(
        self, chunks: Iterator[bytes], descriptor: Descriptor, progress: log.Progress | None
    ) -> None:
        super().__init__()
        self._chunks, self._descriptor, self._progress = chunks, descriptor, progress
        self._hash = blobs.hasher_fast(descriptor.digest)
        self._chunk, self._at, self._size = b"", 0, 0
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        # No view of a buffer is alive when this raises: see ``convert._Behind``.
        if self._at == len(self._chunk):
            self._chunk, self._at = self._next(), 0
        view = memoryview(buffer).cast("B")
        count = min(len(view), len(self._chunk) - self._at)
        view[:count] = memoryview(self._chunk)[self._at : self._at + count]
        self._at += count
        return count

    def drain(self) -> None:
        """Read to the end, for its verdict.

        Raises:
            errors.DigestError: size or digest are wrong.
        """
        while self._next():
            pass

    def _next(self) -> bytes:
        if self._ended:
            return b""
        try:
            chunk = next(self._chunks, b"")
        except errors.Error:
            self._ended = True  # this is its verdict
            raise
        if chunk:
            self._hash.update(chunk)
            self._size += len(chunk)
            if self._progress is not None:
                self._progress.advance(self._descriptor.digest, len(chunk))
        else:
            self._ended = True
            self._verify()
        return chunk

    def _verify(self) -> None:
        digest, size = self._descriptor.digest, self._descriptor.size
        if self._size != size:
            raise errors.DigestError(f"{digest}: has {self._size} bytes instead of {size}")
        found = f"{digest.partition(':')[0]}:{self._hash.hexdigest()}"
        if found != digest:
            raise errors.DigestError(f"{digest}: the file holds other content, {found}")
