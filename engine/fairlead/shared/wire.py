"""Messages between a step's engine and the storekeeper: JSON objects, one per line, on a stream.

The engine asks once; then the storekeeper talks and the engine answers ``login`` and ``blob``::

    engine       {"protocol": 1, "image": "HOST/NAME@DIGEST", "target": DIGEST, "suspect": false,
                  "together": false}
    storekeeper  {"login": [["bearer", REALM, SERVICE], ...], "at": NAME}  a registry wants one
    engine       {"header": "Bearer ..."} or {"header": null}
    storekeeper  {"blob": [DIGEST, SIZE]}      have you got it? only if "together"
    engine       {"blob": DIGEST, "has": true} with a descriptor of a file; or false, and without
    storekeeper  {"start": [KEY, LABEL, TOTAL]}, {"advance": [KEY, COUNT]}, {"finish": KEY}
    storekeeper  {"warning": TEXT}
    storekeeper  {"done": SIZE} or {"error": [CODE, MESSAGE, HINT]}

Rules:
- Each side distrusts the other: lines are bounded, types are checked by the reader.
- End of file means that the other side is gone; whoever sees it gives up.
- The storekeeper waits for nobody while it holds a lock of the store: what it says meanwhile is
  ``offer``ed, and lost on an engine that does not listen.
"""

from __future__ import annotations

import _socket  # for descriptors; the connection is given
import array
import json
import os
import select
import threading
import time

from fairlead import errors, log

PROTOCOL = 1
MAX_LINE = 1 << 20
OFFER_S = 0.05
SO_PASSRIGHTS = 83  # Source: include/uapi/asm-generic/socket.h, Linux 6.16
MAX_FDS = 8  # that nobody has taken
MAX_OFFER = 16 << 10  # well below what a socket takes at once that calls itself writable

Message = dict[str, object]


class Wire:
    """One end of the connection. ``send`` may be called from several threads, ``receive`` not."""

    def __init__(self, fd: int) -> None:
        self._fd, self._lock, self._rest = fd, threading.Lock(), b""
        self._fds: list[int] = []

    def close(self) -> None:
        """Hang up."""
        os.close(self._fd)
        self._close_fds()

    def send(self, **message: object) -> None:
        """Send a message.

        Raises:
            OSError: the other side is gone.
        """
        data = _line(message)
        with self._lock:
            self._write(data)

    def send_fd(self, fd: int, **message: object) -> None:
        """Send a message with a descriptor.

        Raises:
            OSError: the other side is gone.
        """
        data = _line(message)
        rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", [fd]))
        with self._lock:
            socket = _socket.socket(fileno=self._fd)
            try:
                sent = socket.sendmsg([data], [rights])
            finally:
                socket.detach()
            self._write(data[sent:])

    def accept_fds(self) -> None:
        """Let descriptors come: the broker has closed the storekeeper's socket to them."""
        socket = _socket.socket(fileno=self._fd)
        try:
            socket.setsockopt(_socket.SOL_SOCKET, SO_PASSRIGHTS, 1)
        except OSError as error:
            log.debug(f"SO_PASSRIGHTS: {error.strerror}")  # before Linux 6.16: they come anyway
        finally:
            socket.detach()

    def take_fd(self) -> int | None:
        """Return the descriptor that came with the message just received; the caller closes it."""
        return self._fds.pop(0) if self._fds else None

    def offer(self, **message: object) -> bool:
        """Send a message if the other side has room for it; tell whether it went.

        Raises:
            OSError: the other side is gone.
        """
        data = _line(message)
        # Other offers are done at once; one that waits in ``send`` keeps the lock: no room then.
        if len(data) > MAX_OFFER or not self._lock.acquire(timeout=OFFER_S):
            return False
        try:
            room = select.poll()
            room.register(self._fd, select.POLLOUT)
            if not room.poll(0):
                return False
            self._write(data)
            return True
        finally:
            self._lock.release()

    def _write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._fd, data) :]

    def receive(self, within_s: float | None = None) -> Message | None:
        """Return the next message, None at the end.

        Args:
            within_s: how long to wait before the other side counts as gone.

        Raises:
            errors.StoreError: what came is no message.
        """
        end = None if within_s is None else time.monotonic() + within_s
        while b"\n" not in self._rest:
            if end is not None and not self._arrives(end - time.monotonic()):
                return None
            try:
                more = self._read()
            except OSError:
                return None
            if not more:
                return None
            self._rest += more
            if len(self._rest) > MAX_LINE:
                raise errors.StoreError("the storekeeper's connection carries nonsense")
        line, _, self._rest = self._rest.partition(b"\n")
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict):
            raise errors.StoreError("the storekeeper's connection carries nonsense")
        return message

    def _read(self) -> bytes:
        """Read what has come, and keep the descriptors that came with it.

        Raises:
            OSError: the other side is gone.
            errors.StoreError: it sends descriptors that nobody asked for.
        """
        room = _socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)
        socket = _socket.socket(fileno=self._fd)
        try:
            data, ancillary, *_ = socket.recvmsg(1 << 16, room, _socket.MSG_CMSG_CLOEXEC)
        finally:
            socket.detach()
        for level, kind, raw in ancillary:
            if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS):
                whole = array.array("i")
                whole.frombytes(raw[: len(raw) - len(raw) % whole.itemsize])
                self._fds += whole
        if len(self._fds) > MAX_FDS:
            self._close_fds()
            raise errors.StoreError("the storekeeper's connection carries nonsense")
        return bytes(data)

    def _close_fds(self) -> None:
        while self._fds:
            os.close(self._fds.pop())

    def _arrives(self, seconds: float) -> bool:
        there = select.poll()
        there.register(self._fd, select.POLLIN)
        return bool(there.poll(max(0.0, seconds * 1000)))


def _line(message: Message) -> bytes:
    return json.dumps(message).encode() + b"\n"


def texts(value: object, count: int) -> list[str]:
    """Return value if it is a list of count strings.

    Raises:
        errors.StoreError: it is not.
    """
    if (
        not isinstance(value, list)
        or len(value) != count
        or not all(isinstance(v, str) for v in value)
    ):
        raise errors.StoreError("the storekeeper's connection carries nonsense")
    return value
