"""The configuration files that podman, buildah and skopeo have too: found, and read with care.

Rules:
- Regular files of bounded size only. One that is absent is none; one that is there and cannot be
  read is an error: a policy must not be lost to a wrong mode.
- A home directory that this process may not enter (root_squash) is as good as none; the site's
  files are not.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import Any

from fairlead import errors

MAX_FILE = 4 << 20


def user_directory(environ: Mapping[str, str]) -> str:
    """Return the user's directory of these files, empty if they have none."""
    home = environ.get("HOME") or ""
    base = environ.get("XDG_CONFIG_HOME") or (home and f"{home}/.config")
    return base and f"{base}/containers"


def drop_ins(folder: str, suffix: str, *, own: bool = False) -> tuple[str, ...]:
    """Return the files of a directory whose names end with suffix, sorted by name.

    With own the directory is the user's.

    Raises:
        errors.ConfigError: it cannot be read.
    """
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as error:
        if own and _is_hidden(error, folder):
            return ()
        raise errors.ConfigError(f"{folder}: {error.strerror}") from error
    return tuple(f"{folder}/{name}" for name in sorted(names) if name.endswith(suffix))


def read(path: str, *, needed: bool = False, own: bool = False) -> bytes | None:
    """Return a file's bytes, None if it is absent. With own it is the user's.

    Raises:
        errors.ConfigError: it cannot be read, or is no such file; or it is needed and absent.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        gone = isinstance(error, FileNotFoundError | NotADirectoryError)
        if (gone or (own and _is_hidden(error, path))) and not needed:
            return None
        raise errors.ConfigError(f"{path}: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise errors.ConfigError(f"{path}: is not a regular file")
    with open(fd, "rb") as file:
        data = file.read(MAX_FILE + 1)
    if len(data) > MAX_FILE:
        raise errors.ConfigError(f"{path}: is larger than {MAX_FILE} bytes")
    return data


def _is_hidden(error: OSError, path: str) -> bool:
    """Tell whether a path of the user's could not even be looked at."""
    if not isinstance(error, PermissionError):
        return False
    try:
        os.lstat(path)
    except OSError:
        return True
    return False


def toml(data: bytes, path: str) -> dict[str, Any]:
    """Return the table in a TOML file.

    Raises:
        errors.ConfigError: it is malformed.
    """
    import tomllib

    try:
        return tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise errors.ConfigError(f"{path}: {error}") from error
