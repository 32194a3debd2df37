"""Logins in enroot's ``.credentials``: a netrc file, read as the last of all.

    $ENROOT_CONFIG_PATH/.credentials, else $XDG_CONFIG_HOME/enroot/.credentials

Rules:
- A machine is a registry's host, or that of its token server, as enroot has it: ``auth.docker.io``
  stands for Docker Hub, ``authn.nvidia.com`` for nvcr.io.
- With a user only that user's login counts; else the first one. ``default`` is passed over: it
  would send a login to whatever registry asks.
- ``$(...)`` is shell code, which enroot runs. It is not run here: such an entry is a warning, and
  the registry says itself whether it wants a login. Any other dollar is itself.
- Hostile like the other files of logins: regular, bounded; a secret never reaches a message.

Source: enroot ``doc/cmd/import.md``; curl ``netrc``(5).
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from fairlead import errors, log

MAX_FILE = 1 << 20
TOKEN_SERVERS = {
    "docker.io": ("auth.docker.io", "index.docker.io", "registry-1.docker.io"),
    "nvcr.io": ("authn.nvidia.com",),
    "registry.gitlab.com": ("gitlab.com",),
}
_WORD = re.compile(r'"((?:[^"\\]|\\.)*)"|(\$\([^)]*\)\S*|\S+)')
_KEYS = {"login", "password", "account"}


class Login(NamedTuple):
    """One entry: machine (empty: ``default``), user name, password and the line of its begin."""

    machine: str
    username: str
    password: str
    line: int

    def __repr__(self) -> str:
        return f"Login({self.machine!r}, {self.username!r}, line {self.line})"


def path(environ: Mapping[str, str]) -> str:
    """Return where enroot keeps its logins; empty where it cannot be told."""
    if environ.get("ENROOT_CONFIG_PATH"):
        return f"{environ['ENROOT_CONFIG_PATH']}/.credentials"
    home = environ.get("HOME") or ""
    base = environ.get("XDG_CONFIG_HOME") or (home and f"{home}/.config")
    return f"{base}/enroot/.credentials" if base else ""


def login(
    registry: str, environ: Mapping[str, str], user: str | None = None
) -> tuple[str, str, str] | None:
    """Return user name, password and origin of the login for a registry, or None.

    Raises:
        errors.ConfigError: the file is unreadable or too large.
    """
    file = path(environ)
    data = contents(file) if file else None
    text = None if data is None else data.decode(errors="replace")
    if text is None:
        return None
    host = registry.rpartition(":")[0] or registry
    names = (registry, host, *TOKEN_SERVERS.get(registry, ()))
    entries = list(parse(text))
    ours = [entry for name in dict.fromkeys(names) for entry in entries if entry.machine == name]
    for entry in ours:
        if user is not None and entry.username != user:
            continue
        if "$(" in entry.username + entry.password:
            log.warning(
                f"{file}:{entry.line}: holds $(...), which is not run; going on without a login "
                f"for {registry} (fairlead login keeps one)"
            )
            continue
        if entry.username and entry.password:
            return entry.username, entry.password, f"{file}:{entry.line}"
    return None


def parse(text: str) -> Iterator[Login]:
    """Yield the entries of a netrc file; what is none is passed over."""
    words = list(_words(text))
    at = 0
    while at < len(words):
        word, line = words[at]
        at += 1
        if word not in {"machine", "default"}:
            continue
        machine = ""
        if word == "machine" and at < len(words):
            machine = words[at][0]
            at += 1
        given: dict[str, str] = {}
        while at + 1 < len(words) and words[at][0] in _KEYS:
            given[words[at][0]] = words[at + 1][0]
            at += 2
        yield Login(machine, given.get("login", ""), given.get("password", ""), line)


def _words(text: str) -> Iterator[tuple[str, int]]:
    macro = False
    for number, line in enumerate(text.split("\n"), 1):
        plain = line.strip()
        if not plain:
            macro = False
        if macro or plain.startswith("#"):
            continue
        macro = plain.startswith("macdef")
        if not macro:
            for found in _WORD.finditer(plain):
                quoted = found[1]
                word = found[2] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
                yield word, number


def contents(file: str) -> bytes | None:
    """Return what a file of logins holds, None if it is absent or not to be opened.

    A home that this process may not enter (root_squash) is as good as none.

    Raises:
        errors.ConfigError: it cannot be read, is no regular file or too large.
    """
    try:
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    except OSError as error:
        raise errors.ConfigError(f"{file}: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):  # open() has other words for a directory
        os.close(fd)
        raise errors.ConfigError(f"{file}: is not a regular file")
    with open(fd, "rb") as opened:
        data = opened.read(MAX_FILE + 1)
    if len(data) > MAX_FILE:
        raise errors.ConfigError(f"{file}: is larger than {MAX_FILE} bytes")
    return data
