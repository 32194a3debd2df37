"""Applies layers for the tests, inside the sandbox: requests on stdin, answers on stdout, both pickled.

Beside the root lies the canary, whose every byte and date must stay as it is.
"""

from __future__ import annotations

import os
import pickle
import resource
import stat
import sys
import time
from typing import NamedTuple

from layer_model import Snapshot
from tarmaker import DIR, FIFO, FILE, SYMLINK

from fairlead import errors, sinks

ROOT_MTIME = 10**9


class Request(NamedTuple):
    """Layers as archives; each is fed in pieces of ``piece`` bytes (0: whole)."""

    layers: tuple[bytes, ...]
    piece: int = 0
    limits: sinks.Limits = sinks.Limits()
    umask: int = 0o022
    look: bool = True  # send the tree back
    keep: bool = False  # leave the tree for the next request
    early: bool = False  # of images: the lower ones are given before the first byte
    swap_at: int = -1  # after so many bytes of a layer, root/d becomes a link to the canary


class Answer(NamedTuple):
    """What came of it; ``removed``: the user could remove the tree afterwards."""

    error: str
    kind: str
    stats: tuple[sinks.LayerStats, ...]
    tree: Snapshot
    canary: bool
    removed: bool
    seconds: float
    facts: tuple[sinks.ImageFacts, ...] = ()  # of images only, as what follows
    digests: tuple[str, ...] = ()


def snapshot(fd: int, path: bytes = b"", first: dict[int, bytes] | None = None) -> Snapshot:
    """Look at everything below a directory, through the modes that are in the way, and put those back."""
    first = {} if first is None else first
    here = os.fstat(fd)
    result: Snapshot = {path: looks(here, path, first, b"", _xattrs(fd))}
    for name in sorted(os.fsencode(item) for item in os.listdir(fd)):
        below = path + b"/" + name
        info = os.stat(name, dir_fd=fd, follow_symlinks=False)
        if stat.S_ISDIR(info.st_mode):
            os.chmod(name, 0o700, dir_fd=fd)
            inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
            result |= snapshot(inner, below, first)
            result[below] = looks(info, below, first, b"", _xattrs(inner))
            os.close(inner)
            os.chmod(name, stat.S_IMODE(info.st_mode), dir_fd=fd)
        elif stat.S_ISREG(info.st_mode):
            os.chmod(name, 0o600, dir_fd=fd)
            inner = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=fd)
            with open(inner, "rb") as file:
                result[below] = looks(info, below, first, file.read(), _xattrs(inner))
            os.chmod(name, stat.S_IMODE(info.st_mode), dir_fd=fd)
        elif stat.S_ISLNK(info.st_mode):
            target = os.fsencode(os.readlink(name, dir_fd=fd))
            result[below] = looks(info, below, first, target, ())
        else:
            result[below] = looks(info, below, first, b"", ())
    return result


def looks(
    info: os.stat_result,
    path: bytes,
    first: dict[int, bytes],
    data: bytes,
    xattrs: tuple[tuple[bytes, bytes], ...],
) -> tuple[object, ...]:
    kinds = {stat.S_IFREG: FILE, stat.S_IFDIR: DIR, stat.S_IFLNK: SYMLINK, stat.S_IFIFO: FIFO}
    kind = kinds.get(stat.S_IFMT(info.st_mode), b"?")
    shared = first.setdefault(info.st_ino, path)
    assert (info.st_uid, info.st_gid) == (os.getuid(), os.getgid())
    return (kind, stat.S_IMODE(info.st_mode), info.st_mtime_ns, data, shared, xattrs)


def _xattrs(fd: int) -> tuple[tuple[bytes, bytes], ...]:
    return tuple(sorted((os.fsencode(name), os.getxattr(fd, name)) for name in os.listxattr(fd)))


def plant_canary() -> None:
    os.makedirs("canary/dir")
    for name in ("canary/file", "canary/dir/file"):
        with open(name, "w") as file:
            file.write("untouched")
        os.chmod(name, 0o640)
    for name in ("canary/file", "canary/dir/file", "canary/dir", "canary"):
        os.utime(name, (1, 1))


def canary() -> object:
    """Everything in the working directory except the root, with inode numbers."""
    found = []
    for top, names, files in os.walk("."):
        if top == "." and "root" in names:
            names.remove("root")
        for name in [*names, *files]:
            info = os.lstat(os.path.join(top, name))
            found.append(
                (
                    top,
                    name,
                    info.st_mode,
                    info.st_ino,
                    info.st_size,
                    info.st_mtime_ns,
                    info.st_nlink,
                )
            )
    with open("canary/file") as first, open("canary/dir/file") as second:
        return found, first.read(), second.read()


def serve(request: Request) -> Answer:
    if not os.path.exists("root"):
        os.mkdir("root", 0o755)
        os.chmod("root", 0o755)
        os.utime("root", ns=(ROOT_MTIME, ROOT_MTIME))
    before = canary()
    fd = os.open("root", os.O_RDONLY | os.O_DIRECTORY)
    old_umask = os.umask(request.umask)
    stats, error, kind = [], "", ""
    started = time.monotonic()
    try:
        with sinks.LayerTree(fd, request.limits) as tree:
            for layer in request.layers:
                tree.begin_layer()
                step = request.piece or len(layer) or 1
                for at in range(0, len(layer), step):
                    if at == request.swap_at:
                        os.rename("root/d", "root/moved")
                        os.symlink("../canary", "root/d")
                    tree.feed(memoryview(layer)[at : at + step])
                stats.append(tree.end_layer())
    except (errors.Error, OSError) as failure:
        error, kind = str(failure), type(failure).__name__
    seconds = time.monotonic() - started
    os.umask(old_umask)
    found = snapshot(fd) if request.look and not error else {}
    os.close(fd)
    untouched = canary() == before
    if not request.keep:
        sinks.remove_tree("root")
    removed = not os.path.lexists("root")
    return Answer(error, kind, tuple(stats), found, untouched, removed, seconds)


def main() -> None:
    sys.setrecursionlimit(20_000)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    plant_canary()
    while True:
        try:
            request = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        pickle.dump(serve(request), sys.stdout.buffer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
