"""Write the injection layer: laid over an image's tree, it makes the host's MPI the image's.

What a staged directory holds::

    TARGET/layer/            the overlay layer, to be mounted with userxattr over the image's tree
      .fairlead/mpi/CLASS/lib    the host's libraries by SONAME: copies that find each other by
                                   DT_RPATH and run on the image's glibc (``fairlead.glibc``)
      ...                        symlinks in place of every libmpi, plugin and data directories
    TARGET/staged.json       what a launch needs to know: environment, report lines
    TARGET/manifest.json     every entry with its source and its reason

Rules:
- Copies, never links to files that another user owns: nothing changes under a running job when the
  host's MPI is updated.
- Each host file is copied once; every other name for it is a symlink, because the loader tells
  libraries apart by inode.
- Wherever the image keeps a libmpi (private copies behind DT_RPATH included) its path leads to the
  host's.
- A plugin directory replaces the image's whole: opaque, so that plugins of another release vanish.
- All paths are resolved inside the image first, as chroot would: a layer entry never replaces a
  directory symlink.
- Built as the user under a temporary name, flushed, renamed; one process builds, others wait and
  take the result.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from fairlead import errors, kernel
from fairlead.host.index import Index
from fairlead.host.mpi import Profile, tuples
from fairlead.host.relocation import RELOCATIONS
from fairlead.plan import inject

if TYPE_CHECKING:
    from fairlead.run.layer import Layout, Rewriting

ROOT = "/.fairlead/mpi"
MARKER = "FAIRLEAD_MPI_INJECTED"
OPAQUE = "user.overlay.opaque"
# What an image may set for its own MPI and what would lead the host's astray.
ASTRAY = (
    *RELOCATIONS,
    "OPAL_LIBDIR",
    "OPAL_PKGLIBDIR",
    "OPAL_DATADIR",
    "OPAL_SYSCONFDIR",
    "OMPI_MCA_mca_base_component_path",
    "OMPI_MCA_mca_component_path",
    "PMIX_MCA_mca_base_component_path",
)


class Staged(NamedTuple):
    """A layer that is ready.

    Attributes:
        directory: to be the upper of two lower layers; empty when nothing is injected.
        env: variables to set; none of them leads the loader.
        unset: variables of the image that must not reach the program.
        report: lines that say what was done and why.
    """

    directory: str
    env: tuple[tuple[str, str], ...]
    unset: tuple[str, ...]
    report: tuple[str, ...]


class Entry(NamedTuple):
    """One thing in the layer.

    ``kind`` is ``copy`` (of source), ``library`` (source, rewritten as ``rewriting`` says),
    ``made`` (its content is in the layout), ``link`` (to source) or ``opaque`` (a directory).
    """

    kind: str
    path: str
    source: str
    reason: str
    rewriting: str = ""


def key(verdict: inject.Verdict) -> str:
    """Return what a staged directory's name must hold besides the image and engine version."""
    return "-".join(profile.identity for profile in verdict.profiles)


def compose(verdict: inject.Verdict, index: Index, rootfs: str, target: str) -> Staged:
    """Return the injection layer for a verdict, building it if it does not exist yet.

    Args:
        verdict: from ``inject.decide``; nothing is done unless its choice is ``host``.
        index: of the image.
        rootfs: the image's tree.
        target: directory to hold the result, named by the caller after image, ``key(verdict)`` and
            engine version.

    Raises:
        errors.SpaceError, errors.StoreError: the target cannot be written.
        errors.MpiError: the image's tree has something in the way.
    """
    if verdict.choice != "host":
        return Staged("", (), (), verdict.reasons)
    there = ready(target, verdict)
    if there:
        return there
    from fairlead.host import elf

    try:
        _build_once(verdict, index, rootfs, target)
    except elf.ElfError as error:
        raise errors.MpiError(f"cannot put the host's MPI into the image: {error}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise errors.space(error, target) from error
        raise errors.StoreError(f"{error.filename or target}: {error.strerror}") from error
    there = ready(target, verdict)
    if not there:
        raise errors.StoreError(f"{target}: disappeared while it was made")
    return there


def ready(target: str, verdict: inject.Verdict) -> Staged | None:
    """Return the layer that stands in target, None if it has not been built.

    Raises:
        errors.StoreError: what stands there is another one, or damaged.
    """
    try:
        with open(f"{target}/staged.json", "rb") as file:
            record = json.loads(file.read())
        if record["key"] != key(verdict):
            raise errors.StoreError(f"{target}: holds another host MPI than its name says")
        return Staged(
            f"{target}/layer",
            tuples(record["env"]),
            tuples(record["unset"]),
            tuples(record["report"]),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError) as error:
        raise errors.StoreError(f"{target}/staged.json: {error}") from error


def _build_once(verdict: inject.Verdict, index: Index, rootfs: str, target: str) -> None:
    """Build under a lock that dies with its holder, so a temporary name left is a dead one's."""
    import fcntl
    import shutil

    parent, name = os.path.split(target)
    temporary = os.path.join(parent, f".{name}.tmp")
    os.makedirs(parent, mode=0o700, exist_ok=True)
    lock = os.open(
        os.path.join(parent, f".{name}.lock"),
        os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW,
        0o600,
    )
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.exists(f"{target}/staged.json"):
            return
        shutil.rmtree(temporary, ignore_errors=True)
        from fairlead.run import layer

        layout = layer.plan(verdict, index, rootfs)
        os.makedirs(f"{temporary}/layer", mode=0o700)
        write(layout, rootfs, f"{temporary}/layer")
        _describe(temporary, verdict, layout.entries, layout.report)
        _flush(temporary)
        kernel.rename_noreplace(temporary, target)
        _sync(parent)
    finally:
        os.close(lock)


def _describe(
    directory: str, verdict: inject.Verdict, entries: tuple[Entry, ...], report: tuple[str, ...]
) -> None:
    env = environment(verdict.profiles)
    names = {name for name, _ in env}
    record = {
        "key": key(verdict),
        "env": env,
        "unset": [name for name in ASTRAY if name not in names],
        "report": [*verdict.reasons, *verdict.warnings, *report],
    }
    with open(f"{directory}/staged.json", "w", encoding="ascii") as file:
        json.dump(record, file)
    with open(f"{directory}/manifest.json", "w", encoding="ascii") as file:
        json.dump([entry._asdict() for entry in entries], file, indent=1)


def environment(profiles: tuple[Profile, ...]) -> tuple[tuple[str, str], ...]:
    """Return the variables that the host's MPI needs in the container."""
    marker = ",".join(f"{profile.abi_class}={profile.name}" for profile in profiles)
    own = {name: value for profile in reversed(profiles) for name, value in profile.env}
    return ((MARKER, marker), *sorted(own.items()))


# -- writing --------------------------------------------------------------------------------


def write(layout: Layout, rootfs: str, directory: str) -> None:
    """Write a layout below a new directory.

    Raises:
        OSError. elf.ElfError: a library cannot be rewritten.
    """
    entries = layout.entries
    os.chmod(directory, _mode(rootfs))
    for entry in sorted(entries, key=lambda item: item.kind != "opaque"):
        path = directory + entry.path
        _make_parents(os.path.dirname(entry.path), rootfs, directory)
        if entry.kind == "opaque":
            _make_opaque(
                entry.path,
                rootfs,
                directory,
                [item for item in entries if item.path.startswith(f"{entry.path}/")],
            )
        elif entry.kind == "link":
            os.symlink(entry.source, path)
        elif entry.kind == "made":
            _put(layout.made[entry.path], path)
        elif entry.kind == "library":
            _put(_rewritten(entry.source, layout.rewriting[entry.rewriting]), path)
        else:
            _copy(entry.source, path)


def _mode(path: str) -> int:
    """Return the mode of an image's directory, 0755 if there is none; its owner can use it."""
    try:
        status = os.lstat(path)
    except OSError:
        return 0o755
    return (
        stat.S_IMODE(status.st_mode) & 0o1777 if stat.S_ISDIR(status.st_mode) else 0o755
    ) | 0o700


def _make_parents(path: str, rootfs: str, directory: str) -> None:
    """Create the directories above an entry with the image's modes, as overlay shows ours."""
    if path in ("", "/") or os.path.isdir(directory + path):
        return
    _make_parents(os.path.dirname(path), rootfs, directory)
    os.mkdir(directory + path)
    os.chmod(directory + path, _mode(rootfs + path))


def _make_opaque(path: str, rootfs: str, directory: str, inside: list[Entry]) -> None:
    """Create a directory that hides the image's of the same path.

    Where the store's file system has no user xattrs (tmpfs before Linux 6.6), every name of the
    image's directory that we do not fill gets a whiteout instead (a 0:0 character device, which a
    user may create since 5.8).
    """
    _make_parents(path, rootfs, directory)
    try:
        os.setxattr(directory + path, OPAQUE, b"y")
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.EPERM):
            raise
        ours = {item.path[len(path) + 1 :].partition("/")[0] for item in inside}
        names = os.listdir(rootfs + path) if os.path.isdir(rootfs + path) else []
        for name in set(names) - ours:
            os.mknod(f"{directory}{path}/{name}", stat.S_IFCHR | 0o600, os.makedev(0, 0))


def _rewritten(source: str, how: Rewriting) -> bytes:
    from fairlead.glibc import patch

    reading = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(reading, "rb") as file:
        if not stat.S_ISREG(os.fstat(reading).st_mode):
            raise OSError(errno.EINVAL, "not a regular file any more", source)
        data = file.read()
    return patch.hide(patch.patch(data, source, how.decision, how.search, how.names), how.hidden)


def _put(content: bytes, path: str) -> None:
    writing = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o755)
    with open(writing, "wb") as file:
        os.fchmod(writing, 0o755)
        file.write(content)


def _copy(source: str, path: str) -> None:
    """Copy a host file's content; the source is opened once, and must be a regular file."""
    reading = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        status = os.fstat(reading)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file any more", source)
        mode = 0o755 if status.st_mode & 0o111 or ".so" in os.path.basename(path) else 0o644
        writing = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            os.fchmod(writing, mode)
            left = status.st_size
            while left > 0:
                left -= _copy_some(reading, writing, left)
        finally:
            os.close(writing)
    except OSError as error:
        error.filename = error.filename or path
        raise
    finally:
        os.close(reading)


def _copy_some(reading: int, writing: int, left: int) -> int:
    try:
        count = os.copy_file_range(reading, writing, left)
    except OSError as error:  # between file systems, on old kernels or odd ones
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        count = os.sendfile(writing, reading, None, left)
    if not count:
        raise OSError(errno.EIO, "the source was cut short while it was copied")
    return count


def _flush(directory: str) -> None:
    """Make everything below a directory durable before its name is."""
    for place, _, names in os.walk(directory, topdown=False):
        for name in names:
            path = os.path.join(place, name)
            if stat.S_ISREG(os.lstat(path).st_mode):
                _sync(path)
        _sync(place)


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
