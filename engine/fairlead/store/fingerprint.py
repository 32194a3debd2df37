"""What a tree should look like, in one digest: so that damage to it can be told later.

What is in it: every name, kind, mode, size, modification time and symbolic link's target. What is
not: the contents of files, which would cost as much as reading the image once more at every pull.
A flipped bit in a file of a tree goes unnoticed; layers of the site store, which are single files,
are hashed whole.

A directory that its owner may not read (images have such) counts as one, without what is in it.
"""

from __future__ import annotations

import hashlib
import os
import stat
from typing import Any, NamedTuple


class Fingerprint(NamedTuple):
    """A tree's digest, the number of its entries and the bytes that they take up on the disk."""

    digest: str
    entries: int
    disk_bytes: int


def of(root: str) -> Fingerprint:
    """Read a tree, in an order that does not depend on the file system.

    Raises:
        OSError: it cannot be read, or changes meanwhile.
    """
    digest = hashlib.sha256()
    info = os.lstat(root)
    _note(digest, b"", info)
    entries, blocks = 1, info.st_blocks
    pending = [os.fsencode(root)]
    links: set[tuple[int, int]] = set()  # a file with two names takes its blocks once
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(folder) as iterator:
                found = sorted(iterator, key=lambda entry: entry.name)
        except PermissionError:
            digest.update(b"closed\0")
            continue
        for entry in found:
            info = entry.stat(follow_symlinks=False)
            _note(digest, entry.name, info)
            entries += 1
            if stat.S_ISDIR(info.st_mode):
                pending.append(entry.path)
            elif stat.S_ISLNK(info.st_mode):
                digest.update(os.readlink(entry.path) + b"\0")
            if info.st_nlink > 1 and not stat.S_ISDIR(info.st_mode):
                key = (info.st_dev, info.st_ino)
                if key in links:
                    continue
                links.add(key)
            blocks += info.st_blocks
        digest.update(b"/\0")
    return Fingerprint(f"sha256:{digest.hexdigest()}", entries, 512 * blocks)


def disk_bytes(path: str) -> int:
    """Return what a file or a tree takes up; what cannot be read or vanishes counts nothing."""
    try:
        return of(path).disk_bytes
    except NotADirectoryError:
        return 512 * os.lstat(path).st_blocks
    except OSError:
        return 0


def _note(digest: Any, name: bytes, info: os.stat_result) -> None:
    # Sizes of directories are the file system's own affair.
    size = 0 if stat.S_ISDIR(info.st_mode) else info.st_size
    digest.update(b"%s\0%o %d %d\0" % (name, info.st_mode, size, info.st_mtime_ns))
