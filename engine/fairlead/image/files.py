"""Files of this machine that hold images: opened without blocking, read by position.

Rules:
- They are the user's or anybody's, so hostile: regular files only (a FIFO or a device never hangs
  or floods a launch), every length bounded before it is read.
- A file is known again by its stamp (device, inode, size, times), so that a launch need not read
  it. A stamp younger than the grain of file times proves nothing and is not given.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from fairlead import errors

PIECE_BYTES = 1 << 20
# Time stamps of some network file systems have whole seconds; a change within one may not show.
_GRAIN_S = 2.0
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


class Files(Protocol):
    """Named files of an image: a directory, or an archive."""

    where: str

    def size(self, name: str) -> int | None:
        """Return a file's size in bytes, None if there is no such file."""

    def chunks(self, name: str) -> Iterator[bytes]:
        """Yield a file's bytes, exactly as many as ``size`` says.

        Raises:
            errors.ArchiveError: it is not there, cannot be read, or has become shorter.
        """

    def close(self) -> None:
        """Close what is open."""


class Folder:
    """The files below a directory. Names are made here, of checked digests, never by the image."""

    def __init__(self, where: str) -> None:
        self.where = where

    def size(self, name: str) -> int | None:
        """Return a file's size in bytes, None if there is no such file."""
        try:
            info = os.stat(f"{self.where}/{name}")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise failure(error, f"{self.where}/{name}") from error
        return info.st_size

    def chunks(self, name: str) -> Iterator[bytes]:
        """Yield a file's bytes."""
        path = f"{self.where}/{name}"
        fd, info = open_file(path)
        try:
            yield from chunks(fd, 0, info.st_size, path)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Nothing stays open."""


def open_file(path: str) -> tuple[int, os.stat_result]:
    """Open a regular file for reading.

    Raises:
        errors.ImageNotFoundError: it is not there.
        errors.ArchiveError: it may not be read, or is no regular file.
    """
    try:
        fd = os.open(path, _FLAGS)
    except OSError as error:
        raise failure(error, path) from error
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode):
        os.close(fd)
        raise errors.ArchiveError(f"{path}: is no regular file")
    return fd, info


def read_at(fd: int, offset: int, size: int, where: str) -> bytes:
    """Return exactly size bytes.

    Raises:
        errors.ArchiveError: the file ends before.
    """
    return b"".join(chunks(fd, offset, size, where))


def chunks(fd: int, offset: int, size: int, where: str) -> Iterator[bytes]:
    """Yield exactly size bytes from offset.

    Raises:
        errors.ArchiveError: the file ends before, or cannot be read.
    """
    at, end = offset, offset + size
    while at < end:
        try:
            data = os.pread(fd, min(PIECE_BYTES, end - at), at)
        except OSError as error:
            raise failure(error, where) from error
        if not data:
            raise errors.ArchiveError(f"{where}: is cut short: it ends at byte {at}, not {end}")
        yield data
        at += len(data)


def document(files: Files, name: str, limit: int) -> bytes | None:
    """Return a small file whole, None if it is not there.

    Raises:
        errors.ArchiveError: it has more than limit bytes.
    """
    size = files.size(name)
    if size is None:
        return None
    if size > limit:
        raise errors.ArchiveError(f"{files.where}: {name} has {size} bytes, more than {limit}")
    return b"".join(files.chunks(name))


class Look(NamedTuple):
    """What files look like from outside; ``settled`` if none has changed just now."""

    text: str
    settled: bool


def look(*paths: str) -> Look:
    """Look at files without opening them. The first must exist, the others need not.

    Raises:
        errors.ImageNotFoundError, errors.ArchiveError: the first cannot be looked at.
    """
    parts, youngest = [], 0.0
    for path in paths:
        try:
            info = os.stat(path)
        except OSError as error:
            if path == paths[0]:
                raise failure(error, path) from error
            parts.append("-")
            continue
        youngest = max(youngest, info.st_mtime, info.st_ctime)
        numbers = (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
        parts.append(".".join(map(str, numbers)))
    return Look(" ".join(parts), abs(time.time() - youngest) > _GRAIN_S)


def failure(error: OSError, path: str) -> errors.Error:
    """Return the error for a file that cannot be opened or read."""
    reason = os.strerror(error.errno or 0)
    if error.errno in {errno.ENOENT, errno.ENOTDIR}:
        return errors.ImageNotFoundError(
            f"{path}: {reason}", hint="check the path; a job needs it on every one of its nodes"
        )
    return errors.ArchiveError(f"{path}: {reason}", hint="check its owner and permissions")
