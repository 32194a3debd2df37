"""Directory trees as tar archives: what an overlay's upper directory changed, or all that it shows.

::

    changes      the upper directory as a layer: whiteouts as ``.wh.NAME``, opaque directories with
                 ``.wh..wh..opq``
    whole        the merged tree of several directories, as an overlay shows it

Rules:
- Everything is reached by descriptor, one name at a time, never through a symbolic link: who swaps
  a directory meanwhile gets at most other files of the same tree (podman CVE-2019-10152).
- The same tree gives the same bytes: names sorted, owner 0:0, times in whole seconds.
- Left out: sockets, devices, ``user.overlay.*``, and what ``Left`` names: mount points and
  injected files that are the launch's, not the image's.
- Reading needs the rights over every file that a process has in a user namespace of its own.

Source: image-spec 1.1 ``layer.md``; Linux ``overlayfs.rst``; tar's PAX format as Go writes it.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator
from typing import IO, NamedTuple, Protocol

from fairlead import errors

MAX_DEPTH = 200  # each level holds a descriptor for each layer
WHITEOUT, OPAQUE = ".wh.", ".wh..wh..opq"
_OPAQUE = ("user.overlay.opaque", "trusted.overlay.opaque")
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class Sink(Protocol):
    """Where an archive goes."""

    def write(self, data: bytes, /) -> object:
        """Take the next bytes."""


class Left(NamedTuple):
    """What is not the user's in an upper directory; paths without a leading slash.

    Attributes:
        points: where something was mounted: an empty file or directory there is the mount's.
        injected: directories whose files were laid over the image; one that the image has, too, and
            that was changed, is the user's.
        hidden: left out with everything below.
    """

    points: frozenset[str] = frozenset()
    injected: tuple[str, ...] = ()
    hidden: frozenset[str] = frozenset({".fairlead"})


class _Entry(NamedTuple):
    """A name in a directory and the layers that it comes from, topmost first."""

    path: str
    name: str
    info: os.stat_result
    parents: tuple[int, ...]  # descriptors of the directories that have it


def changes(out: Sink, upper: str, lowers: tuple[str, ...], left: Left) -> int:
    """Write what upper changes in the tree of lowers, topmost first; return how many entries.

    Raises:
        errors.LayerError: it cannot be a layer. OSError: it cannot be read.
    """
    with _Opened((upper, *lowers)) as fds, _archive(out) as tar:
        writer = _Writer(tar)
        with _Opened(left.injected) as injected:
            _Changes(writer, left, injected).walk("", fds[:1], fds[1:], 0)
        return writer.count


def whole(out: Sink, layers: tuple[str, ...], left: Left) -> int:
    """Write the merged tree of layers, topmost first; return how many entries.

    Raises:
        errors.LayerError: it cannot be written as an archive. OSError: it cannot be read.
    """
    with _Opened(layers) as fds, _archive(out) as tar, _Opened(left.injected) as injected:
        writer = _Writer(tar)
        _Whole(writer, left, injected).walk("", fds, fds[0], 0)
        return writer.count


def _archive(out: Sink) -> tarfile.TarFile:
    return tarfile.TarFile(
        fileobj=_Counting(out),  # type: ignore[arg-type]
        mode="w",
        format=tarfile.PAX_FORMAT,
        encoding="utf-8",
        errors="surrogateescape",
    )


class _Counting:
    """What tarfile wants of a file: it asks where it stands, and never goes back."""

    def __init__(self, out: Sink) -> None:
        self._out, self._at = out, 0

    def write(self, data: bytes) -> int:
        self._out.write(data)
        self._at += len(data)
        return len(data)

    def tell(self) -> int:
        return self._at


class _Opened:
    """The descriptors of directories, for as long as ``with`` lasts."""

    def __init__(self, paths: tuple[str, ...]) -> None:
        self._paths = paths
        self._fds: list[int] = []

    def __enter__(self) -> tuple[int, ...]:
        try:
            for path in self._paths:
                self._fds.append(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        except OSError:
            self.__exit__()
            raise
        return tuple(self._fds)

    def __exit__(self, *_: object) -> None:
        for fd in self._fds:
            os.close(fd)


# -- merging ---------------------------------------------------------------------------------------


class _Whole(NamedTuple):
    """A walk through merged directories."""

    writer: _Writer
    left: Left
    injected: tuple[int, ...]

    def walk(self, path: str, dirs: tuple[int, ...], top: int, depth: int) -> None:
        """Write what dirs show; top is the one of them that is the first layer's, or -1."""
        for entry in _merged(path, dirs):
            own = entry.parents[0] == top
            if entry.path in self.left.hidden or _is_whiteout(entry.info):
                continue
            if own and _is_injected(entry, self.injected) and not _beside(entry, dirs[1:]):
                continue
            if stat.S_ISDIR(entry.info.st_mode):
                self._directory(entry, depth, own=own)
            elif not (entry.path in self.left.points and entry.info.st_size == 0 and own):
                self.writer.add(entry)

    def _directory(self, entry: _Entry, depth: int, *, own: bool) -> None:
        with _Below(entry, depth) as below:
            if own and entry.path in self.left.points and _is_empty(below):
                return
            self.writer.add_directory(entry, below[0])
            self.walk(entry.path, below, below[0] if own else -1, depth + 1)


def _merged(path: str, dirs: tuple[int, ...]) -> Iterator[_Entry]:
    """Yield the names of a directory as an overlay of dirs shows them, whiteouts included."""
    found: dict[str, list[int]] = {}
    for fd in dirs:
        for name in os.listdir(fd):
            found.setdefault(name, []).append(fd)
    for name in sorted(found, key=os.fsencode):
        infos = [(fd, os.lstat(name, dir_fd=fd)) for fd in found[name]]
        yield _Entry(f"{path}/{name}".lstrip("/"), name, infos[0][1], _shown(infos))


class _Below:
    """The directories that an entry shows merged, topmost first, opened."""

    def __init__(self, entry: _Entry, depth: int) -> None:
        if depth >= MAX_DEPTH:
            raise errors.LayerError(
                f"/{entry.path[:80]}...: lies more than {MAX_DEPTH} directories deep",
                hint="move it up, or remove it",
            )
        self._entry = entry
        self._fds: list[int] = []

    def __enter__(self) -> tuple[int, ...]:
        try:
            for fd in self._entry.parents:
                opened = os.open(self._entry.name, _FLAGS | os.O_DIRECTORY, dir_fd=fd)
                self._fds.append(opened)
                if is_opaque(opened):
                    break
        except OSError:
            self.__exit__()
            raise
        return tuple(self._fds)

    def __exit__(self, *_: object) -> None:
        for fd in self._fds:
            os.close(fd)


def _is_empty(dirs: tuple[int, ...]) -> bool:
    return not any(os.listdir(fd) for fd in dirs)


def _is_whiteout(info: os.stat_result) -> bool:
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0


def is_opaque(fd: int) -> bool:
    """Tell whether a directory of an upper layer hides what lower layers have there."""
    for name in _OPAQUE:
        try:
            if os.getxattr(fd, name) == b"y":
                return True
        except OSError:
            continue
    return False


# -- changes ---------------------------------------------------------------------------------------


class _Changes(NamedTuple):
    """A walk through an upper directory, beside the lower ones."""

    writer: _Writer
    left: Left
    injected: tuple[int, ...]

    def walk(self, path: str, upper: tuple[int, ...], lowers: tuple[int, ...], depth: int) -> None:
        for entry in _merged(path, upper):
            below = _beside(entry, lowers)
            if entry.path in self.left.hidden:
                continue
            if below is None and _is_injected(entry, self.injected):
                continue
            if entry.name.startswith(WHITEOUT):
                raise errors.LayerError(
                    f"/{entry.path}: a layer cannot hold this name, which means that something is "
                    "removed",
                    hint="rename it",
                )
            if _is_whiteout(entry.info):
                self.writer.add_whiteout(entry)
            elif stat.S_ISDIR(entry.info.st_mode):
                self._directory(entry, below, depth)
            elif not (entry.path in self.left.points and entry.info.st_size == 0):
                self.writer.add(entry)

    def _directory(self, entry: _Entry, below: _Entry | None, depth: int) -> None:
        with _Below(entry, depth) as own:
            opaque = is_opaque(own[0])
            is_lower = below is not None and stat.S_ISDIR(below.info.st_mode) and not opaque
            if is_lower and below is not None:
                if stat.S_IMODE(below.info.st_mode) != stat.S_IMODE(entry.info.st_mode):
                    self.writer.add_directory(entry, own[0])
                else:
                    self.writer.announce(entry, own[0])  # only if something below changed
                with _Below(below, depth) as lowers:
                    self.walk(entry.path, own, lowers, depth + 1)
            elif self._is_point(entry.path) and not self._has_content(entry.path, own[0], depth):
                return
            else:
                self.writer.add_directory(entry, own[0])
                if opaque and below is not None:
                    self.writer.add_opaque(entry)
                self.walk(entry.path, own, (), depth + 1)
            self.writer.forget(entry)

    def _is_point(self, path: str) -> bool:
        """Tell whether something was mounted here or below."""
        return any(f"{point}/".startswith(f"{path}/") for point in self.left.points)

    def _has_content(self, path: str, fd: int, depth: int) -> bool:
        """Tell whether a directory on the way to a mount point holds anything but such points."""
        for entry in _merged(path, (fd,)):
            if not stat.S_ISDIR(entry.info.st_mode):
                if not (entry.path in self.left.points and entry.info.st_size == 0):
                    return True
            elif not self._is_point(entry.path):
                return True
            else:
                with _Below(entry, depth + 1) as below:
                    if self._has_content(entry.path, below[0], depth + 1):
                        return True
        return False


def _is_injected(entry: _Entry, injected: tuple[int, ...]) -> bool:
    for fd in injected:
        try:
            info = os.lstat(entry.path, dir_fd=fd)
        except OSError:
            continue
        if not stat.S_ISDIR(info.st_mode):
            return True
    return False


def _beside(entry: _Entry, lowers: tuple[int, ...]) -> _Entry | None:
    """Return what the lower directories have under an entry's name, None where they have none."""
    infos = []
    for fd in lowers:
        try:
            infos.append((fd, os.lstat(entry.name, dir_fd=fd)))
        except FileNotFoundError:
            continue
    if not infos or _is_whiteout(infos[0][1]):
        return None
    return _Entry(entry.path, entry.name, infos[0][1], _shown(infos))


def _shown(infos: list[tuple[int, os.stat_result]]) -> tuple[int, ...]:
    """Return the layers that show a name: directories merge, anything else hides lower ones."""
    parents: list[int] = []
    for fd, info in infos:
        is_directory = stat.S_ISDIR(info.st_mode)
        if parents and not is_directory:
            break
        parents.append(fd)
        if not is_directory:
            break
    return tuple(parents)


# -- writing ---------------------------------------------------------------------------------------


class _Writer:
    """Entries in, members out; hard links are found again by device and inode."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar, self.count = tar, 0
        self._links: dict[tuple[int, int], str] = {}
        self._waiting: list[tuple[str, tarfile.TarInfo]] = []

    def add(self, entry: _Entry) -> None:
        """Add anything but a directory."""
        mode = entry.info.st_mode
        member = _member(entry)
        if stat.S_ISREG(mode):
            self._add_file(entry, member)
        elif stat.S_ISLNK(mode):
            member.type = tarfile.SYMTYPE
            member.linkname = os.readlink(entry.name, dir_fd=entry.parents[0])
            self._put(member)
        elif stat.S_ISFIFO(mode):
            member.type = tarfile.FIFOTYPE
            self._put(member)

    def add_directory(self, entry: _Entry, fd: int) -> None:
        """Add a directory."""
        self._put(_directory(entry, fd))

    def announce(self, entry: _Entry, fd: int) -> None:
        """Add a directory if something below it is added before it is forgotten."""
        self._waiting.append((entry.path, _directory(entry, fd)))

    def forget(self, entry: _Entry) -> None:
        """Say that nothing more comes below a directory."""
        if self._waiting and self._waiting[-1][0] == entry.path:
            self._waiting.pop()

    def add_whiteout(self, entry: _Entry) -> None:
        """Add the mark that a lower name is gone."""
        self._put(_mark(entry.path.removesuffix(entry.name) + WHITEOUT + entry.name))

    def add_opaque(self, entry: _Entry) -> None:
        """Add the mark that a directory hides what lower layers have in it."""
        self._put(_mark(f"{entry.path}/{OPAQUE}"))

    def _add_file(self, entry: _Entry, member: tarfile.TarInfo) -> None:
        key = (entry.info.st_dev, entry.info.st_ino)
        if entry.info.st_nlink > 1 and key in self._links:
            member.type, member.linkname = tarfile.LNKTYPE, self._links[key]
            self._put(member)
            return
        fd = os.open(entry.name, _FLAGS, dir_fd=entry.parents[0])
        with open(fd, "rb") as file:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                return  # it was exchanged
            member.size = info.st_size
            member.pax_headers = _attributes(fd)
            self._put(member, file)
        if entry.info.st_nlink > 1:
            self._links[key] = member.name

    def _put(self, member: tarfile.TarInfo, file: IO[bytes] | None = None) -> None:
        for _, folder in self._waiting:
            self._tar.addfile(folder)
            self.count += 1
        self._waiting.clear()
        self._tar.addfile(member, file)
        self._tar.members.clear()  # type: ignore[attr-defined]
        self.count += 1


def _member(entry: _Entry) -> tarfile.TarInfo:
    member = tarfile.TarInfo(entry.path)
    member.mode = stat.S_IMODE(entry.info.st_mode)
    member.mtime = int(entry.info.st_mtime)
    return member


def _directory(entry: _Entry, fd: int) -> tarfile.TarInfo:
    member = _member(entry)
    member.type = tarfile.DIRTYPE
    member.pax_headers = _attributes(fd)
    return member


def _mark(path: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(path)
    member.mode = 0
    return member


def _attributes(fd: int) -> dict[str, str]:
    try:
        names = os.listxattr(fd)
    except OSError:
        return {}
    return {
        f"SCHILY.xattr.{name}": os.getxattr(fd, name).decode("utf-8", "surrogateescape")
        for name in sorted(names)
        if name.startswith("user.") and not name.startswith("user.overlay.")
    }
