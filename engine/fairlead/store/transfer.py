"""Layers on their way from the registry to the disk, several at once, readable while they arrive.

Rules:
- Four threads fetch; the main thread reads the layers in order and unpacks them
  (``layers.build``). A reader sees bytes as soon as they are on disk, and the end of a layer only
  when its digest has been verified.
- Each digest is fetched by one process at a time; a second waits for the lock and then finds the
  blob.
- A directory of shared blobs is asked before the registry, where the site has one; or else the
  other nodes of the step, which want the same (``spread``). Nobody waits for these under a lock.
- At most ``WINDOW`` layers are open ahead of the one being unpacked, which bounds descriptors.
- The first failure ends everything: sockets are broken, threads are joined, staged files go with
  their stage. No thread is left when ``with`` ends well. After Ctrl-C a thread that hangs in a
  name look-up or a TLS handshake is left behind for the end of the process, which is near.
"""

from __future__ import annotations

import io
import os
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Self

from fairlead import errors, log
from fairlead.image.manifest import Descriptor
from fairlead.image.reference import Reference
from fairlead.image.source import Source
from fairlead.store import blobs, layout, shared_blobs
from fairlead.store.blobs import Writer
from fairlead.store.layout import Lock, Stage, Store
from fairlead.store.resolve import about

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from fairlead.store.spread import Spread

THREADS = 4
WINDOW = 12
PIECE = 1 << 20
PATIENCE_S = 1.0
JUDGEMENT_S = 5.0


class _Download:
    """One blob: its file, and how far it has come. Guarded by the transfer's condition."""

    def __init__(self, descriptor: Descriptor) -> None:
        self.descriptor = descriptor
        self.fd = -1
        self.written = self.told = 0
        self.verified = False


class Transfer:
    """The layers of one image; a context manager whose threads live as long as ``with``."""

    def __init__(
        self,
        client: Source,
        reference: Reference,
        store: Store,
        stage: Stage,
        layers: tuple[Descriptor, ...],
        progress: log.Progress | None,
        shared: str = "",
        spread: Spread | None = None,
    ) -> None:
        self._client, self._reference, self._shared = client, reference, shared
        self._spread = spread
        self._store, self._stage, self._progress = store, stage, progress
        self._layers = layers
        # A digest may stand for several layers (the empty one often does); it is fetched once.
        self._downloads: dict[str, _Download] = {}
        for layer in layers:
            self._downloads.setdefault(layer.digest, _Download(layer))
        self._queue = list(self._downloads)
        self._last = {layer.digest: number for number, layer in enumerate(layers)}
        self._applied = 0
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._error: errors.Error | None = None
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        if self._spread is not None:
            lacking = (download.descriptor for download in self._downloads.values())
            self._spread.need_all(tuple(blob for blob in lacking if not self._is_stored(blob)))
            self._queue = self._spread.first(self._queue, self._stop)
        for number in range(min(THREADS, len(self._queue))):
            thread = threading.Thread(target=self._work, name=f"fetch-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            with self._changed:
                if isinstance(error, errors.LayerError | errors.DigestError):
                    self._changed.wait_for(self._judged, JUDGEMENT_S)
                self._stop.set()
                self._changed.notify_all()
            self._client.stop()
        for thread in self._threads:
            thread.join(PATIENCE_S if error is not None else None)
        if not any(thread.is_alive() for thread in self._threads):
            for download in self._downloads.values():
                self._close(download)
                if self._progress is not None:
                    self._progress.finish(download.descriptor.digest)
        if isinstance(error, errors.Error) and self._error not in {None, error}:
            raise self._error from error

    def _judged(self) -> bool:
        # What cannot be unpacked may have been altered on the way: then its digest says so soon.
        current = self._layers[min(self._applied, len(self._layers) - 1)]
        return self._error is not None or self._downloads[current.digest].verified

    def layer(self, number: int) -> io.RawIOBase:
        """Return layer number as a stream; it blocks until there is something to read."""
        return _Reader(self, self._downloads[self._layers[number].digest])

    def applied(self, number: int) -> None:
        """Say that layer number is unpacked, so that those further ahead may begin."""
        with self._changed:
            self._applied = number + 1
            digest = self._layers[number].digest
            if self._last[digest] == number:
                self._close(self._downloads[digest])
            self._changed.notify_all()

    def read(self, download: _Download, buffer: WriteableBuffer, position: int) -> int:
        """Read from a download what is there; wait while nothing is; 0 at its verified end.

        Raises:
            errors.Error: the first failure of any thread.
        """
        with self._changed:
            while True:
                if self._error is not None:
                    raise self._error
                if position < download.written or download.verified:
                    break
                self._changed.wait()
            available = download.written - position
        if available <= 0:
            return 0
        return os.preadv(download.fd, [memoryview(buffer)[:available]], position)

    # -- threads -----------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while (download := self._next()) is not None:
                with about(self._reference):
                    self._fetch(download)
        except errors.Error as error:
            self._fail(error)
        except OSError as error:
            if not self._stop.is_set():
                self._fail(layout.failure(error, self._store.root))

    def _fail(self, error: errors.Error) -> None:
        with self._changed:
            self._error = self._error or error
            self._stop.set()
            self._changed.notify_all()

    def _next(self) -> _Download | None:
        with self._changed:
            while self._queue and not self._stop.is_set():
                for digest in self._queue:
                    first = self._layers.index(self._downloads[digest].descriptor)
                    if first < self._applied + WINDOW:
                        self._queue.remove(digest)
                        return self._downloads[digest]
                self._changed.wait()
            return None

    def _is_stored(self, blob: Descriptor) -> bool:
        return os.path.exists(blobs.path(self._store, blob.digest))

    def _fetch(self, download: _Download) -> None:
        """Bring a layer here, and send it to the other nodes if they wait for it."""
        blob, sent = download.descriptor, -1
        try:
            # Without the lock: two steps whose nodes wait for each other must not hold what the
            # other's nodes need.
            received = self._received(blob)
            with Lock(self._store, blobs.lock_name(blob.digest), self._stop):
                writer = self._bring(download) if received is None else received
                if received is not None:
                    self._advance(download, received.fd, blob.size)
                if self._spread is not None and self._spread.is_fetcher(blob.digest):
                    sent = os.dup(download.fd)  # whoever unpacks it closes it
                self._verified(download)
                if writer is not None:
                    writer.publish(self._store)
            if self._spread is not None and sent >= 0:
                self._spread.send(blob, sent)
        except BaseException:
            if self._spread is not None:
                self._spread.leave(blob.digest)
            raise
        finally:
            if sent >= 0:
                os.close(sent)

    def _received(self, blob: Descriptor) -> Writer | None:
        """Return a layer that another node sent, verified; None where this node fetches it."""
        if self._spread is None or self._is_stored(blob):
            return None
        return self._spread.receive(blob, self._staged(), self._stop)

    def _bring(self, download: _Download) -> Writer | None:
        """Return a layer that was brought here, verified; None if it was in the store already."""
        descriptor = download.descriptor
        found = blobs.open_layer(self._store, descriptor)
        if found is not None:
            self._advance(download, found, descriptor.size)
            return None
        if self._shared:
            copied = shared_blobs.copy(self._shared, descriptor, self._staged())
            if copied is not None:
                self._advance(download, copied.fd, descriptor.size)
                return copied
        writer = Writer(self._staged(), descriptor)
        self._advance(download, writer.fd, 0)
        for chunk in self._client.blob(self._reference, descriptor):
            writer.write(chunk)
            self._advance(download, writer.fd, len(chunk))
            if self._stop.is_set():
                raise InterruptedError
        writer.verify()
        return writer

    def _staged(self) -> str:
        with self._changed:
            return self._stage.name()

    def _advance(self, download: _Download, fd: int, count: int) -> None:
        with self._changed:
            download.fd = fd
            download.written += count
            if download.written - download.told >= PIECE:
                # In large pieces: waking the reader for every chunk costs more than the copying.
                download.told = download.written
                self._changed.notify_all()
        if self._progress is not None:
            self._progress.advance(download.descriptor.digest, count)

    def _verified(self, download: _Download) -> None:
        with self._changed:
            download.verified = True
            self._changed.notify_all()
        if self._progress is not None:
            self._progress.finish(download.descriptor.digest)

    def _close(self, download: _Download) -> None:
        if download.fd >= 0:
            os.close(download.fd)
            download.fd = -1


class _Reader(io.RawIOBase):
    """A layer's bytes in order, from the file that may still be growing."""

    def __init__(self, transfer: Transfer, download: _Download) -> None:
        super().__init__()
        self._transfer, self._download, self._position = transfer, download, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        count = self._transfer.read(self._download, buffer, self._position)
        self._position += count
        return count
