"""Typed calls into the C extension; the only module that imports it.

Rules:
- The C side returns -errno and never prints; here that becomes an ``OSError`` with the path, or the error class
  that fits. Paths are bytes on the C side (``os.fsencode``).
- No policy: what to mount, which limits, and what an error means to the user is decided by the callers.
"""

from __future__ import annotations

import os
from typing import Any

from fairlead import _c_ext

lib: Any = _c_ext.lib
ffi: Any = _c_ext.ffi


def _check(result: int, path: str) -> int:
    if result < 0:
        raise OSError(-result, os.strerror(-result), path)
    return result


# -- files -----------------------------------------------------------------------------------------------------


def rename_noreplace(old: str, new: str, *, old_dirfd: int = -100, new_dirfd: int = -100) -> None:
    """Rename, failing with FileExistsError when the new name is taken (renameat2, RENAME_NOREPLACE).

    The default descriptors are AT_FDCWD.
    """
    _check(lib.files_rename_noreplace(old_dirfd, os.fsencode(old), new_dirfd, os.fsencode(new)), new)


def open_in_root(root_fd: int, path: str, flags: int) -> int:
    """Open path as if root_fd were ``/``: symlinks and ``..`` cannot leave it (openat2, RESOLVE_IN_ROOT)."""
    return _check(lib.files_open_in_root(root_fd, os.fsencode(path), flags, 0), path)
