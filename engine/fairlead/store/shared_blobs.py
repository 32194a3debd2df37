"""A second level of compressed layers: a read-only directory on Lustre or NFS, asked first.

It holds ``blobs/sha256/HEX``, as an OCI layout does, and is filled by whoever the site trusts with
it. Nothing in it is believed: a layer is copied, and its size and digest are verified, before
anything of it is unpacked. What is absent, damaged or no plain file is the registry's to deliver;
only absence goes without a line.
"""

from __future__ import annotations

import os
import stat

from fairlead import errors, log
from fairlead.image.manifest import Descriptor
from fairlead.store.blobs import Writer

_PIECE = 1 << 20


def copy(directory: str, descriptor: Descriptor, staged: str) -> Writer | None:
    """Copy a layer to a staged path; None if the directory does not have it, or not undamaged.

    Raises:
        errors.SpaceError: the store's own disk is full.
    """
    algorithm, _, encoded = descriptor.digest.partition(":")
    path = f"{directory}/blobs/{algorithm}/{encoded}"
    try:
        # O_NONBLOCK: a FIFO must not hang the pull.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        _pass_over(path, error.strerror or str(error))
        return None
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or info.st_size != descriptor.size:
            _pass_over(path, f"is not a file of {descriptor.size} bytes")
            return None
        return _copied(fd, path, descriptor, staged)
    finally:
        os.close(fd)


def _copied(fd: int, path: str, descriptor: Descriptor, staged: str) -> Writer | None:
    writer = Writer(staged, descriptor)
    try:
        while data := _read(fd, path):
            writer.write(data)
        writer.verify()
    except (_UnreadableError, errors.DigestError) as error:
        os.close(writer.fd)
        other = isinstance(error, errors.DigestError)
        _pass_over(path, "its content is not what its name says" if other else error.message)
        return None
    except errors.Error:
        os.close(writer.fd)
        raise
    return writer


class _UnreadableError(errors.StoreError):
    """The shared file cannot be read to its end; a failure of the store's own disk is another."""


def _read(fd: int, path: str) -> bytes:
    try:
        return os.read(fd, _PIECE)
    except OSError as error:
        raise _UnreadableError(error.strerror or path) from error


def _pass_over(path: str, why: str) -> None:
    log.note(f"{path}: {why}; fetching from the registry")
