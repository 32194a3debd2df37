"""Converts layers to EROFS images for the tests, and looks at the stack of them through overlayfs.

As root, in a mount namespace of its own: requests on stdin, answers on stdout, as ``layer_worker``. The images are
mounted as the product does it: by root from a plain file, handed over as detached mounts to a user namespace, which
puts the overlay on them.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import pickle
import resource
import stat
import subprocess
import sys
import tempfile
import time
import traceback

import layer_worker
from layer_model import Snapshot
from layer_worker import ROOT_MTIME, Answer, Request
from sandbox import CLONE_NEWNS, CLONE_NEWUSER, MS_PRIVATE, MS_REC, checked
from tarmaker import DIR

from fairlead import errors, sinks

SYS_MOVE_MOUNT, SYS_FSOPEN, SYS_FSCONFIG, SYS_FSMOUNT = 429, 430, 431, 432
FSCONFIG_SET_FLAG, FSCONFIG_SET_STRING, FSCONFIG_CMD_CREATE = 0, 1, 6
MOVE_MOUNT_F_EMPTY_PATH = 4
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV = 1, 2, 4
AT_FDCWD = -100

_libc = ctypes.CDLL(None, use_errno=True)


def _call(number: int, *arguments: object) -> int:
    result: int = _libc.syscall(
        number, *(ctypes.c_long(each) if isinstance(each, int) else each for each in arguments)
    )
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def mounted(path: str, devices: list[int] | None = None) -> int:
    """Mount an image from a plain file, and return the detached mount (kernel 6.12)."""
    fs = _call(SYS_FSOPEN, b"erofs", 1)
    try:
        _call(SYS_FSCONFIG, fs, FSCONFIG_SET_STRING, b"source", os.fsencode(path), 0)
        _call(SYS_FSCONFIG, fs, FSCONFIG_SET_FLAG, b"ro", None, 0)
        for fd in devices or ():
            device = os.fsencode(f"/proc/self/fd/{fd}")
            _call(SYS_FSCONFIG, fs, FSCONFIG_SET_STRING, b"device", device, 0)
        _call(SYS_FSCONFIG, fs, FSCONFIG_CMD_CREATE, None, None, 0)
        attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV
        return _call(SYS_FSMOUNT, fs, 1, attributes)
    finally:
        os.close(fs)


def move_mount(fd: int, path: str) -> None:
    _call(SYS_MOVE_MOUNT, fd, b"", AT_FDCWD, os.fsencode(path), MOVE_MOUNT_F_EMPTY_PATH)


def enter_namespace() -> None:
    """Become root of a user namespace: what no mode keeps from looking, and no more than a user is outside."""
    checked(_libc.unshare(CLONE_NEWUSER | CLONE_NEWNS))
    for name, text in (("setgroups", "deny"), ("uid_map", "0 0 1"), ("gid_map", "0 0 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    checked(_libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None))


def xattrs_of(fd: int) -> tuple[tuple[bytes, bytes], ...]:
    """Return what a user sees; of a layer's own mount also overlay's, which are left out."""
    names = [name for name in os.listxattr(fd) if not name.startswith("user.overlay.")]
    return tuple(sorted((os.fsencode(name), os.getxattr(fd, name)) for name in names))


def look(
    name: bytes, dir_fd: int, path: bytes, first: dict[tuple[int, int], bytes]
) -> tuple[tuple[object, ...], int]:
    """Describe one name as ``layer_worker.snapshot`` does, without a change of modes; keeps a directory open."""
    info = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    data, xattrs, fd = b"", (), -1
    if stat.S_ISLNK(info.st_mode):
        data = os.fsencode(os.readlink(name, dir_fd=dir_fd))
    elif stat.S_ISREG(info.st_mode) or stat.S_ISDIR(info.st_mode):
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=dir_fd)
        xattrs = xattrs_of(fd)
    if stat.S_ISREG(info.st_mode):
        with open(fd, "rb") as file:
            data, fd = file.read(), -1
    kind, mode, mtime, data, _, xattrs = layer_worker.looks(info, path, {}, data, xattrs)
    shared = first.setdefault((info.st_dev, info.st_ino), path)
    return (kind, mode, mtime, data, shared, xattrs), fd


def snapshot(fd: int, path: bytes, first: dict[tuple[int, int], bytes]) -> Snapshot:
    """Look at everything below a directory that may be read-only."""
    result: Snapshot = {}
    for name in sorted(os.fsencode(item) for item in os.listdir(fd)):
        below = path + b"/" + name
        result[below], inner = look(name, fd, below, first)
        if inner >= 0:
            result |= snapshot(inner, below, first)
            os.close(inner)
    return result


def overlay(mounts: list[int], facts: list[sinks.ImageFacts]) -> Snapshot:
    """Stack the images, the topmost last, and look; called in a process of its own."""
    enter_namespace()
    checked(_libc.mount(b"none", b"/mnt", b"tmpfs", 0, b"mode=0755"))
    os.mkdir("/mnt/empty")
    os.mkdir("/mnt/root")
    for number, fd in enumerate(mounts):
        os.mkdir(f"/mnt/{number}")
        move_mount(fd, f"/mnt/{number}")
    os.chdir("/mnt")  # 120 names of layers have to fit into one page
    lower = ":".join(str(number) for number in reversed(range(len(mounts))))
    options = f"lowerdir={lower}:empty,userxattr".encode()
    checked(_libc.mount(b"overlay", b"/mnt/root", b"overlay", 1, options))
    # The rule for whoever mounts a stack: the topmost layer that lists the root describes it.
    root: tuple[object, ...] = (DIR, 0o755, ROOT_MTIME, b"", b"", ())
    for number, fact in enumerate(facts):
        if fact.root_listed:
            root, fd = look(b"%d" % number, os.open("/mnt", os.O_PATH), b"", {})
            os.close(fd)
    return {b"": root, **snapshot(os.open("/mnt/root", os.O_RDONLY), b"", {})}


def alone(mount: int) -> Snapshot:
    """Look at one mount; called in a process of its own."""
    enter_namespace()
    checked(_libc.mount(b"none", b"/mnt", b"tmpfs", 0, b"mode=0755"))
    os.mkdir("/mnt/root")
    move_mount(mount, "/mnt/root")
    root, fd = look(b"root", os.open("/mnt", os.O_PATH), b"", {})
    return {b"": root, **snapshot(fd, b"", {})}


def index(place: str, layers: list[int]) -> Snapshot:
    """Write the index of finished images, twice alike, and return what it shows without overlay."""
    contents = []
    for name in ("index", "again"):
        fd = os.open(f"{place}/{name}", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        scratch = os.open(place, os.O_RDWR | os.O_TMPFILE)
        size = sinks.write_index(fd, scratch, layers).size
        os.close(scratch)
        with open(fd, "rb") as file:
            file.seek(0)
            contents.append(file.read())
        assert len(contents[-1]) == size
    assert contents[0] == contents[1]
    check(f"{place}/index", *(f"--device=/proc/self/fd/{fd}" for fd in layers), keep=layers)
    mount = mounted(f"{place}/index", layers)
    try:
        return in_a_child(alone, mount)  # type: ignore[return-value]
    finally:
        os.close(mount)


def in_a_child(work: object, *arguments: object) -> object:
    """Run a function in a forked process; return what it returns, or raise with its traceback."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            with open(write, "wb") as pipe:
                try:
                    pickle.dump((True, work(*arguments)), pipe)  # type: ignore[operator]
                except BaseException:  # noqa: BLE001 - raised again on the other side
                    pickle.dump((False, traceback.format_exc()), pipe)
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    with open(read, "rb") as pipe:
        good, result = pickle.load(pipe)
    os.waitpid(child, 0)
    if not good:
        raise AssertionError(result)
    return result


def differences(index: Snapshot, overlay: Snapshot) -> str:
    """Say what an index shows that the overlay of its layers does not, and the other way."""
    names = sorted(n for n in {*index, *overlay} if index.get(n) != overlay.get(n))
    lines = [f"{name!r}: index {index.get(name)}, overlay {overlay.get(name)}" for name in names]
    return "\n".join(lines[:20])


def convert(
    layer: bytes, path: str, lower: list[int], request: Request
) -> tuple[sinks.LayerStats, sinks.ImageFacts]:
    """Write one image; the lower ones are handed over only when they are asked for."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    scratch = os.open(os.path.dirname(path), os.O_RDWR | os.O_TMPFILE)
    try:
        with sinks.LayerImage(fd, scratch, request.limits) as image:
            image.begin_layer()
            if request.early:
                image.set_lower(lower)
            step = request.piece or len(layer) or 1
            for at in range(0, len(layer), step):
                image.feed(memoryview(layer)[at : at + step])
            if image.needs_lower and not request.early:
                image.set_lower(lower)
            return image.end_layer(), image.facts()
    finally:
        os.close(fd)
        os.close(scratch)


def check(path: str, *options: str, keep: list[int] | None = None) -> None:
    """Let erofs-utils look at an image."""
    command = ["fsck.erofs", "-d3", *options, path]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    result = subprocess.run(command, **output, text=True, pass_fds=keep or ())  # type: ignore[call-overload]
    assert result.returncode == 0, result.stdout
    assert "No errors found" in result.stdout, result.stdout


def serve(request: Request) -> Answer:
    stats, facts, digests, lower, error, kind = [], [], [], [], "", ""
    tree: Snapshot = {}
    with tempfile.TemporaryDirectory(dir=os.getcwd()) as place:
        started = time.monotonic()
        try:
            for number, layer in enumerate(request.layers):
                path = f"{place}/{number}"
                one, fact = convert(layer, path, lower, request)
                stats.append(one)
                facts.append(fact)
                lower.append(os.open(path, os.O_RDONLY))
                assert os.path.getsize(path) == fact.size
                with open(path, "rb") as image:
                    digests.append(hashlib.sha256(image.read()).hexdigest())
        except (errors.Error, OSError) as failure:
            error, kind = str(failure), type(failure).__name__
        seconds = time.monotonic() - started
        if request.look and not error:
            for number in range(len(request.layers)):
                check(f"{place}/{number}")
            mounts = [mounted(f"{place}/{number}") for number in range(len(request.layers))]
            tree = in_a_child(overlay, mounts, facts)  # type: ignore[assignment]
            for fd in mounts:
                os.close(fd)
            if request.layers:
                shown = index(place, lower)
                if not any(fact.root_listed for fact in facts):
                    assert shown[b""] == (DIR, 0o755, 0, b"", b"", ())
                    shown[b""] = tree[b""]
                assert shown == tree, differences(shown, tree)
        for fd in lower:
            os.close(fd)
    return Answer(
        error, kind, tuple(stats), tree, True, True, seconds, tuple(facts), tuple(digests)
    )


def main() -> None:
    sys.setrecursionlimit(20_000)
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    checked(_libc.unshare(CLONE_NEWNS))
    checked(_libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None))
    while True:
        try:
            request = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer = serve(request)
        except BaseException:  # noqa: BLE001 - the test shows it; the next one shall run
            answer = Answer(traceback.format_exc(), "AssertionError", (), {}, True, True, 0)
        pickle.dump(answer, sys.stdout.buffer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
