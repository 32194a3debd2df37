"""Blobs that a step's engine hands to the storekeeper: asked for, waited for, read with distrust.

The step's nodes fetch an image together (``store.spread``), and only their engines, which are the
user, can. What comes is a descriptor of a file that its sender may change at any time.

Rules:
- It counts for nothing but its bytes, and those only if they have the digest: a layer goes the same
  way as from a registry, hashed while it is read, once. Whether the user may have the image at all,
  and that its registry has this blob, is found out as ever.
- Nobody waits for an engine under a lock that other users want, and for no blob without end.
- Only a regular file of the right size, on a file system that no user can serve: a read from
  another might never return, and it is done under a lock.
"""

from __future__ import annotations

import ctypes
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator

from fairlead.image.manifest import Descriptor
from fairlead.store.shared_blobs import UnreadableError

PATIENCE_S = 60.0
SLOWEST = 1 << 20  # bytes per second that a blob may take beyond that
_PIECE = 1 << 20
_OFFER_S = 0.05
_LOOK_S = 0.5
# ext2 to 4, XFS, btrfs, tmpfs, ZFS, F2FS, bcachefs. Source: statfs(2)
_LOCAL = {0xEF53, 0x58465342, 0x9123683E, 0x01021994, 0x2FC12FC1, 0xF2F52010, 0xCA451A4E}


class Handed:
    """What an engine was asked for; ``ask`` may be called by several threads."""

    def __init__(self, offer: Callable[[str, int], bool], stop: threading.Event) -> None:
        """Begin; offer asks the engine for a blob, if it has room for the question."""
        self._offer, self._stop = offer, stop
        self._changed = threading.Condition()
        self._asked: set[str] = set()
        self._answers: dict[str, int | None] = {}

    def ask(self, blob: Descriptor) -> int | None:
        """Return a descriptor of a blob's file, None if the engine has none that will do.

        For no thread that holds a lock of the store.
        """
        end = time.monotonic() + PATIENCE_S + blob.size / SLOWEST
        with self._changed:
            if blob.digest in self._asked:
                return None  # a digest that stands for two layers
            self._asked.add(blob.digest)
        while not self._offer(blob.digest, blob.size):
            if self._stop.wait(_OFFER_S) or time.monotonic() > end:
                return None
        with self._changed:
            while blob.digest not in self._answers:
                if self._stop.is_set() or time.monotonic() > end:
                    self._asked.discard(blob.digest)
                    return None
                self._changed.wait(_LOOK_S)
            fd = self._answers.pop(blob.digest)
        if fd is None or is_readable(fd, blob.size):
            return fd
        os.close(fd)
        return None

    def answer(self, digest: str, fd: int | None) -> bool:
        """Take an engine's answer; False if nobody waits for it, and the descriptor is closed."""
        with self._changed:
            if digest in self._asked and digest not in self._answers:
                self._answers[digest] = fd
                self._changed.notify_all()
                return True
        if fd is not None:
            os.close(fd)
        return False


def is_readable(fd: int, size: int) -> bool:
    """Tell whether a file is one that can be read without waiting for its sender."""
    info = os.fstat(fd)
    return stat.S_ISREG(info.st_mode) and info.st_size == size and _type(fd) in _LOCAL


def chunks(fd: int, size: int) -> Iterator[bytes]:
    """Yield a file's bytes, by position, and close it.

    Raises:
        UnreadableError: they cannot be read.
    """
    at = 0
    try:
        while at < size and (data := os.pread(fd, min(_PIECE, size - at), at)):
            at += len(data)
            yield data
    except OSError as error:
        raise UnreadableError(error.strerror or str(error)) from error
    finally:
        os.close(fd)


def _type(fd: int) -> int:
    room = (ctypes.c_ulong * 32)()  # struct statfs: its first word; Python has no call that tells
    libc = ctypes.CDLL(None, use_errno=True)
    return int(room[0]) if libc.fstatfs(fd, ctypes.byref(room)) == 0 else 0
