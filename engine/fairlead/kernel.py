"""Typed calls into the C extension; the only module that imports it.

Rules:
- The C side returns -errno and never prints; here that becomes an ``OSError`` with the path, or the
  error class that fits. Paths are bytes on the C side (``os.fsencode``).
- No policy: what to mount, which limits, and what an error means to the user is decided by the
  callers.
"""

from __future__ import annotations

import _thread
import errno
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

from fairlead import _c_ext, errors
from fairlead._c_ext import ffi as _ffi
from fairlead._c_ext import lib as _lib

ffi: Any = _ffi
lib: Any = _lib
EXTENSION = str(_c_ext.__file__)


def _check(result: int, path: str) -> int:
    if result < 0:
        raise OSError(-result, os.strerror(-result), path)
    return result


# -- files -----------------------------------------------------------------------------------------


def rename_noreplace(old: str, new: str) -> None:
    """Rename, or raise FileExistsError when the new name is taken (renameat2 NOREPLACE)."""
    _check(lib.files_rename_noreplace(os.fsencode(old), os.fsencode(new)), new)


def open_in_root(root_fd: int, path: str, flags: int) -> int:
    """Open path as if root_fd were ``/``: nothing leads out of it (openat2, RESOLVE_IN_ROOT)."""
    return _check(lib.files_open_in_root(root_fd, os.fsencode(path), flags, 0), path)


# -- namespaces ------------------------------------------------------------------------------------


class Failure(Exception):  # noqa: N818 - internal, always turned into an errors.Error
    """A step of building or entering the container failed in the kernel.

    Attributes:
        step: name of the step, lower case, as in ``report.h`` (``userns``, ``overlay``, ``source``
        ...).
        errno: the kernel's error number.
        detail: path or name concerned.
    """

    def __init__(self, step: str, errno: int, detail: str) -> None:
        super().__init__(f"{step}: {detail}: {os.strerror(errno)}")
        self.step, self.errno, self.detail = step, errno, detail


_STEPS = {getattr(lib, name): name[5:].lower() for name in dir(lib) if name.startswith("STEP_")}


def _report(result: int, report: Any) -> None:
    if result < 0:
        detail = os.fsdecode(ffi.string(report.detail))
        raise Failure(_STEPS[report.step], report.err, detail)


def end_with(parent: int) -> bool:
    """Have this process killed when its parent ends; tell whether that is still there."""
    return bool(lib.namespace_end_with(parent) == 0)


def create_namespace() -> tuple[int, int]:
    """Move this process, which must have one thread only, into a new user and mount namespace.

    Returns:
        Descriptors of the user and of the mount namespace, close-on-exec.

    Raises:
        Failure: with step ``userns``.

    Source: user_namespaces(7); slurm.md "Pitfalls".
    """
    report = ffi.new("struct report *")
    _report(lib.namespace_create(report), report)
    flags = os.O_RDONLY | os.O_CLOEXEC
    return os.open("/proc/self/ns/user", flags), os.open("/proc/self/ns/mnt", flags)


def compose_root(block: bytes, mounts: tuple[int, ...] = ()) -> None:
    """Execute the compose part of a launch block: mounts, pivot, check of directory and command.

    Args:
        block: the launch block.
        mounts: the detached mounts that its root calls ``mount:N``; the caller closes them.

    Raises:
        Failure: the process's mount namespace is then half made; the process must end.
    """
    report = ffi.new("struct report *")
    _report(lib.compose_root(block, len(block), list(mounts), len(mounts), report), report)


def show_image(place: str, mounts: tuple[int, ...]) -> str:
    """Mount an image's layers, lowest first, merged and read-only; returns the directory to read.

    For a process that ``create_namespace`` moved; place is a directory of its own.

    Raises:
        Failure: with step ``stage``, ``layer`` or ``overlay``.
    """
    report = ffi.new("struct report *")
    numbers = ffi.new("int[]", list(mounts))
    given = ffi.new("struct root_mounts *", (numbers, len(mounts)))
    _report(lib.root_view(os.fsencode(place), given, report), report)
    return f"{place}/view"


def exec_run(block: bytes, argv: tuple[str, ...]) -> None:
    """Drop privileges, apply the block's environment, execute; returns only by raising.

    Raises:
        Failure: with step ``workdir``, ``command`` or ``privilege``.
    """
    words = [ffi.new("char[]", os.fsencode(word)) for word in argv]
    vector = ffi.new("char *[]", [*words, ffi.NULL])
    report = ffi.new("struct report *")
    _report(lib.exec_run(block, len(block), vector, report), report)


# -- channel ---------------------------------------------------------------------------------------


def send_outcome(socket_fd: int, status: int, text: str, fds: tuple[int, int, int] | None) -> None:
    """Send the engine's one message to the task that started it (``channel.h``)."""
    array = ffi.new("int[]", list(fds)) if fds else ffi.NULL
    line = text.encode(errors="surrogateescape")[:2000]
    _check(lib.channel_send(socket_fd, status, line, array), "channel to slurmstepd")


# -- broker ----------------------------------------------------------------------------------------


def broker_mount(socket_fd: int, image: str) -> tuple[int, ...]:
    """Ask the broker for an image's layers (``broker.h``).

    Args:
        socket_fd: the step's connection to the broker.
        image: HEX of the manifest's digest.

    Returns:
        Detached mounts, lowest layer first; or one mount of all layers.

    Raises:
        OSError: ENOENT without a grant; its ``filename`` says what was refused.
    """
    fds, detail = ffi.new("int[]", lib.BROKER_MAX_LAYERS), ffi.new("char[512]")
    count = lib.broker_mount(socket_fd, image.encode(), fds, detail, 512)
    _check(count, os.fsdecode(ffi.string(detail)))
    return tuple(fds[0:count])


def broker_keeper(socket_fd: int) -> int:
    """Ask the broker for a storekeeper; returns a connected stream socket.

    Raises:
        OSError: its ``filename`` says what was refused.
    """
    return _broker_gave(lib.broker_keeper, socket_fd)


def broker_upper(socket_fd: int, size: str) -> int:
    """Ask the broker for a disk that the container may write to; returns a detached mount.

    Raises:
        OSError: ENOSPC: too little is free, EDQUOT: the site allows less; ``filename`` says more.
    """
    return _broker_gave(lib.broker_upper, socket_fd, os.fsencode(size))


def _broker_gave(ask: Any, *words: Any) -> int:
    detail = ffi.new("char[512]")
    fd: int = ask(*words, detail, 512)
    return _check(fd, os.fsdecode(ffi.string(detail)))


# -- layers ----------------------------------------------------------------------------------------


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
        _check(lib.layer_open_tree(root_fd, bounds, handle), _path_of(root_fd))
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
        _check(lib.layer_open_image(image_fd, scratch_fd, bounds, handle), _path_of(image_fd))
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
    _check(lib.erofs_index_write(image_fd, scratch_fd, depth, fds, count, facts), "index")
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
        _check(lib.tree_remove(dirfd, os.fsencode(name)), path)
    finally:
        os.close(dirfd)


# -- plans -----------------------------------------------------------------------------------------


def plan_directory() -> str:
    """Return where the calling user's kept plans are."""
    path = ffi.new("char[]", lib.PLAN_DIRECTORY_SIZE)
    lib.plan_cache_directory(path)
    return os.fsdecode(ffi.string(path))


def plan_hash(data: bytes) -> int:
    """Return the hash that names an entry after its key, and sums it."""
    return int(lib.plan_hash(data, len(data)))


def plan_witness(path: str, flags: int) -> str:
    """Return what C sees of a path: ``host.witness`` writes the same."""
    text = ffi.new("char[]", lib.PLAN_WITNESS_SIZE)
    lib.plan_witness(os.fsencode(path), flags, text)
    return os.fsdecode(ffi.string(text))


def plan_find(directory: str, key: bytes, environ: Mapping[str, str]) -> bytes | None:
    """Return the launch block that the cache has for a key in this environment, or None."""
    plan = ffi.new("struct plan *")
    variables, _held = _environment(environ)
    if lib.plan_cache_find(os.fsencode(directory), key, len(key), variables, plan) < 0:
        return None
    try:
        return bytes(ffi.buffer(plan.block, plan.block_size))
    finally:
        lib.plan_cache_release(plan)


def plan_expand(block: bytes, environ: Mapping[str, str]) -> bytes:
    """Return the launch block that a cached block gives in an environment.

    Raises:
        OSError: a template cannot be expanded, or the block is malformed.
    """
    made, size = ffi.new("void **"), ffi.new("size_t *")
    variables, _held = _environment(environ)
    _check(lib.plan_expand(block, len(block), variables, made, size), "template")
    try:
        return bytes(ffi.buffer(made[0], size[0]))
    finally:
        lib.free(made[0])


def plan_check(block: bytes, environ: Mapping[str, str]) -> str | None:
    """Make the checks of a cached block; return what the first that fails is about, or None."""
    failed = ffi.new("const char **")
    variables, _held = _environment(environ)
    if lib.plan_check(block, len(block), variables, failed) == 0:
        return None
    return os.fsdecode(ffi.string(failed[0]))


def _environment(environ: Mapping[str, str]) -> tuple[Any, list[Any]]:
    """Return strings "NAME=VALUE" for C: an array, and what it points into."""
    strings = [ffi.new("char[]", os.fsencode(f"{name}={text}")) for name, text in environ.items()]
    return ffi.new("char *[]", [*strings, ffi.NULL]), strings
