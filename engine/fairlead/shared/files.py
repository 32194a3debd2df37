"""Image files of the shared store, as they were when they were written: by their checksum.

It guards against a failing disk, not against an enemy: nobody but the storekeeper can write there.
A CRC costs a twentieth of a SHA-256.
"""

from __future__ import annotations

import os

from isal import isal_zlib

PIECE = 1 << 20


def checksum(fd: int) -> str:
    """Return the checksum of a file, ``crc32:`` and eight hexadecimal digits."""
    found, at = 0, 0
    buffer = bytearray(PIECE)
    while count := os.preadv(fd, [buffer], at):
        found = isal_zlib.crc32(memoryview(buffer)[:count], found)
        at += count
    return f"crc32:{found:08x}"


def is_whole(path: str, size: int, digest: str) -> bool:
    """Read a file and tell whether it is what was written."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return os.fstat(fd).st_size == size and checksum(fd) == digest
    except OSError:
        return False  # the disk cannot read it
    finally:
        os.close(fd)
