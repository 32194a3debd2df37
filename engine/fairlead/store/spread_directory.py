"""A directory of a shared file system as the way of blobs between the nodes of a step.

Each step has a directory of its user's below it, ``fairlead-UID.JOB.STEP``, mode 0700. A part is
written under another name and renamed. The node that is the last to need any of them removes all;
what is left of steps that were killed, the user's next step removes after a day.

Rules:
- Others may write to the site's directory: whatever stands in the place of ours and is not a
  directory of this user that only they can enter is refused, and everything is done by its
  descriptor.
- Nothing in it is believed; see ``spread``.
"""

from __future__ import annotations

import os
import shutil
import stat
import time

from fairlead import errors

_COPY = 1 << 20
DAY_S = 24 * 3600


class Directory:
    """A ``spread.Way``."""

    lasts = True

    def __init__(self, root: str, step: str) -> None:
        self._root, self._fd = root, -1
        self._place = f"{root}/fairlead-{os.getuid()}.{step}"

    def open(self) -> int:
        """Make the step's directory, or find it made by another node.

        Raises:
            errors.StoreError: something else is in its place, or anybody may rename it.
            OSError: the site's directory cannot be used.
        """
        parent = os.stat(self._root)
        if parent.st_mode & 0o002 and not parent.st_mode & stat.S_ISVTX:
            raise errors.StoreError(
                f"{self._root}: anybody may rename what is there (it has no sticky bit)"
            )
        self._sweep()
        try:
            os.mkdir(self._place, 0o700)
        except FileExistsError:
            pass  # by another node of this step; or else it is refused below
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(self._place, flags)
        info = os.fstat(fd)
        if info.st_uid != os.getuid() or info.st_mode & 0o077:
            os.close(fd)
            raise errors.StoreError(f"{self._place}: is not a directory of yours alone")
        self._fd = fd
        return fd

    def put(self, fd: int, name: str) -> bool:
        """Write a part; a name that is there already is replaced."""
        partial = f"{name}.partial"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        out = os.open(partial, flags, 0o600, dir_fd=self._fd)
        try:
            at, size = 0, os.fstat(fd).st_size
            while at < size:
                at += os.write(out, os.pread(fd, _COPY, at))
        finally:
            os.close(out)
        os.rename(partial, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        return True

    def close(self, *, last: bool) -> None:
        """Remove the directory, by the node that is the last."""
        if self._fd < 0:
            return
        os.close(self._fd)
        if last:
            shutil.rmtree(self._place, ignore_errors=True)

    def _sweep(self) -> None:
        prefix = f"fairlead-{os.getuid()}."
        for name in os.listdir(self._root):
            path = f"{self._root}/{name}"
            if name.startswith(prefix) and _age_s(path) > DAY_S:
                shutil.rmtree(path, ignore_errors=True)


def _age_s(path: str) -> float:
    try:
        info = os.lstat(path)
    except OSError:
        return 0.0
    return time.time() - info.st_mtime if info.st_uid == os.getuid() else 0.0
