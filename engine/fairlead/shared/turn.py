"""Turns in the site store: many storekeepers at work, or one gc alone. A flock on ``layers``."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

from fairlead.store.layout import Store


@contextlib.contextmanager
def work(store: Store) -> Iterator[None]:
    """Keep gc from taking for garbage what no grant names yet; waits for a gc at work."""
    with _flocked(store, fcntl.LOCK_SH):
        yield


@contextlib.contextmanager
def alone(store: Store) -> Iterator[bool]:
    """Tell whether no storekeeper is at work; if so, none begins inside ``with``."""
    try:
        with _flocked(store, fcntl.LOCK_EX | fcntl.LOCK_NB):
            yield True
    except BlockingIOError:
        yield False


@contextlib.contextmanager
def _flocked(store: Store, how: int) -> Iterator[None]:
    fd = os.open(store.path("layers"), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, how)
        yield
    finally:
        os.close(fd)
