"""sbcast: a file to every node of a step, by the tree of slurmds that Slurm has anyway.

Rules:
- The program is looked for where Slurm is installed, not along a PATH.
- As the job's user, from inside the step; nothing of the job's environment but which cluster it is.
- The file must not be there yet: slurmd opens it as the user with O_EXCL and follows no link.
- One file is one block. Where one node cannot write a block, sbcast ends after it, and the
  others keep a file that is cut short; a file of one block reaches all that can take it.
- Neither exit status nor output is a proof: who receives verifies.

Source: file_bcast.c of Slurm 22.05 and 26.05; docs/adr/0027.
"""

from __future__ import annotations

import os

from fairlead import errors, log
from fairlead.store import spread_parts
from fairlead.store.layout import Stage, Store

PLACES = ("/usr/bin/sbcast", "/usr/local/bin/sbcast", "/opt/slurm/bin/sbcast")
LIMIT_S = 120.0


def find() -> str:
    """Return the path of the program.

    Raises:
        errors.SlurmError: this node has none.
    """
    for path in PLACES:
        if os.access(path, os.X_OK):
            return path
    raise errors.SlurmError("this node has no sbcast")


def send(step: str, conf: str, fd: int, final: str, block: str) -> None:
    """Write a copy of an open file to a path on every node of a step, as far as that goes.

    Args:
        step: JOB.STEP.
        conf: path of slurm.conf, empty for where Slurm looks by itself.
        fd: of the file.
        final: absolute path, the same on all nodes.
        block: as sbcast takes a size; no smaller than the file.
    """
    import subprocess

    environ = {"PATH": "/usr/bin:/bin", "SBCAST_SEND_LIBS": "no"}
    if conf:
        environ["SLURM_CONF"] = conf
    words = (find(), f"--jobid={step}", f"--size={block}", f"/proc/self/fd/{fd}", final)
    try:
        done = subprocess.run(
            words,
            pass_fds=(fd,),
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=LIMIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        log.debug(f"sbcast: {error}")
        return
    if done.returncode:
        log.debug(f"sbcast: {done.stderr.decode(errors='replace')}")


class Sbcast:
    """A ``spread.Way``: into a directory of the user's at the same path on every node."""

    lasts = False

    def __init__(self, store: Store, step: str, conf: str) -> None:
        self._step, self._conf = step, conf
        self._stage, self._fd = Stage(store, f"spread.{step}"), -1

    def open(self) -> int:
        """See ``spread.Way``; there must be an sbcast."""
        find()
        self._stage.__enter__()
        self._fd = os.open(self._stage.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return self._fd

    def put(self, fd: int, name: str) -> bool:
        """See ``spread.Way``: this node gets a copy like every other, which tells that it went."""
        size = os.fstat(fd).st_size
        send(
            self._step, self._conf, fd, f"{self._stage.path}/{name}", f"{spread_parts.PART >> 20}m"
        )
        try:
            return os.stat(name, dir_fd=self._fd, follow_symlinks=False).st_size == size
        except FileNotFoundError:
            return False
        finally:
            spread_parts.unlink(name, self._fd)

    def close(self, *, last: bool) -> None:
        """See ``spread.Way``."""
        if self._fd >= 0:
            os.close(self._fd)
            self._stage.__exit__(None, None, None)
