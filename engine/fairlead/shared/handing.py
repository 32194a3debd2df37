"""The engine's side of ``handed``: blobs that a step's nodes fetch together, for the storekeeper.

Each blob has a thread: it waits for a neighbour to send it, or fetches it for all, with this user's
login, into the user's own store, where it has no name and is gone with its stage.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self

from fairlead import errors, log
from fairlead.image import reference
from fairlead.image.manifest import Descriptor
from fairlead.store import blobs
from fairlead.store.blobs import Writer
from fairlead.store.layout import Stage, Store

if TYPE_CHECKING:
    from fairlead.config import Config
    from fairlead.image.mirrors import Client
    from fairlead.image.reference import Reference
    from fairlead.shared.wire import Wire
    from fairlead.store.spread import Spread


class Handing:
    """The blobs of one image; a context manager whose threads live as long as ``with``."""

    def __init__(
        self,
        wire: Wire,
        spread: Spread,
        store: Store,
        name: Reference,
        config: Config,
        environ: Mapping[str, str],
    ) -> None:
        from fairlead.image import mirrors

        self._wire, self._spread, self._store, self._name = wire, spread, store, name
        self._client: Client = mirrors.Client(config, environ, site=True)
        self._stage = Stage(store)
        self._stop = threading.Event()
        self._threads: dict[str, threading.Thread] = {}

    def __enter__(self) -> Self:
        self._stage.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._stop.set()
            self._client.stop()
        for thread in self._threads.values():  # some may still be sending to other nodes
            thread.join()
        self._client.__exit__(kind, error, trace)
        self._stage.__exit__(kind, error, trace)

    def wanted(self, asked: object) -> None:
        """Begin to bring a blob that the storekeeper asks for; what is malformed has no effect."""
        match asked:
            case [str(digest), int(size)] if digest not in self._threads and size >= 0:
                blob = Descriptor("", reference.parse_digest(digest), size)
                arguments = (blob, self._stage.name())
                thread = threading.Thread(target=self._hand, args=arguments, daemon=True)
                self._threads[digest] = thread
                thread.start()

    def _hand(self, blob: Descriptor, staged: str) -> None:
        try:
            if not self._bring(blob, staged):
                self._refuse(blob)
        except (errors.Error, OSError) as error:
            log.debug(f"{blob.digest[:19]}: {error}")
            self._spread.leave(blob.digest)
            self._refuse(blob)

    def _refuse(self, blob: Descriptor) -> None:
        try:
            self._wire.send(blob=blob.digest, has=False)
        except OSError:
            return  # the storekeeper is gone, which the engine sees

    def _bring(self, blob: Descriptor, staged: str) -> bool:
        """Hand a blob over; False if the storekeeper is to ask the registry itself."""
        if self._hand_document(blob):
            return True
        writer = self._spread.receive(blob, staged, self._stop)
        fetched = writer is None and self._spread.is_fetcher(blob.digest)
        if fetched:
            writer = self._fetched(blob, f"{staged}.own")
        if writer is None:
            return False
        try:
            self._wire.send_fd(writer.fd, blob=blob.digest, has=True)
            if fetched:
                self._send(blob, writer.fd)
        finally:
            os.close(writer.fd)
        return True

    def _send(self, blob: Descriptor, fd: int) -> None:
        """Send a blob to the others; the storekeeper has it, and must not hear a second answer."""
        try:
            self._spread.send(blob, fd)
        except (errors.Error, OSError) as error:
            log.debug(f"{blob.digest[:19]}: {error}")
            self._spread.leave(blob.digest)

    def _hand_document(self, blob: Descriptor) -> bool:
        if blobs.look(self._store, blob.digest)[0] is None:
            return False
        fd = os.open(blobs.path(self._store, blob.digest), os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._wire.send_fd(fd, blob=blob.digest, has=True)
        finally:
            os.close(fd)
        return True

    def _fetched(self, blob: Descriptor, staged: str) -> Writer:
        writer = Writer(staged, blob)
        try:
            for chunk in self._client.blob(self._name, blob):
                writer.write(chunk)
                if self._stop.is_set():
                    raise InterruptedError
            writer.verify()
        except BaseException:
            os.close(writer.fd)
            raise
        return writer
