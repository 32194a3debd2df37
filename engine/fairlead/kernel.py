"""Typed calls into the C extension, which this module alone imports.

Rules:
- The C side returns -errno and never prints; here that becomes an ``OSError`` with the path, or the
  error class that fits. Paths are bytes on the C side (``os.fsencode``).
- No policy: what to mount, which limits, and what an error means to the user is decided by the
  callers.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from fairlead import _c_ext
from fairlead._c_ext import ffi as _ffi
from fairlead._c_ext import lib as _lib

ffi: Any = _ffi
lib: Any = _lib
EXTENSION = str(_c_ext.__file__)


def check(result: int, path: str) -> int:
    """Return a result of C, or raise the OSError that it stands for."""
    if result < 0:
        raise OSError(-result, os.strerror(-result), path)
    return result


# -- files -----------------------------------------------------------------------------------------


def rename_noreplace(old: str, new: str) -> None:
    """Rename, or raise FileExistsError when the new name is taken (renameat2 NOREPLACE)."""
    check(lib.files_rename_noreplace(os.fsencode(old), os.fsencode(new)), new)


def open_in_root(root_fd: int, path: str, flags: int) -> int:
    """Open path as if root_fd were ``/``: nothing leads out of it (openat2, RESOLVE_IN_ROOT)."""
    return check(lib.files_open_in_root(root_fd, os.fsencode(path), flags, 0), path)


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


def create_namespace(block: bytes = b"") -> tuple[int, ...]:
    """Move this process, which must have one thread only, into a new user and mount namespace.

    And, where the launch block's root asks for them, into others.

    Returns:
        Descriptors in the order of ``channel.h``, close-on-exec; -1 for what there is none of, as
        always for the block.

    Raises:
        Failure: with step ``userns``.

    Source: user_namespaces(7); slurm.md "Pitfalls".
    """
    report, fds = ffi.new("struct report *"), ffi.new("int[]", lib.CHANNEL_FDS)
    flags = lib.block_root_flags(block, len(block))
    _report(lib.namespace_create_as(flags, report), report)
    check(lib.namespace_open(flags, fds), "/proc/self/ns")
    return tuple(fds)


def join_namespace(fds: tuple[int, ...]) -> None:
    """Move this process, which must have one thread only, into a container's namespaces.

    Args:
        fds: in the order of ``channel.h``; -1 for what there is none of.

    Raises:
        Failure: with step ``join``.
    """
    report = ffi.new("struct report *")
    _report(lib.namespace_join(fds[0], fds[1], report), report)
    _report(lib.namespace_join_further(ffi.new("int[]", list(fds)), report), report)


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


def build_root(block: bytes, mounts: tuple[int, ...] = ()) -> tuple[Any, str]:
    """Do the first half of ``compose_root``: build the root, to which others will write.

    Returns:
        What ``enter_root`` wants, and the path at which the root stands until then.

    Raises:
        Failure: as ``compose_root``.
    """
    report = ffi.new("struct report *")
    root = ffi.new("struct container *")
    given = list(mounts)
    _report(lib.compose_build(block, len(block), given, len(mounts), 1, root, report), report)
    return root, os.readlink(f"/proc/self/fd/{root.root}")


def enter_root(block: bytes, root: Any) -> None:
    """Do the second half of ``compose_root``: pivot, check of directory and command.

    Raises:
        Failure: as ``compose_root``.
    """
    report = ffi.new("struct report *")
    _report(lib.compose_enter(block, len(block), root, report), report)


def lend_capabilities(*, lend: bool) -> None:
    """Let programs that this process starts have its capabilities in its namespace, or none.

    Raises:
        Failure: with step ``privilege``.
    """
    report = ffi.new("struct report *")
    _report(lib.namespace_lend_capabilities(lend, report), report)


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


# -- before the first rank -------------------------------------------------------------------------


class Look(NamedTuple):
    """What a command is, and what its loader printed (``preflight.h``)."""

    path: str
    kind: int
    mpi: str
    timed_out: bool
    text: str


def preflight(block: bytes, command: str, path: str, limit_ms: int, *, trace: bool) -> Look | None:
    """Inspect a command in the container that this process entered; None if it cannot be found."""
    answer = ffi.new("struct preflight *")
    words = os.fsencode(command), os.fsencode(path)
    if lib.preflight_run(block, len(block), *words, trace, limit_ms, answer) < 0:
        return None
    data: bytes = ffi.string(answer.text, answer.length) if answer.length else b""
    return Look(
        os.fsdecode(ffi.string(answer.path)),
        answer.program.kind,
        os.fsdecode(ffi.string(answer.program.mpi)),
        bool(answer.timed_out),
        os.fsdecode(data),
    )


def cma_test() -> int:
    """Return what ``cma.h`` says of two processes that copy from each other's memory."""
    return int(lib.cma_test())


# -- channel ---------------------------------------------------------------------------------------


def send_outcome(socket_fd: int, status: int, text: str, fds: tuple[int, ...] | None) -> None:
    """Send the engine's one message to the task that started it (``channel.h``)."""
    array = ffi.new("int[]", list(fds)) if fds else ffi.NULL
    line = text.encode(errors="surrogateescape")[:2000]
    check(lib.channel_send(socket_fd, status, line, array), "channel to slurmstepd")


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
    check(count, os.fsdecode(ffi.string(detail)))
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
    return check(fd, os.fsdecode(ffi.string(detail)))


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
    check(lib.plan_expand(block, len(block), variables, made, size), "template")
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
