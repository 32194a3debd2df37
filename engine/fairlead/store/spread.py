"""One pull per job: what the nodes of a step lack is fetched by one of them, and sent to all.

A node tells the hub what it ``need``s (``run.hub_blobs`` has the table of messages); the hub makes
one of those that need a blob its fetcher. That one fetches from the registry as it would alone, and
then sends: a small blob through the hub itself, a large one in parts, by sbcast (``sbcast``) or by
a directory that all nodes see (``spread_directory``).

Rules:
- Nothing that comes from a neighbour is believed: size and digest are verified before anybody reads
  a byte of it. What is wrong, or not there, this node fetches from the registry itself, after a
  moment that chance chooses, so that thousands of nodes do not come at once.
- Nobody waits for ever: who waits hears the hub, which hears the fetcher's end, and the hub ends
  with srun.
- A thread that waits reads for all that wait: no thread of its own, none that must be ended.
- Layers that this node was told to fetch come first, in their order, then those it waits for: so
  two nodes cannot wait for each other.
- Parts lie in a directory below the store's ``tmp`` that this process holds a lock on: what a
  killed one leaves is swept with the rest (``leftovers``).
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from fairlead import errors, log
from fairlead.image.manifest import Descriptor
from fairlead.store import blobs, spread_parts
from fairlead.store.blobs import Writer
from fairlead.store.layout import Store

INLINE_LAYER = 12 << 10  # up to here through the hub
INLINE_DOCUMENT = 64 << 10
PIECE = 2_700  # bytes in a message of the hub, as base64
LOOK_S = 0.25  # between two looks at whether the work was stopped
_PER_NODE_S, _LONGEST_S = 0.005, 5.0
_COPY = 1 << 20


class Channel(Protocol):
    """The connection to the hub: ``run.exchange`` has it."""

    def send(self, topic: str, *words: object) -> bool:
        """Send a message; tell whether the hub is still there."""

    def receive(self, timeout_s: float | None = None) -> tuple[str, ...] | None:
        """Return the next message, None when none came in time."""

    def is_open(self) -> bool:
        """Tell whether the hub is still there."""


class Way(Protocol):
    """How a part gets to the other nodes.

    Attributes:
        lasts: the parts are the same files for all nodes, and are removed by the last one.
    """

    lasts: bool

    def open(self) -> int:
        """Return a descriptor of the directory in which this node finds parts.

        Raises:
            errors.Error, OSError: there is none that can be trusted.
        """

    def put(self, fd: int, name: str) -> bool:
        """Send a whole file; tell whether it went as far as can be known here."""

    def close(self, *, last: bool) -> None:
        """Remove what is this node's to remove; last: no other reads any more."""


class _Blob:
    """What the hub has said of a blob; guarded by the spread's condition."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, ...]] = []
        self.attempt = ""  # under which this node is its fetcher
        self.alone = False


class Spread:
    """What this node and its neighbours fetch together; a context manager, for several threads."""

    def __init__(self, channel: Channel, way: Way, store: Store, nodes: int) -> None:
        self._channel, self._way, self._store, self._nodes = channel, way, store, nodes
        self._changed = threading.Condition()
        self._reading = False
        self._blobs: dict[str, _Blob] = {}
        self._last: bool | None = None
        self._fd, self._stopped = -1, False

    def __enter__(self) -> Self:
        """Make ready to receive.

        Raises:
            errors.Error, OSError: this node cannot.
        """
        self._fd = self._way.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        last = False
        if self._way.lasts and self._channel.send("done"):
            last = self._is_last()
        self._way.close(last=last)

    def need(self, wanted: tuple[Descriptor, ...]) -> None:
        """Say at once what this node lacks, so that fetchers are chosen for all of it."""
        for blob in wanted:
            with self._changed:
                if blob.digest in self._blobs:
                    continue
                self._blobs[blob.digest] = _Blob()
            self._channel.send("need", blob.digest, blob.size)

    def need_all(self, wanted: tuple[Descriptor, ...]) -> None:
        """Say all that this node lacks: for no other blob is it waited for."""
        self.need(wanted)
        self._channel.send("all")

    def is_fetcher(self, digest: str) -> bool:
        """Tell whether the others wait for this node to fetch a blob."""
        with self._changed:
            blob = self._blobs.get(digest)
            return blob is not None and bool(blob.attempt)

    def first(self, queue: list[str], stop: threading.Event) -> list[str]:
        """Return digests in the order of work: this node's own to fetch, then the others'.

        The hub answers every need within a moment.
        """
        with self._changed:
            asked = {digest: self._blobs[digest] for digest in queue if digest in self._blobs}
            self._hear(stop, lambda: all(blob.messages or blob.alone for blob in asked.values()))
            own = {
                digest
                for digest, blob in asked.items()
                if any(message[0] == "fetch" for message in blob.messages)
            }
        return sorted(queue, key=lambda digest: digest not in own)

    def receive(self, blob: Descriptor, staged: str, stop: threading.Event) -> Writer | None:
        """Return a blob that a neighbour sent, verified; None where this node is to fetch it.

        Raises:
            errors.SpaceError: this node's disk is full.
        """
        self.need((blob,))
        incoming = spread_parts.Incoming(blob, staged)
        try:
            while (message := self._message(blob.digest, stop)) is not None:
                if message[0] == "fetch":
                    incoming.drop()
                    self._made_fetcher(blob.digest, message[2])
                    return None
                if message[0] == "have":
                    return incoming.whole(message[2], int(message[3]))
                if message[0] in {"part", "piece"}:
                    self._take(incoming, blob, message)
        except (
            spread_parts.MissedError,
            errors.DigestError,
            OSError,
            ValueError,
            IndexError,
        ) as error:
            self._say_vain(blob.digest, error)
        except errors.Error:
            incoming.drop()
            raise
        incoming.drop()
        self.leave(blob.digest)
        self._left_alone(blob.digest, stop)
        return None

    def document(self, digest: str) -> bytes | None:
        """Return a small document that a neighbour sent; None where this node is to fetch it."""
        blob = Descriptor("", digest, 0)
        never = threading.Event()
        self.need((blob,))
        data = b""
        while (message := self._message(digest, never)) is not None:
            if message[0] == "fetch":
                self._made_fetcher(digest, message[2])
                return None
            if message[0] == "piece":
                data = (b"" if message[3] == "0" else data) + _decoded(message[4])
            if message[0] == "have":
                if blobs.digest_of(digest, data) == digest:
                    return data
                self._say_vain(digest, errors.DigestError(""))
                break
        self.leave(digest)
        self._left_alone(digest, never)
        return None

    def send_document(self, digest: str, data: bytes) -> None:
        """Send a document to all who wait for it or will, if this node is its fetcher."""
        if not self.is_fetcher(digest):
            return
        if len(data) <= INLINE_DOCUMENT:
            self._send_inline(digest, data)
        else:
            self._end(digest, "alone")

    def send(self, blob: Descriptor, fd: int) -> None:
        """Send a verified blob to those who wait for it, if this node is its fetcher."""
        if not self.is_fetcher(blob.digest):
            return
        if blob.size <= INLINE_LAYER:
            self._send_inline(blob.digest, os.pread(fd, blob.size, 0))
            return
        if not self._is_waited_for(blob.digest):
            return
        attempt = self._attempt(blob.digest)
        for number, part in enumerate(spread_parts.cut(blob.size)):
            if not self._put(fd, part, spread_parts.name(blob.digest, attempt, number)):
                log.note(
                    f"{blob.digest[:19]}: cannot be sent to the other nodes; each asks the registry"
                )
                self._end(blob.digest, "alone")
                return
            self._channel.send("part", blob.digest, attempt, number)
        self._end(blob.digest, "have", len(spread_parts.cut(blob.size)))

    def leave(self, digest: str) -> None:
        """Say that this node neither fetches a blob for the others nor waits for it any more."""
        with self._changed:
            if digest not in self._blobs:
                return
        self._channel.send("leave", digest)
        self._forget(digest)

    # -- sending -----------------------------------------------------------------------------------

    def _send_inline(self, digest: str, data: bytes) -> None:
        import base64

        attempt = self._attempt(digest)
        pieces = [data[at : at + PIECE] for at in range(0, len(data), PIECE)]
        for number, piece in enumerate(pieces):
            text = base64.b64encode(piece).decode()
            self._channel.send("piece", digest, attempt, number, text)
        self._end(digest, "have", len(pieces))

    def _is_waited_for(self, digest: str) -> bool:
        """Tell the hub that a blob is here; tell whether to send it, which the hub says."""
        self._channel.send("fetched", digest, self._attempt(digest))
        message = self._message(digest, threading.Event())
        if message is not None and message[0] == "spread":
            return True
        self._forget(digest)
        return False

    def _put(self, fd: int, part: spread_parts.Part, name: str) -> bool:
        """Send a part, which is a file of its own."""
        source = -1
        try:
            source = os.memfd_create("fairlead-part", os.MFD_CLOEXEC)
            at, end = part.offset, part.offset + part.size
            while at < end:
                at += os.sendfile(source, fd, at, min(_COPY, end - at))
            return self._way.put(source, name)
        except OSError as error:
            log.debug(f"{name}: {error.strerror}")
            return False
        finally:
            if source >= 0:
                os.close(source)

    def _attempt(self, digest: str) -> str:
        with self._changed:
            return self._blobs[digest].attempt

    def _made_fetcher(self, digest: str, attempt: str) -> None:
        with self._changed:
            self._blobs[digest].attempt = attempt

    def _forget(self, digest: str) -> None:
        with self._changed:
            self._blobs[digest].attempt = ""

    def _end(self, digest: str, topic: str, *words: object) -> None:
        self._channel.send(topic, digest, self._attempt(digest), *words)
        self._forget(digest)

    # -- receiving ---------------------------------------------------------------------------------

    def _take(
        self, incoming: spread_parts.Incoming, blob: Descriptor, message: tuple[str, ...]
    ) -> None:
        topic, attempt, number = message[0], message[2], int(message[3])
        if topic == "piece":
            incoming.add(attempt, number, _decoded(message[4]))
            return
        part, name = (
            spread_parts.cut(blob.size)[number],
            spread_parts.name(blob.digest, attempt, number),
        )
        fd = spread_parts.open_part(name, self._fd, part.size)
        try:
            incoming.begin(attempt, number)
            while data := os.read(fd, _COPY):
                incoming.write(data)
        finally:
            os.close(fd)
            if not self._way.lasts:
                spread_parts.unlink(name, self._fd)

    def _message(self, digest: str, stop: threading.Event) -> tuple[str, ...] | None:
        """Return the next message about a blob; None if there will be none, or stop was set.

        Raises:
            errors.SlurmError: the hub has ended the step.
        """
        with self._changed:
            blob = self._blobs[digest]
            self._hear(stop, lambda: bool(blob.messages) or blob.alone)
            if self._stopped:
                raise errors.SlurmError("the step was ended while its nodes fetched the image")
            return blob.messages.pop(0) if blob.messages else None

    def _hear(self, stop: threading.Event, enough: Callable[[], bool]) -> None:
        """Wait until the hub has said enough, is gone, or stop is set; the caller holds the lock.

        Of those who wait one reads, for all.
        """
        while not (enough() or stop.is_set() or self._stopped or not self._channel.is_open()):
            if self._reading:
                self._changed.wait(LOOK_S)
                continue
            self._reading = True
            self._changed.release()
            try:
                message = self._channel.receive(LOOK_S)
            finally:
                self._changed.acquire()
                self._reading = False
            self._file(message)
            self._changed.notify_all()

    def _file(self, message: tuple[str, ...] | None) -> None:
        if message is not None and message[0] == "last":
            self._last = message[1:] == ("1",)
        if message is not None and message[0] == "stop":
            self._stopped = True
        blob = self._blobs.get(message[1]) if message and len(message) > 1 else None
        if blob is None or message is None:
            return
        if message[0] == "alone":
            blob.alone = True
        else:
            blob.messages.append(message)

    def _is_last(self) -> bool:
        within = threading.Event()
        timer = threading.Timer(_LONGEST_S, within.set)
        timer.start()
        with self._changed:
            self._hear(within, lambda: self._last is not None)
        timer.cancel()
        timer.join()
        return bool(self._last)

    def _say_vain(self, digest: str, error: Exception) -> None:
        why = error.strerror if isinstance(error, OSError) else str(error)
        if isinstance(error, errors.DigestError):
            why = "its content is not what its name says"
        log.note(f"{digest[:19]}: came from a neighbour in vain ({why}); asking the registry")

    def _left_alone(self, digest: str, stop: threading.Event) -> None:
        """Wait a moment before the registry is asked after all: the others may have to, too."""
        log.debug(f"{digest[:19]}: from the registry after all")
        stop.wait(random.uniform(0, min(self._nodes * _PER_NODE_S, _LONGEST_S)))  # noqa: S311 - no secret


def _decoded(text: str) -> bytes:
    import base64

    return base64.b64decode(text, validate=True)
