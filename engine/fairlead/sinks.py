"""The C reader of layers and its sinks: one merged directory tree, or one EROFS image per layer.

Typed as ``kernel`` is, and by its rules; apart from it, since a launch from the store needs none.
"""

from __future__ import annotations

import _thread
import errno
import os
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

from fairlead import errors
from fairlead.kernel import check, ffi, lib


class Limits(NamedTuple):
    """Bounds on what one image may cost, over all its layers; exceeding one is a LayerError.

    Attributes:
        entries: number of entries.
        bytes: sum of the files' logical sizes, holes included.
        depth: directories above an entry, and levels of the tree.
        extended_bytes: size of one extended header (PAX records, a GNU long name).
        sparse_regions: pieces of data in one sparse file.
    """

    entries: int = 10_000_000
    bytes: int = 1 << 40
    depth: int = 1024
    extended_bytes: int = 1 << 20
    sparse_regions: int = 1 << 17


class LayerStats(NamedTuple):
    """What one layer held, and a line for each kind of thing in it that may surprise a user."""

    entries: int
    bytes: int
    skipped_devices: int
    warnings: tuple[str, ...]


# In the order of enum sink_warning.
_WARNINGS = (
    "names that are absolute or hold '..', kept inside the root",
    "paths that stand more than once, the last one kept",
    "whiteouts that are not empty, their content ignored",
    "extended attributes that the file system of the store cannot hold, left out",
)


class LayerSink:
    """What LayerTree and LayerImage share: layers go in, piece by piece.

    Not for use by two threads at once; the calls run without the interpreter's lock.
    """

    def __init__(self, layer: Any, target_fd: int) -> None:
        self._layer: Any = layer
        self._target_fd = target_fd
        # A thread may still be in feed() when another, interrupted, comes to close().
        self._lock = _thread.allocate_lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free what is held; what was written stays as it is."""
        with self._lock:
            if self._layer is not None:
                lib.layer_close(self._layer)
                self._layer = None

    def begin_layer(self) -> None:
        """Start the next layer.

        Raises:
            errors.SpaceError, errors.StoreError: the place where it goes cannot be used.
        """
        self._done(lib.layer_begin(self._open()))

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Apply the next bytes of the layer's uncompressed archive.

        Raises:
            errors.LayerError: the archive is damaged or holds what the layer rules refuse.
            errors.SpaceError: the file system is full, over quota or read-only.
            errors.StoreError: the kernel refuses otherwise.
        """
        # Released at once: a view kept alive by an error's traceback crashes the collector.
        with self._lock:
            with ffi.from_buffer(data) as view:
                result = lib.layer_feed(self._open(), view, len(view))
            self._done(result)

    def end_layer(self) -> LayerStats:
        """Finish the layer.

        Raises:
            errors.LayerError: the archive is cut short; of an image also what ``feed`` would raise,
            where that had to wait for the lower layers.
            errors.SpaceError, errors.StoreError: as for ``feed``.
        """
        with self._lock:
            self._done(lib.layer_end(self._open()))
            stats = lib.layer_stats(self._layer)
        warnings = tuple(
            f"{count} {text} (first: {os.fsdecode(ffi.string(example))})"
            for count, text, example in zip(stats.warnings, _WARNINGS, stats.examples, strict=True)
            if count
        )
        return LayerStats(stats.entries, stats.bytes, stats.skipped_devices, warnings)

    def _open(self) -> Any:
        if self._layer is None:
            raise ValueError("the layer is closed")
        return self._layer

    def _path(self, entry: str) -> str:
        """Return where an entry of the archive goes, for messages."""
        return _path_of(self._target_fd)

    def _done(self, result: int) -> None:
        if result >= 0:
            return
        report = lib.layer_report(self._layer)
        entry = os.fsdecode(ffi.string(report.entry))
        detail = os.fsdecode(ffi.string(report.detail))
        if report.refused:
            raise errors.LayerError(f"entry {entry!r}: {detail}" if entry else f"archive: {detail}")
        cause = OSError(report.err, os.strerror(report.err), entry)
        if report.err in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise errors.space(cause, self._path(entry)) from cause
        raise errors.StoreError(f"cannot {detail} {self._path(entry)}: {cause.strerror}") from cause


def _path_of(fd: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return f"descriptor {fd}"


class LayerTree(LayerSink):
    """Layers of an image, applied in order to one merged tree of the calling user (``layer.h``).

    Between ``begin_layer`` and ``end_layer`` the archive is fed in pieces of any size. After an
    error the tree is garbage: remove it with ``remove_tree``.

    Args:
        root_fd: the directory that becomes the root; stays the caller's, must outlive this.
    """

    def __init__(self, root_fd: int, limits: Limits | None = None) -> None:
        handle = ffi.new("struct layer **")
        bounds = ffi.new("struct layer_limits *", tuple(limits or Limits()))
        check(lib.layer_open_tree(root_fd, bounds, handle), _path_of(root_fd))
        super().__init__(handle[0], root_fd)

    def _path(self, entry: str) -> str:
        return os.path.join(_path_of(self._target_fd), entry.lstrip("/"))


class ImageFacts(NamedTuple):
    """What is known of a layer's image once it is finished.

    Attributes:
        size, inodes: bytes of the file, holes included; how many files of any type it holds.
        stands_alone: it means the same above any lower layers; else above those that it was given
            only, and it may be stored by its ChainID, never by its DiffID.
        root_listed: the layer describes the root; else it is 0755, of 1970, and that of the topmost
            lower layer that lists it counts.
        markers: whiteouts and opaque directories; without any it can be mounted without overlay.
    """

    size: int
    inodes: int
    stands_alone: bool
    root_listed: bool
    markers: int


class LayerImage(LayerSink):
    """One layer, written to one file as an EROFS image for an overlay (``erofs.h``).

    As for a tree, but with one layer. When ``needs_lower`` is true before the end, ``set_lower``
    must be called; only then do the lower images have to be complete. After an error the file is
    garbage; it holds no superblock before the end.

    Args:
        image_fd: an empty regular file, open to read and write; stays the caller's.
        scratch_fd: another one, which may have no name (O_TMPFILE); it grows to a few hundred bytes
            for each entry, and its content is of no use afterwards. Stays the caller's.
        limits: of this layer alone.
    """

    def __init__(self, image_fd: int, scratch_fd: int, limits: Limits | None = None) -> None:
        handle = ffi.new("struct layer **")
        bounds = ffi.new("struct layer_limits *", tuple(limits or Limits()))
        check(lib.layer_open_image(image_fd, scratch_fd, bounds, handle), _path_of(image_fd))
        super().__init__(handle[0], image_fd)

    @property
    def needs_lower(self) -> bool:
        """Whether what was fed so far has a meaning only above known lower layers; stays true."""
        with self._lock:
            return bool(lib.layer_image_facts(self._open()).asked)

    def set_lower(self, lower_fds: Sequence[int]) -> None:
        """Give the finished images of the lower layers, the topmost last; none for the lowest one.

        Harmless when it turns out not to be needed. The descriptors must stay open until
        ``end_layer`` has returned.

        Raises:
            errors.StoreError: one of them is not an image of ours, or is damaged.
        """
        with self._lock:
            array = ffi.new("int[]", list(lower_fds))
            self._done(lib.layer_set_lower(self._open(), array, len(lower_fds)))

    def facts(self) -> ImageFacts:
        """Return what the finished image is; before ``end_layer`` it is not complete."""
        with self._lock:
            return _facts(lib.layer_image_facts(self._open()))


def write_index(image_fd: int, scratch_fd: int, layer_fds: Sequence[int]) -> ImageFacts:
    """Write the index of finished images, the topmost last; descriptors as for ``LayerImage``.

    Raises:
        OSError: EBADMSG: one of them is no image of ours.
    """
    facts, fds = ffi.new("struct erofs_facts *"), ffi.new("int[]", list(layer_fds))
    depth, count = Limits().depth, len(layer_fds)
    check(lib.erofs_index_write(image_fd, scratch_fd, depth, fds, count, facts), "index")
    return _facts(facts)


def _facts(found: Any) -> ImageFacts:
    listed = bool(found.root_listed)
    return ImageFacts(found.size, found.inodes, not found.asked, listed, found.markers)


def remove_tree(path: str) -> None:
    """Remove path and everything below it, whatever the modes and however deep; absent is no error.

    No symbolic link is followed at or below path, and no mount is entered.

    Raises:
        OSError: the first failure; what is left can be removed by a later call.
    """
    parent, name = os.path.split(path.rstrip("/"))
    if name in ("", ".", ".."):
        raise ValueError(f"not the name of a tree: {path!r}")
    try:
        dirfd = os.open(parent or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        check(lib.tree_remove(dirfd, os.fsencode(name)), path)
    finally:
        os.close(dirfd)
