"""One row of the table of layer semantics: what goes in, and what must come out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import tarmaker as tar
from tarmaker import Entry, directory, file

Part = Entry | bytes
SECOND = 10**9


class Row(NamedTuple):
    """One claim. The expectations name paths without a leading slash."""

    claim: str
    layers: tuple[tuple[Part, ...], ...]
    refused: str = ""  # part of the message; nothing else is looked at then
    has: Mapping[bytes, bytes] = {}  # content of files, targets of links
    gone: tuple[bytes, ...] = ()
    modes: Mapping[bytes, int] = {}
    mtimes: Mapping[bytes, int] = {}
    xattrs: Mapping[bytes, tuple[tuple[bytes, bytes], ...]] = {}
    shared: tuple[tuple[bytes, bytes], ...] = ()
    apart: tuple[tuple[bytes, bytes], ...] = ()
    warns: Mapping[str, int] = {}
    meant: tuple[tuple[Entry, ...], ...] | None = None
    end: bytes = tar.END
    umask: int = 0o022


A, B = file(b"a", b"A"), file(b"b", b"B")
LOWER = (directory(b"d", 0o750, mtime=5 * SECOND), file(b"d/old", b"old"), file(b"a", b"lower"))
OPAQUE = file(b"d/.wh..wh..opq")
XATTRS = ((b"user.one", b"1"), (b"user.two", b"\0\xff"))


def archives(row: Row) -> tuple[bytes, ...]:
    """Return the row's layers as they are fed."""
    return tuple(tar.archive(*parts, end=row.end) for parts in row.layers)


def meant(row: Row) -> tuple[tuple[Entry, ...], ...]:
    """Return the row's layers as the model reads them."""
    if row.meant is not None:
        return row.meant
    layers = tuple(tuple(part for part in parts if isinstance(part, Entry)) for parts in row.layers)
    assert row.refused or all(
        len(one) == len(parts) for one, parts in zip(layers, row.layers, strict=True)
    ), row.claim
    return layers
