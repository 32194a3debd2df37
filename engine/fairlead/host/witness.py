"""What a decision hung on: files and variables that were looked at, with what was seen.

A plan that is kept (``run.keep``) is used again only while all of this is still so. C compares the
same texts (``c_ext/plan_check.h``); a test holds the two together.

Rules:
- A text is taken before the thing itself is read: what changes in between then counts as changed.
- An environment notes what it was asked and nothing else: a variable that no decision asked for may
  have any value at the next launch.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from typing import NamedTuple


class Seen(NamedTuple):
    """A path and what was known of it.

    Attributes:
        path: absolute; a template when it holds ``${NAME}`` and ``template`` says so.
        text: from ``identity`` or, with ``kind``, from ``kind``.
        nofollow: of a symbolic link itself.
    """

    path: str
    text: str
    kind: bool = False
    nofollow: bool = False
    template: bool = False


def identity(path: str, *, nofollow: bool = False) -> str:
    """Return what tells whether a path is still what it was; different after any change."""
    try:
        status = os.stat(path, follow_symlinks=not nofollow)
    except OSError:
        return "absent"
    times = f"{status.st_mtime_ns} {status.st_ctime_ns}"
    return f"{status.st_dev} {status.st_ino} {status.st_size} {times}"


def kind(path: str, *, nofollow: bool = False) -> str:
    """Return what a path is, for decisions that hang on that alone."""
    try:
        status = os.stat(path, follow_symlinks=not nofollow)
    except OSError:
        return "absent"
    if stat.S_ISREG(status.st_mode):
        return "file"
    if stat.S_ISDIR(status.st_mode):
        return "own directory" if status.st_uid == os.getuid() else "directory"
    if stat.S_ISCHR(status.st_mode):
        return f"device {os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    return "other"


def file(path: str, *, nofollow: bool = False) -> Seen:
    """Look at a file whose content matters."""
    return Seen(path, identity(path, nofollow=nofollow), nofollow=nofollow)


def place(path: str, *, nofollow: bool = False) -> Seen:
    """Look at a path of which only its kind matters."""
    return Seen(path, kind(path, nofollow=nofollow), kind=True, nofollow=nofollow)


class Environment(Mapping[str, str]):
    """An environment that notes what it is asked.

    Attributes:
        plain: the same without notes, for uses that are noted in another way (templates).
        asked: names whose value was asked for, None where there was none.
        presence: names of which only the existence was asked for.
        prefixes: for each prefix, the names that begin with it.
    """

    def __init__(self, variables: Mapping[str, str]) -> None:
        self.plain = dict(variables)
        self.asked: dict[str, str | None] = {}
        self.presence: dict[str, bool] = {}
        self.prefixes: dict[str, tuple[str, ...]] = {}

    def __getitem__(self, name: str) -> str:
        self.asked[name] = self.plain.get(name)
        return self.plain[name]

    def __contains__(self, name: object) -> bool:
        found = name in self.plain
        self.presence[str(name)] = found
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self.named(""))

    def __len__(self) -> int:
        return len(self.named(""))

    def named(self, prefix: str) -> tuple[str, ...]:
        """Return the names that begin with a prefix, sorted."""
        found = tuple(sorted(name for name in self.plain if name.startswith(prefix)))
        self.prefixes[prefix] = found
        return found


def named(environ: Mapping[str, str], prefix: str) -> tuple[str, ...]:
    """Return the names in any environment that begin with a prefix, sorted."""
    if isinstance(environ, Environment):
        return environ.named(prefix)
    return tuple(sorted(name for name in environ if name.startswith(prefix)))


def plain(environ: Mapping[str, str]) -> Mapping[str, str]:
    """Return an environment that notes nothing."""
    return environ.plain if isinstance(environ, Environment) else environ
