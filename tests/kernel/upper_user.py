"""The user's side of a disk to write to: asks the broker, builds a container on it, does as told.

Says what came in one line of JSON; then, for each line that it reads, another one. It ends with its
input.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import sys

PIECE = 1 << 16


def main(fd: int, uid: int, size: str, lower: str) -> None:
    """Serve the test."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
    from fairlead import kernel
    from fairlead.run import block

    try:
        mount = kernel.broker_upper(fd, size)
    except OSError as error:
        say({"errno": error.errno, "detail": error.filename})
        return
    info = os.stat(mount)
    say({"owner": [info.st_uid, info.st_gid], "flags": os.fstatvfs(mount).f_flag})
    if not lower:
        sys.stdin.readline()
        return
    records = [
        block.record(kernel.lib.OP_ROOT, 0, lower),
        block.record(kernel.lib.OP_UPPER, 0, size, "mount:0"),
        block.record(kernel.lib.OP_WORKDIR, 0, "/"),
    ]
    kernel.create_namespace()
    kernel.compose_root(block.join(records), (mount,))
    os.close(mount)
    for line in sys.stdin:
        verb, _, rest = line.strip().partition(" ")
        say(VERBS[verb](rest))


def say(answer: object) -> None:
    """Answer."""
    print(json.dumps(answer), flush=True)


def fill(path: str) -> dict[str, int]:
    """Write until there is no more room."""
    written, data = 0, os.urandom(PIECE)
    with open(path, "wb", buffering=0) as file:
        while True:
            try:
                written += file.write(data)
            except OSError as error:
                return {"written": written, "errno": error.errno}


def many(path: str) -> dict[str, int]:
    """Make small files until there is no more room."""
    os.mkdir(path)
    for number in range(1 << 20):
        try:
            with open(f"{path}/{number}", "wb") as file:
                file.write(b"x" * 1000)
        except OSError as error:
            return {"files": number, "errno": error.errno}
    return {"files": 1 << 20, "errno": 0}


def sync(path: str) -> dict[str, int]:
    """Write and sync a file."""
    with open(path, "wb") as file:
        file.write(b"x" * PIECE)
        file.flush()
        os.fsync(file.fileno())
    return {"size": os.stat(path).st_size}


def forbidden(_: str) -> dict[str, int]:
    """Try what a user may not do on a file system of their own."""
    found = {}
    for name, work in (
        ("device", lambda: os.mknod("/null", 0o20666, os.makedev(1, 3))),
        ("chown", lambda: os.chown("/etc", 0, 0)),
    ):
        try:
            work()
            found[name] = 0
        except OSError as error:
            found[name] = error.errno or errno.EIO
    return found


def look(_: str) -> list[str]:
    """Show what is in the root."""
    return sorted(os.listdir("/"))


VERBS = {"fill": fill, "many": many, "sync": sync, "forbidden": forbidden, "look": look}

if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
