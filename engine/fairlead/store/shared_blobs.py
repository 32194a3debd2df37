"""A second level of compressed layers: a read-only directory on Lustre or NFS, asked first.

It holds ``blobs/sha256/HEX``, as an OCI layout does, and is filled by whoever the site trusts with
it. Nothing in it is believed: a layer is copied, and its size and digest are verified, before
anything of it is unpacked. What is absent, damaged or no plain file is the registry's to deliver;
only absence goes without a line.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator

from fairlead import errors, log
from fairlead.image.manifest import Descriptor
from fairlead.store.blobs import Writer

_PIECE = 1 << 20


class UnreadableError(errors.StoreError):
    """A shared file cannot be read to its end; a failure of the store's own disk is another."""


def find(directory: str, descriptor: Descriptor, say: Callable[[str], None]) -> int | None:
    """Open a layer's file of the right size; None if there is none, and say hears why."""
    algorithm, _, encoded = descriptor.digest.partition(":")
    path = f"{directory}/blobs/{algorithm}/{encoded}"
    try:
        # O_NONBLOCK: a FIFO must not hang the pull.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        say(_passed_over(path, error.strerror or str(error)))
        return None
    info = os.fstat(fd)
    if stat.S_ISREG(info.st_mode) and info.st_size == descriptor.size:
        return fd
    os.close(fd)
    say(_passed_over(path, f"is not a file of {descriptor.size} bytes"))
    return None


def chunks(fd: int) -> Iterator[bytes]:
    """Yield a file's bytes and close it.

    Raises:
        UnreadableError: its disk or server fails.
    """
    with open(fd, "rb", buffering=0) as file:
        while data := _read(file.fileno()):
            yield data


def copy(directory: str, descriptor: Descriptor, staged: str) -> Writer | None:
    """Copy a layer to a staged path; None if the directory does not have it, or not undamaged.

    Raises:
        errors.SpaceError: the store's own disk is full.
    """
    fd = find(directory, descriptor, log.note)
    if fd is None:
        return None
    writer = Writer(staged, descriptor)
    try:
        for data in chunks(fd):
            writer.write(data)
        writer.verify()
    except (UnreadableError, errors.DigestError) as error:
        os.close(writer.fd)
        log.note(passed_over(directory, descriptor, error))
        return None
    except errors.Error:
        os.close(writer.fd)
        raise
    return writer


def passed_over(directory: str, descriptor: Descriptor, error: errors.Error) -> str:
    """Return the line about a file whose content is wrong or cannot be read."""
    unreadable = isinstance(error, UnreadableError)
    why = error.message if unreadable else "its content is not what its name says"
    algorithm, _, encoded = descriptor.digest.partition(":")
    return _passed_over(f"{directory}/blobs/{algorithm}/{encoded}", why)


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, _PIECE)
    except OSError as error:
        raise UnreadableError(error.strerror or str(error)) from error


def _passed_over(path: str, why: str) -> str:
    return f"{path}: {why}; fetching from the registry"
