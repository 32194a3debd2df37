"""Save a step's container when its tasks have ended: what ``spank_shim/enter.c`` becomes.

``python -I -m fairlead.run.saver DIRECTORY STATUS``, as the job's user, in the step: DIRECTORY is
the container's, STATUS what its first task ended with. The status returned is the same, or 125 if
that was 0 and the container could not be saved.

Rules:
- It waits until no task is left in the container. Who cancels the step ends it, too.
- A container that had no name of its own is removed, saved or not.
"""

from __future__ import annotations

import os
import sys
import time

from fairlead import config as settings
from fairlead import errors, log
from fairlead.plan import pyxis
from fairlead.run import saving
from fairlead.store import containers, layout

_POLL_S = 0.1


def main(arguments: list[str]) -> int:
    """Save; return the step's status."""
    place, status = arguments[0], int(arguments[1])
    try:
        _save(place)
    except errors.Error as error:
        log.error(error)
        return status or error.status
    return status


def _save(place: str) -> None:
    folder, _, key = place.rpartition("/")
    store = layout.Store(os.path.dirname(folder))
    while key in containers.mounted():
        time.sleep(_POLL_S)
    lock = containers.hold(store, key)
    container = containers.at(store, key)
    try:
        kept = containers.read(container)
        root = saving.of_container(container, kept)
        assert kept is not None  # or there is no root
        progress = log.QuietProgress(f"saving {kept.save}")
        saving.save(root, _target(kept.save), settings.load(), store, progress)
    finally:
        if key.partition(".")[2].startswith(pyxis.SAVED):
            containers.remove(store, container)
        os.close(lock)


def _target(text: str) -> saving.Target:
    """Return where to save; a path of any name is a squashfs file, as pyxis's is."""
    if text.startswith(("oci:", "docker://")):
        return saving.target(text, settings.load(), "/")
    return saving.Target(saving.SQUASHFS, text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
