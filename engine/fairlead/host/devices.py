"""Device nodes of this host, looked at as the user who wants one.

Rules:
- Nothing is opened: opening a device can start it (a watchdog), rewind it or wait. The kernel is
  asked whether it would let this user (``access``), which covers the job's device cgroup, too.
- What a path is now is proven again when it is bound (``c_ext/compose.c``).
"""

from __future__ import annotations

import os
import stat
from typing import NamedTuple


class Node(NamedTuple):
    """A device node.

    Attributes:
        path: without symbolic links.
        kind: ``c`` or ``b``; empty: no device.
        readable, writable: what this user may do with it.
    """

    path: str
    kind: str
    major: int
    minor: int
    readable: bool
    writable: bool


def look(path: str, root: str = "") -> Node:
    """Look at a path.

    Raises:
        OSError: it does not exist, or cannot be reached.
    """
    place = os.path.realpath(root + path, strict=True)
    info = os.stat(place)
    kind = "c" if stat.S_ISCHR(info.st_mode) else "b" if stat.S_ISBLK(info.st_mode) else ""
    return Node(
        place.removeprefix(root) if root else place,
        kind,
        os.major(info.st_rdev),
        os.minor(info.st_rdev),
        os.access(place, os.R_OK),
        os.access(place, os.W_OK),
    )


def openable(node: Node) -> bool:
    """Tell whether this user can do anything with a node."""
    return node.readable or node.writable
