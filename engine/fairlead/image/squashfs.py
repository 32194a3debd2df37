"""The superblock of a squashfs image: enough to know what is unpacked, before it is. Pure.

Source: the kernel's ``Documentation/filesystems/squashfs.rst`` and ``fs/squashfs/squashfs_fs.h``.
"""

from __future__ import annotations

import struct
from typing import NamedTuple, NoReturn

from fairlead import errors

SUPERBLOCK_BYTES = 96
MAX_INODES = 10_000_000  # as many entries as an image's layers may have (``sinks.Limits``)
_FIELDS = struct.Struct("<4sIIIIHHHHHHQQQQQQQQ")
_NO_TABLE = (1 << 64) - 1


class Superblock(NamedTuple):
    """What a superblock says: inodes, bytes in use, and whether there are extended attributes."""

    inodes: int
    size: int
    has_xattrs: bool


def superblock(data: bytes, available: int, where: str) -> Superblock:
    """Return what the superblock in data says; ``available`` bytes can be read from its beginning.

    Raises:
        errors.ArchiveError: it is none, of another version, or the file is cut short.
    """
    if len(data) < SUPERBLOCK_BYTES or not data.startswith(b"hsqs"):
        _refuse(where, "holds no squashfs file system")
    fields = _FIELDS.unpack(data[:SUPERBLOCK_BYTES])
    inodes, major, minor, size, xattrs = fields[1], fields[9], fields[10], fields[12], fields[14]
    if (major, minor) != (4, 0):
        _refuse(where, f"is squashfs version {major}.{minor}, not 4.0")
    if size > available:
        _refuse(where, f"is cut short: it has {available} of {size} bytes")
    if inodes > MAX_INODES:
        _refuse(where, f"has {inodes} inodes, more than {MAX_INODES}")
    return Superblock(inodes, size, xattrs != _NO_TABLE)


def _refuse(where: str, why: str) -> NoReturn:
    raise errors.ArchiveError(f"{where}: {why}", hint="write the file again")
