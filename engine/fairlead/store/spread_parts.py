"""A blob as the parts that it travels in between nodes: cut, named, put together and verified."""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from fairlead.image.manifest import Descriptor
from fairlead.store.blobs import Writer

# One block of sbcast each: a node that lacks the directory then spoils nothing for the others.
PART = 16 << 20


class Part(NamedTuple):
    """Where in a blob a part lies, and how large it is."""

    offset: int
    size: int


class MissedError(Exception):
    """A part did not come, or not in its turn."""


class Incoming:
    """A blob as its parts come in; one that is sent once more begins anew."""

    def __init__(self, blob: Descriptor, staged: str) -> None:
        self._blob, self._staged = blob, staged
        self._attempt, self._next = "", 0
        self._writer: Writer | None = None

    def begin(self, attempt: str, number: int) -> None:
        """Begin a part, which must be the next one.

        Raises:
            MissedError
        """
        if attempt != self._attempt:
            self.drop()
            self._attempt, self._next = attempt, 0
        if number != self._next:
            raise MissedError(f"part {self._next} is missing")
        self._next += 1
        if self._writer is None:
            self._writer = Writer(self._staged, self._blob)

    def write(self, data: bytes) -> None:
        """Append to the part that was begun; never more than the blob has."""
        assert self._writer is not None
        if self._writer.size + len(data) > self._blob.size:
            raise MissedError("too much came")
        self._writer.write(data)

    def add(self, attempt: str, number: int, data: bytes) -> None:
        """Append a whole part."""
        self.begin(attempt, number)
        self.write(data)

    def whole(self, attempt: str, count: int) -> Writer:
        """Return the blob, verified.

        Raises:
            MissedError, errors.DigestError
        """
        if self._writer is None or attempt != self._attempt or count != self._next:
            raise MissedError(f"part {self._next} is missing")
        self._writer.verify()
        return self._writer

    def drop(self) -> None:
        """Remove what came."""
        if self._writer is not None:
            os.close(self._writer.fd)
            os.unlink(self._staged)
            self._writer = None


def cut(size: int) -> tuple[Part, ...]:
    """Return the parts of a blob."""
    return tuple(Part(at, min(PART, size - at)) for at in range(0, size, PART))


def name(digest: str, attempt: str, number: int) -> str:
    """Return a part's file name."""
    return f"{digest.partition(':')[2]}.{int(attempt)}.{number}"


def open_part(name: str, directory: int, size: int) -> int:
    """Open a part that a neighbour sent.

    Raises:
        OSError, MissedError: there is none of that size.
    """
    # O_NONBLOCK: a FIFO must not hang the pull.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    fd = os.open(name, flags, dir_fd=directory)
    info = os.fstat(fd)
    if stat.S_ISREG(info.st_mode) and info.st_size == size:
        return fd
    os.close(fd)
    raise MissedError(f"a part is not a file of {size} bytes")


def unlink(name: str, directory: int) -> None:
    """Remove a part; one that is gone already is no error."""
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        return
