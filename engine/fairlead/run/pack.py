"""The injection layer as an archive: what ``run.stage`` writes as a tree, for the sinks.

The archive is a layer as images have them, whiteouts included. Directories have the modes of the
image's, everything belongs to root and to 1970, so that equal layouts are equal bytes.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

from fairlead.run import stage

if TYPE_CHECKING:
    from fairlead.run.layer import Layout

_OPAQUE = ".wh..wh..opq"  # image-spec 1.1, layer.md, "Opaque Whiteout"


def archive(layout: Layout, rootfs: str) -> Iterator[bytes]:
    """Yield a layout as an archive, piece by piece.

    Raises:
        OSError: a file of the host cannot be read. elf.ElfError: a library cannot be rewritten.
    """
    made: set[str] = set()
    yield from _folders("", rootfs, made)
    for entry in sorted(layout.entries, key=lambda item: (item.kind != "opaque", item.path)):
        yield from _folders(os.path.dirname(entry.path), rootfs, made)
        if entry.kind == "opaque":
            yield from _folders(entry.path, rootfs, made)
            yield from _file(f"{entry.path}/{_OPAQUE}", b"", 0o644)
        elif entry.kind == "link":
            yield _header(entry.path, tarfile.SYMTYPE, 0o777, link=entry.source)
        elif entry.kind == "made":
            yield from _file(entry.path, layout.made[entry.path], 0o755)
        elif entry.kind == "library":
            content = stage.rewritten(entry.source, layout.rewriting[entry.rewriting])
            yield from _file(entry.path, content, 0o755)
        else:
            content, mode = stage.read_source(entry.source)
            yield from _file(entry.path, content, stage.copy_mode(entry.path, mode))
    yield bytes(2 * tarfile.BLOCKSIZE)


def _folders(path: str, rootfs: str, made: set[str]) -> Iterator[bytes]:
    """Yield a directory and those above it, the outermost first, once each."""
    path = path.rstrip("/")
    if path in made:
        return
    if path:
        yield from _folders(os.path.dirname(path), rootfs, made)
    made.add(path)
    yield _header(f"{path}/", tarfile.DIRTYPE, stage.mode(rootfs + path))


def _file(path: str, content: bytes, mode: int) -> Iterator[bytes]:
    yield _header(path, tarfile.REGTYPE, mode, size=len(content))
    yield content
    yield bytes(-len(content) % tarfile.BLOCKSIZE)


def _header(path: str, kind: bytes, mode: int, *, size: int = 0, link: str = "") -> bytes:
    info = tarfile.TarInfo(f".{path}")
    info.type, info.mode, info.size, info.linkname = kind, mode, size, link
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
