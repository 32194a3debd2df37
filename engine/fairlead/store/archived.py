"""The tar archive of a root file system, unpacked by the rules of layers."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from typing import IO

from fairlead import errors, sinks
from fairlead.image import files

_PIECE = 1 << 20
_HEAD = 8


def unpack(path: str, target: str) -> None:
    """Unpack an archive, plain or compressed, to the new directory target.

    Raises:
        errors.ImageNotFoundError: there is no such file.
        errors.ArchiveError, errors.LayerError: it is damaged, or holds what a layer must not.
        errors.SpaceError: the file system is full.
    """
    fd, _ = files.open_file(path)
    root = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with open(fd, "rb") as file, sinks.LayerTree(root) as tree:
            stream = _plain(file)
            tree.begin_layer()
            while piece := stream.read(_PIECE):
                tree.feed(piece)
            tree.end_layer()
    except errors.LayerError as error:
        raise errors.LayerError(f"{path}: {error.message}") from error
    except (OSError, EOFError, ValueError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise files.failure(error, path) from error
        raise errors.ArchiveError(f"{path}: cannot be decompressed: {error}") from error
    finally:
        os.close(root)


def _plain(file: IO[bytes]) -> IO[bytes]:
    head = os.pread(file.fileno(), _HEAD, 0)
    opened = next((opener for magic, opener in _OPENERS if head.startswith(magic)), None)
    return opened(file) if opened else file


def _gzip(file: IO[bytes]) -> IO[bytes]:
    from isal import igzip

    return igzip.open(file, "rb")  # type: ignore[no-any-return,no-untyped-call]


def _zstd(file: IO[bytes]) -> IO[bytes]:
    import zstandard

    return zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(file)


def _xz(file: IO[bytes]) -> IO[bytes]:
    import lzma

    return lzma.open(file, "rb")


_OPENERS: tuple[tuple[bytes, Callable[[IO[bytes]], IO[bytes]]], ...] = (
    (b"\x1f\x8b", _gzip),
    (b"\x28\xb5\x2f\xfd", _zstd),
    (b"\xfd7zXZ\0", _xz),
)
