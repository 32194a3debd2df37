"""Files that only the administrator can change: device specifications, hooks, what hooks start.

Rules:
- Every directory on the way, every symbolic link and the file itself belong to root, and nobody
  else may write to them; a sticky bit does not help. So nothing can be swapped between the look and
  the use.
- What does not hold to that is refused by name, and never read.
"""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from fairlead import errors

MAX_LINKS = 40
MAX_BYTES = 8 << 20


class Root(NamedTuple):
    """Where files are looked for: the host's own tree, or a forged one in tests."""

    path: str = ""
    owner: int = 0


HOST = Root()


def real(path: str, error: type[errors.Error], root: Root = HOST) -> str:
    """Return a path without symbolic links, each step of it the administrator's alone.

    Raises:
        error: somebody else could change it. FileNotFoundError, other OSError: it cannot be seen.
    """
    todo = [part for part in reversed(path.split("/")) if part not in ("", ".")]
    done: list[str] = []
    links = 0
    while todo:
        part = todo.pop()
        if part == "..":
            del done[-1:]
            continue
        done.append(part)
        here = "/" + "/".join(done)
        info = os.lstat(root.path + here)
        _check(here, info, error, root)
        if not stat.S_ISLNK(info.st_mode):
            continue
        links += 1
        if links > MAX_LINKS:
            raise error(f"{path}: too many levels of symbolic links")
        target = os.readlink(root.path + here)
        if target.startswith("/"):
            done.clear()
        else:
            done.pop()
        todo.extend(part for part in reversed(target.split("/")) if part not in ("", "."))
    return "/" + "/".join(done)


def _check(path: str, info: os.stat_result, error: type[errors.Error], root: Root) -> None:
    link = stat.S_ISLNK(info.st_mode)
    if info.st_uid != root.owner:
        raise error(
            f"{path}: belongs to uid {info.st_uid}, not to root",
            hint="only what root alone can change is used; ask the administrator",
        )
    if not link and info.st_mode & 0o022:
        raise error(
            f"{path}: others than root may write to it (mode {stat.S_IMODE(info.st_mode):04o})",
            hint="only what root alone can change is used; ask the administrator",
        )


def names(
    directory: str, endings: tuple[str, ...], error: type[errors.Error], root: Root = HOST
) -> tuple[str, ...]:
    """Return the paths of the files in a directory whose names end so, sorted; () without it.

    Raises:
        error: somebody else could change the directory, or it cannot be read.
    """
    try:
        place = real(directory, error, root)
        found = sorted(os.listdir(root.path + place))
    except FileNotFoundError:
        return ()
    except OSError as failure:
        raise error(f"{directory}: {failure.strerror}") from failure
    return tuple(
        f"{place}/{name}"
        for name in found
        if name.endswith(endings) and not name.startswith(".") and len(name) < 256
    )


def read(path: str, error: type[errors.Error], root: Root = HOST) -> bytes:
    """Return the bytes of a regular file.

    Raises:
        error: somebody else could change it, it is no regular file, too large or not readable.
    """
    try:
        place = real(path, error, root)
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with open(os.open(root.path + place, flags), "rb") as file:
            info = os.fstat(file.fileno())
            if not stat.S_ISREG(info.st_mode) or info.st_size > MAX_BYTES:
                raise error(f"{path}: is no regular file of at most {MAX_BYTES >> 20} MiB")
            return file.read(MAX_BYTES)
    except OSError as failure:
        raise error(f"{path}: {failure.strerror}") from failure


def program(path: str, error: type[errors.Error], root: Root = HOST) -> str:
    """Return the real path of a program of the administrator's.

    Raises:
        error: somebody else could change it, or this user cannot execute it.
    """
    try:
        place = real(path, error, root)
    except OSError as failure:
        raise error(f"{path}: {failure.strerror}") from failure
    if not os.path.isfile(root.path + place) or not os.access(root.path + place, os.X_OK):
        raise error(f"{path}: is no program that you may execute")
    return place
