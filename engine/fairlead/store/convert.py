"""A layer's blob becomes part of a tree: decompress, hash, apply, all in one pass.

Rules:
- The compression is what the bytes say, not what the media type says; the DiffID decides.
- gzip may have several members (eStargz), zstd several frames and skippable ones (zstd:chunked);
  both are read to the end. xz and bzip2 are refused: no specification has them, and they are slow.
- Everything is hashed to the end of the stream, also what follows the end of the archive.
- Memory does not depend on the layer: a few buffers of fixed size, and a zstd window. One of more
  than 8 MiB (``zstd --ultra``, ``--long``) is had by one layer of a process at a time, one of more
  than 128 MiB by none. A layer that unpacks to more than a thousand times its size is refused.
- The blob's own digest is not looked at here: whoever hands the stream over has verified it.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import queue
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, Self

from isal import igzip, igzip_lib

from fairlead import errors, log, sinks

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

PIECE_BYTES = 1 << 20
BUFFERS = 3
WINDOW_BYTES = 128 << 20
COMMON_WINDOW_BYTES = 8 << 20  # that of zstd -19, and of what builds images
RATIO = 1000
RATIO_FROM_BYTES = 1 << 30

_ISAL_ERROR: Any = igzip_lib.error  # a class, annotated as an instance
_GZIP_ERRORS: tuple[type[Exception], ...] = (gzip.BadGzipFile, _ISAL_ERROR, zlib.error)
_LARGE_WINDOW = threading.Lock()
_REFUSED = {b"\xfd7zXZ\x00": "xz", b"BZh": "bzip2"}


class Target(Protocol):
    """Where a layer goes: a tree (``sinks.LayerTree``), or an image of its own (``erofs``)."""

    def begin_layer(self) -> None:
        """Start."""

    def feed(self, data: memoryview) -> None:
        """Take the next bytes of the archive."""

    def end_layer(self) -> sinks.LayerStats:
        """Finish, and say what was in it."""


def apply(
    blob: str | io.RawIOBase,
    media_type: str,
    diff_id: str,
    tree: Target,
    progress: log.Progress | None = None,
    *,
    size: int | None = None,
) -> sinks.LayerStats:
    """Apply one layer to a tree.

    Args:
        blob: the compressed layer, as a path or a stream of its bytes; read to its end, and left
            open if it is a stream.
        media_type: what the manifest calls it; for messages only.
        diff_id: the digest that the uncompressed archive must have.
        tree: where it goes; garbage after an error.
        progress: told how many compressed bytes have been used up.
        size: of the compressed layer, when known; for progress only.

    Raises:
        errors.LayerError: the compression or the archive is damaged or refused.
        errors.DigestError: the uncompressed bytes do not have the DiffID.
        errors.SpaceError, errors.StoreError: the tree cannot be written.
        OSError: the blob cannot be read.
    """
    if isinstance(blob, str):
        with open(blob, "rb", buffering=0) as file:
            return apply(
                file, media_type, diff_id, tree, progress, size=os.fstat(file.fileno()).st_size
            )
    source = _Source(blob)
    key = f"unpack {diff_id}"
    if progress is not None:
        progress.start(key, f"unpack {diff_id.partition(':')[2][:12]}", size)
    try:
        with _named(diff_id), _decompressed(source, media_type) as archive:
            stats = _apply(archive, source, diff_id, tree, progress, key)
    finally:
        if progress is not None:
            progress.finish(key)
    return stats


def _apply(
    archive: io.RawIOBase,
    source: _Source,
    diff_id: str,
    tree: Target,
    progress: log.Progress | None,
    key: str,
) -> sinks.LayerStats:
    algorithm, _, wanted = diff_id.partition(":")
    digest = hashlib.new(algorithm)

    def work(piece: memoryview) -> None:
        digest.update(piece)
        tree.feed(piece)

    total = reported = 0
    tree.begin_layer()
    with _Behind(work) as behind:
        while count := _fill(archive, buffer := behind.buffer()):
            behind.put(buffer, count)
            total += count
            if total > RATIO_FROM_BYTES and total > RATIO * source.taken:
                raise errors.LayerError(
                    f"the archive is more than {RATIO} times larger than its compressed form"
                )
            if progress is not None:
                progress.advance(key, source.taken - reported)
                reported = source.taken
    if digest.hexdigest() != wanted:
        raise errors.DigestError(
            f"uncompressed content has digest {algorithm}:{digest.hexdigest()}, its DiffID differs"
        )
    return tree.end_layer()


def _fill(archive: io.RawIOBase, buffer: memoryview) -> int:
    """Read until the buffer is full or the stream ends: small pieces cost a call each."""
    count = 0
    while count < len(buffer) and (more := archive.readinto(buffer[count:])):
        count += more
    return count


@contextmanager
def _named(diff_id: str) -> Iterator[None]:
    """Say which layer an error is about."""
    try:
        yield
    except (errors.LayerError, errors.DigestError) as error:
        raise type(error)(f"layer {diff_id}: {error.message}", hint=error.hint) from error


class _Source(io.RawIOBase):
    """The blob's bytes, counted; the first few can be looked at beforehand."""

    def __init__(self, blob: io.RawIOBase) -> None:
        super().__init__()
        self._blob, self._head = blob, b""
        self.taken = 0

    def head(self, size: int) -> bytes:
        while len(self._head) < size:
            more = self._blob.read(size - len(self._head))
            if not more:
                break
            self._head += more
        return self._head

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        if self._head:
            count = min(len(view), len(self._head))
            view[:count] = self._head[:count]
            self._head = self._head[count:]
        else:
            count = self._blob.readinto(view) or 0
        self.taken += count
        return count


def _decompressed(source: _Source, media_type: str) -> io.RawIOBase:
    head = source.head(512)
    # Asked first: a file may be called "BZh", and its name is what an archive begins with.
    if head[257:262] == b"ustar":
        return source
    if head.startswith(b"\x1f\x8b"):
        return _Gzip(source)
    # A frame, or a skippable one. Source: RFC 8878, 3.1.
    if head.startswith(b"\x28\xb5\x2f\xfd") or (
        head[1:4] == b"\x2a\x4d\x18" and 0x50 <= head[0] <= 0x5F
    ):
        return _Zstd(source)
    for magic, name in _REFUSED.items():
        if head.startswith(magic):
            raise errors.LayerError(
                f"{name} compression is not supported ({media_type})",
                hint="push the image again with gzip or zstd layers",
            )
    return source


class _Gzip(io.RawIOBase):
    """All members of a gzip stream."""

    def __init__(self, source: _Source) -> None:
        super().__init__()
        file: Any = igzip.IGzipFile  # its constructor has no annotations
        self._file = file(fileobj=source, mode="rb")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        try:
            count: int = self._file.readinto(buffer)
        except EOFError:
            _damaged("gzip", "it is cut short")
        except _GZIP_ERRORS as error:
            _damaged("gzip", str(error))
        return count


class _Zstd(io.RawIOBase):
    """All frames of a zstd stream. One that is cut short just ends: the DiffID tells.

    The first frame says what all may have for a window; what stands before it may be anything.
    """

    def __init__(self, source: _Source) -> None:
        import zstandard

        super().__init__()
        self._alone, self._error = False, zstandard.ZstdError
        try:
            window = zstandard.get_frame_parameters(source.head(18)).window_size
        except zstandard.ZstdError:
            window = 0  # nonsense; or, without an error, a skippable frame: what follows is unknown
        limit = COMMON_WINDOW_BYTES if 0 < window <= COMMON_WINDOW_BYTES else WINDOW_BYTES
        stream: Any = source  # only read() is called; the annotation asks for a whole file
        self._stream: Any = zstandard.ZstdDecompressor(max_window_size=limit).stream_reader(
            stream, read_size=1 << 18, read_across_frames=True, closefd=False
        )
        if limit > COMMON_WINDOW_BYTES:
            _LARGE_WINDOW.acquire()
            self._alone = True

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        if self._stream is None:
            return 0
        try:
            count: int = self._stream.readinto(buffer)
        except self._error as error:
            _damaged("zstd", str(error))
        if not count:
            self._give_way()
        return count

    def close(self) -> None:
        self._give_way()
        super().close()

    def _give_way(self) -> None:
        # At the end of the stream already: the layer may then wait for one that waits for this.
        self._stream = None  # and its window
        if self._alone:
            self._alone = False
            _LARGE_WINDOW.release()


def _damaged(kind: str, why: str) -> NoReturn:
    raise errors.LayerError(f"the {kind} stream is damaged: {why}")


class _Behind:
    """Hands pieces to a thread that works on them, in order, while the caller makes the next ready.

    Decompressing costs about as much as hashing and writing, and all release the interpreter's
    lock. The caller keeps the side that may wait for the network: the thread always ends soon.
    """

    def __init__(self, work: Callable[[memoryview], None]) -> None:
        self._work = work
        self._error: BaseException | None = None
        self._failed = self._stopped = False
        self._free: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        self._full: queue.SimpleQueue[tuple[memoryview, int] | None] = queue.SimpleQueue()
        for _ in range(BUFFERS):
            self._free.put(memoryview(bytearray(PIECE_BYTES)))
        self._thread = threading.Thread(target=self._run, name="apply-layer", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stopped = kind is not None
        self._full.put(None)
        self._thread.join()
        if kind is None:
            self._check()

    def buffer(self) -> memoryview:
        """Wait for a buffer to fill; raises what the work raised."""
        buffer = self._free.get()
        self._check()
        return buffer

    def put(self, buffer: memoryview, count: int) -> None:
        self._full.put((buffer, count))

    def _check(self) -> None:
        # Neither kept here nor with its traceback: frames that hold our buffers would be in a
        # cycle, and CPython 3.11.2 crashes when it collects a memoryview in one.
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _run(self) -> None:
        while (item := self._full.get()) is not None:
            buffer, count = item
            try:
                if not self._failed and not self._stopped:
                    self._work(buffer[:count])
            except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
                self._failed, self._error = True, error.with_traceback(None)
            self._free.put(buffer)
