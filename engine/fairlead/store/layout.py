"""The store's place on disk: who may own it, its locks, its staging, and how a thing gets its name.

::

    ROOT/                      0700, a real directory of this user
      version                  "1"; another number is refused, never guessed at
      blobs/sha256/HEX         manifests, indexes, image configurations: kept; compressed layers:
      blobs/sha512/HEX           until their tree is published (see fetch)
      trees/HEX/rootfs/        the merged tree of a stack of layers, HEX being its ChainID
      trees/HEX/tree.json        what it was made of, and its size
      images/HEX.json          what a reference that was pulled meant; HEX: sha256 of its text
      tmp/BOOT.PID.START.N/    work in progress; its owner holds a flock on it
      locks/NAME               one per object that is being made
      quarantine/              damaged objects, taken out of use (see quarantine)
      containers/              what was written to named containers (see containers)
      host/                    what is known of the host's MPI (see host.mpi)
      jobs/                    what tags meant in a job (see frozen)

Rules:
- An object visible under its final name is complete and verified. Everything below ``tmp`` whose
  flock is free belongs to the dead, and any process may delete it. The kernel drops the flock
  with its holder, so that neither a reused pid nor a reboot nor another pid namespace can
  mislead.
- A lock's file is unlinked by its holder before it is released: who gets the lock of an unlinked
  file starts over with a new one, or, if the holder failed, fails with the same words. A file that
  a killed process left is used by the next one, or removed by ``sweep``.
- Another owner, a symlink, or write permission for others at the root is refused: /var/tmp is
  everybody's.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from typing import TYPE_CHECKING, NamedTuple, Self

from fairlead import errors, log
from fairlead.config import Config

if TYPE_CHECKING:
    import threading
    from types import TracebackType

VERSION = "1"
_FOLDERS = ("blobs", "blobs/sha256", "blobs/sha512", "trees", "images", "tmp", "locks")
_MAX_NOTE = 1 << 16
_FINE, FAILED = 0o600, 0o640  # modes of a lock's file: how its holder ended
_POLL_S = 0.03
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Store(NamedTuple):
    """An open store; a path, since every object is found by name."""

    root: str

    def path(self, *parts: str) -> str:
        """Return a path in the store; parts come from checked digests and our own words only."""
        return "/".join((self.root, *parts))


def open_store(config: Config, folders: tuple[str, ...] = _FOLDERS) -> Store:
    """Return the store of this user, made with its folders if it does not exist.

    Raises:
        errors.StoreError: it belongs to another, is writable by others, or is no store.
        errors.SpaceError: there is no room to make it.
    """
    root = config.store.rstrip("/") or "/"
    if not root.startswith("/"):
        raise errors.StoreError(f"{root}: the store must be an absolute path")
    store = Store(root)
    try:
        found = _check_root(root)
        if not found or not is_current(store):
            _make(store, folders)
    except OSError as error:
        raise failure(error, root) from error
    return store


def failure(error: OSError, path: str, doing: str = "") -> errors.Error:
    """Return the error for a failed file operation: out of space, or the store's own."""
    where = str(error.filename or path)
    reason = os.strerror(error.errno or 0)
    tail = f" (while {doing})" if doing else ""
    if error.errno in _FULL:
        return errors.SpaceError(f"cannot write {where}: {reason}{tail}")
    return errors.StoreError(f"{where}: {reason}{tail}")


class failures_named:  # noqa: N801 - used like a function; contextlib costs a launch a millisecond
    """Turn a failed file operation inside ``with`` into the store's error.

    Raises:
        errors.SpaceError, errors.StoreError: with the path and the kernel's words.
    """

    def __init__(self, store: Store) -> None:
        self._root = store.root

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, OSError):
            raise failure(error, self._root) from error


def publish(staged: str, final: str, *, durable: bool = True) -> bool:
    """Give a finished file or directory its final name; False if it is taken (the first wins).

    durable brings the new name to the disk; what it names must be there already.

    File systems without RENAME_NOREPLACE get a plain rename: the caller holds the object's lock.
    """
    from fairlead import kernel

    try:
        kernel.rename_noreplace(staged, final)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        if os.path.lexists(final):
            return False
        os.rename(staged, final)
    if durable:
        sync_folder(os.path.dirname(final))
    return True


def write_file(path: str, data: bytes) -> None:
    """Write a new file of the store and bring it to the disk."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with open(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(fd)


def replace_file(stage: Stage, final: str, data: bytes) -> None:
    """Write a file whole or not at all, in place of an older one."""
    staged = stage.name()
    write_file(staged, data)
    os.rename(staged, final)
    sync_folder(os.path.dirname(final))


def sync_folder(path: str) -> None:
    """Bring a directory's names to the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# -- locks -----------------------------------------------------------------------------------------


class Lock:
    """An exclusive lock on an object to be made, among all processes of this user on this node.

    Held inside ``with``; dies with its holder. ``shared`` tells that another holder finished the
    same work while this one waited. If the holder fails with an ``errors.Error`` that would meet
    the next one just as well, all who wait fail with it instead of trying one after the other.
    """

    # Not told on: what depends on the process that asked (its credentials, its options).
    _OWN = (
        errors.AuthError,
        errors.BusyError,
        errors.ImageNotFoundError,
        errors.UsageError,
        errors.ConfigError,
    )

    def __init__(
        self,
        store: Store,
        name: str,
        stop: threading.Event | None = None,
        *,
        wait: bool = True,
        tells: bool = True,
    ) -> None:
        """Name a lock.

        With stop, waiting polls and ends when it is set, as threads need it. Without wait, a lock
        that another holds is an ``errors.BusyError``. Where those who wait work for other users, a
        holder ``tells`` nothing: what it failed of may be its own doing.
        """
        self._path, self._stop, self._fd = store.path("locks", name), stop, -1
        self._patient, self._tells, self.shared = wait, tells, False

    def __enter__(self) -> Self:
        try:
            while not self._take():
                pass
        except BlockingIOError as error:
            raise errors.BusyError(f"{self._path}: another process works on this") from error
        except OSError as error:
            if error.errno in {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}:
                raise errors.StoreError(f"{self._path}: this file system has no locks") from error
            raise failure(error, self._path) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is not None:
                os.fchmod(self._fd, FAILED)  # needs no room on the disk, unlike the words
                self._tell(error)
            os.unlink(self._path)
        except OSError:
            pass  # a read-only disk: the file stays, and who waits tries for itself
        finally:
            os.close(self._fd)

    def _tell(self, error: BaseException | None) -> None:
        if self._tells and isinstance(error, errors.Error) and not isinstance(error, self._OWN):
            note = f"{error.code}\0{error.message}\0{error.hint}"
            try:
                os.pwrite(self._fd, note.encode(errors="replace")[:_MAX_NOTE], 0)
            except OSError:
                pass  # who waits tries for itself

    def _take(self) -> bool:
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, _FINE)
        try:
            self._wait(fd)
            note, mode = os.pread(fd, _MAX_NOTE, 0), stat.S_IMODE(os.fstat(fd).st_mode)
            if is_at(fd, self._path):
                if mode == FAILED:  # its holder was killed while it ended
                    os.ftruncate(fd, 0)
                    os.fchmod(fd, _FINE)
                self._fd, fd = fd, -1
                return True
            if mode == FAILED and note:
                raise _told(note)
            self.shared = self.shared or mode != FAILED
            return False
        finally:
            if fd >= 0:
                os.close(fd)

    def _wait(self, fd: int) -> None:
        if self._stop is None:
            fcntl.flock(fd, fcntl.LOCK_EX if self._patient else fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if self._stop.wait(_POLL_S):
                    raise InterruptedError(errno.EINTR, "stopped", self._path) from None
            else:
                return


def _told(note: bytes) -> errors.Error:
    code, message, hint = [*note.decode(errors="replace").split("\0"), "", ""][:3]
    kind = next((kind for kind in errors.catalogue() if kind.code == code), errors.StoreError)
    return kind(message, hint=hint)


def is_at(fd: int, path: str) -> bool:
    """Tell whether an open file is still the one under its name."""
    try:
        there = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(fd))


# -- staging ---------------------------------------------------------------------------------------


class Stage:
    """A directory for work in progress, removed at the end of ``with``, or later by ``sweep``.

    One with a name that others must know is an ``errors.BusyError`` where it is taken.
    """

    def __init__(self, store: Store, name: str = "") -> None:
        self._store, self._fd, self._count = store, -1, 0
        self._name, self.path = name, ""

    def __enter__(self) -> Self:
        boot, start = boot_id(), start_time()
        for number in range(1 if self._name else 1 << 20):
            own = self._name or f"{boot}.{os.getpid()}.{start}.{number}"
            path = self._store.path("tmp", own)
            try:
                os.mkdir(path, 0o700)
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except (FileExistsError, FileNotFoundError):
                continue
            fcntl.flock(fd, fcntl.LOCK_EX)
            if is_at(fd, path):  # else a sweep came between mkdir and flock
                self.path, self._fd = path, fd
                return self
            os.close(fd)
        if self._name:
            raise errors.BusyError(f"{path}: another process works there")
        raise errors.StoreError(f"{self._store.path('tmp')}: no free name")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            remove(self.path)
        except OSError as failed:  # garbage: ``sweep`` will try again, the work itself is done
            log.debug(f"{self.path}: {failed.strerror}")
        finally:
            os.close(self._fd)

    def name(self) -> str:
        """Return a new path in the stage; not thread-safe by itself."""
        self._count += 1
        return f"{self.path}/{self._count}"


def discard(path: str) -> None:
    """Remove a file or a tree of ours; one that is gone already is no error."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    except IsADirectoryError:
        remove(path)


def remove(path: str) -> None:
    """Remove a tree of ours whatever its modes; one that is gone already is no error."""
    from fairlead import sinks

    try:
        sinks.remove_tree(path)
    except FileNotFoundError:
        return


def boot_id() -> str:
    """Return what names this run of the kernel."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def start_time(pid: str = "self") -> str:
    """Return when a process started, in the kernel's ticks; with its pid this names it for good.

    Raises:
        OSError: there is no such process.
    """
    # Field 22, counted after the command's name, which may hold blanks and parentheses. Source:
    # proc(5).
    with open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].split()[19].decode()


# -- the root --------------------------------------------------------------------------------------


def _check_root(root: str) -> bool:
    try:
        info = os.lstat(root)
    except FileNotFoundError:
        return False
    if not stat.S_ISDIR(info.st_mode):
        raise errors.StoreError(f"{root}: is not a real directory")
    if info.st_uid != os.getuid():
        raise errors.StoreError(f"{root}: belongs to uid {info.st_uid}, not to you ({os.getuid()})")
    if info.st_mode & 0o022:
        raise errors.StoreError(
            f"{root}: others may write there (mode {info.st_mode & 0o7777:04o})"
        )
    if info.st_mode & 0o055:
        os.chmod(root, 0o700)
    return True


def is_current(store: Store) -> bool:
    """Tell whether a store has its version file; one of another layout is refused.

    Raises:
        errors.StoreError: it has another version.
    """
    try:
        fd = os.open(store.path("version"), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        found = os.read(fd, 64).decode(errors="replace").strip()
    finally:
        os.close(fd)
    if found != VERSION:
        raise errors.StoreError(
            f"{store.root}: has the layout version {found!r}, this Fairlead knows {VERSION}",
            hint="use the release that made it, or set FAIRLEAD_STORE to another directory",
        )
    return True


def _make(store: Store, folders: tuple[str, ...]) -> None:
    parent = os.path.dirname(store.root)
    os.makedirs(parent, exist_ok=True)
    info = os.stat(parent)
    if info.st_mode & 0o002 and not info.st_mode & stat.S_ISVTX:
        raise errors.StoreError(
            f"{parent}: anybody may rename what is there (it has no sticky bit)"
        )
    try:
        os.mkdir(store.root, 0o700)
    except FileExistsError:
        _check_root(store.root)
        # A file system of its own brings lost+found.
        known = {folder.partition("/")[0] for folder in folders} | {"version", "lost+found"}
        foreign = sorted(set(os.listdir(store.root)) - known)
        if foreign:
            raise errors.StoreError(
                f"{store.root}: is not empty and no store (it holds {foreign[0]!r})"
            ) from None
    for folder in folders:
        try:
            os.mkdir(store.path(folder), 0o700)
        except FileExistsError:
            continue
    with Stage(store) as stage:
        replace_file(stage, store.path("version"), f"{VERSION}\n".encode())
