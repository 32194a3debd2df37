"""Damaged objects, taken out of use: they lose their name, and the next launch fetches them again.

They are kept for whoever wants to see what happened to them, until ``gc`` removes them, first of
all. Moving one is a rename: no room is needed on a full disk.
"""

from __future__ import annotations

import os

from fairlead.store import layout
from fairlead.store.layout import Store


def put(store: Store, path: str) -> str:
    """Move an object of the store here and return where it is now; empty if it is gone already.

    Raises:
        OSError: it cannot be moved.
    """
    folder = store.path("quarantine")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    name = os.path.relpath(path, store.root).replace("/", ".")
    for number in range(1 << 16):
        final = f"{folder}/{name}.{number}"
        try:
            if layout.publish(path, final, durable=False):
                return final
        except FileNotFoundError:
            return ""
    raise FileExistsError(17, "too many of this name", folder)


def entries(store: Store) -> tuple[str, ...]:
    """Return the paths of everything in quarantine."""
    folder = store.path("quarantine")
    try:
        return tuple(f"{folder}/{name}" for name in sorted(os.listdir(folder)))
    except FileNotFoundError:
        return ()


def empty(store: Store) -> None:
    """Remove everything in quarantine."""
    for path in entries(store):
        layout.discard(path)
