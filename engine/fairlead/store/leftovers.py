"""What the dead left in a store: staging directories and locks that no living process holds."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator

from fairlead.store import layout
from fairlead.store.layout import Store


def sweep(store: Store) -> None:
    """Remove what the dead left below ``tmp`` and ``locks``; never waits, never touches the living.

    Raises:
        errors.StoreError: something cannot be removed.
    """
    with layout.failures_named(store):
        for path in stale_stages(store):
            layout.discard(path)
        for path in stale_locks(store):
            _sweep_lock(path)


def stale_stages(store: Store) -> Iterator[str]:
    """Yield the paths below ``tmp`` that no living process works in, each locked meanwhile."""
    for name in os.listdir(store.path("tmp")):
        path = store.path("tmp", name)
        with _flocked(path) as free:
            if free:
                yield path


def stale_locks(store: Store) -> Iterator[str]:
    """Yield the paths below ``locks`` that no living process holds, each held meanwhile."""
    for name in os.listdir(store.path("locks")):
        path = store.path("locks", name)
        with _flocked(path) as free:
            if free:
                yield path


@contextlib.contextmanager
def _flocked(path: str) -> Iterator[bool]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        yield False
        return
    except OSError as error:
        if error.errno not in {errno.ELOOP, errno.ENXIO}:
            raise
        yield True  # a link, a socket: nobody's lock
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield layout.is_at(fd, path)
    except BlockingIOError:
        yield False
    finally:
        os.close(fd)


def _sweep_lock(path: str) -> None:
    # Who waits for it meanwhile must take this neither for the end of the work nor for its failure:
    # see layout.Lock.
    if stat.S_ISREG(os.lstat(path).st_mode):
        os.truncate(path, 0)
        os.chmod(path, layout.FAILED)
    layout.discard(path)
