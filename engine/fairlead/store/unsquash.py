"""A squashfs image becomes a tree: unsquashfs, run as the user, and then the rules for layers.

Rules:
- Never mounted: the kernel must not read metadata that a user can write as root, and a FUSE server
  would be a process that has to outlive the launch (docs/adr/0010).
- unsquashfs dies with this process, reads the descriptor that was hashed, and gets no more threads
  than this process has processors.
- What it leaves is brought under the layers' rules: no devices and sockets, no set-id bits, none of
  overlay's attributes, a root that its owner can enter.
- Devices that an ordinary user cannot make are no error; whatever else it complains of is.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
from typing import NamedTuple

from fairlead import errors, kernel, log
from fairlead.image.squashfs import Superblock

PROGRAM = "unsquashfs"
_SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
_MAX_THREADS = 16
_QUEUE_MB = "16"  # each of two; their default is 256
_MAX_WORDS = 1 << 16
_HARMLESS = (b"because you're not superuser", b"write_xattr")
_FULL = (b"No space left on device", b"Disk quota exceeded")
_SPECIAL = (stat.S_ISCHR, stat.S_ISBLK, stat.S_ISSOCK)


class Unpacked(NamedTuple):
    """What a tree holds: bytes and entries; and how many devices and sockets were left out."""

    size: int
    entries: int
    skipped: int


def unpack(fd: int, offset: int, block: Superblock, target: str, where: str) -> Unpacked:
    """Unpack the image at offset in fd to the new directory target.

    Raises:
        errors.ArchiveError: it is damaged, or this machine has no unsquashfs.
        errors.SpaceError: the file system is full.
    """
    program = shutil.which(PROGRAM, path=f"{os.environ.get('PATH', '')}:{_SYSTEM_PATH}")
    if program is None:
        raise errors.ArchiveError(
            f"{where}: this machine has no {PROGRAM}", hint="install squashfs-tools"
        )
    threads = min(len(os.sched_getaffinity(0)), _MAX_THREADS)
    command = [
        *(program, "-no-progress", "-processors", str(threads)),
        *("-data-queue", _QUEUE_MB, "-frag-queue", _QUEUE_MB),
        "-user-xattrs" if block.has_xattrs else "-no-xattrs",
        *(("-offset", str(offset)) if offset else ()),
        *("-dest", target, f"/proc/self/fd/{fd}"),
    ]
    status, words = _run(command, fd)
    if any(text in words for text in _FULL):
        raise errors.SpaceError(f"cannot write {target}: No space left on device ({where})")
    lines = [line for line in words.splitlines() if line.strip()]
    serious = [line for line in lines if not any(text in line for text in _HARMLESS)]
    if status not in {0, 2} or (status == 2 and serious):
        said = " ".join(line.decode(errors="replace") for line in (serious or lines)[:3])
        raise errors.ArchiveError(f"{where}: {PROGRAM}: {said or f'ended with {status}'}")
    try:
        return _settle(target, has_xattrs=block.has_xattrs)
    except FileNotFoundError as error:
        raise errors.ArchiveError(f"{where}: {PROGRAM} made nothing") from error


def _run(command: list[str], fd: int) -> tuple[int, bytes]:
    """Run a program that ends with this process; return its status and its first complaints."""
    parent = os.getpid()

    def end_with_parent() -> None:
        if not kernel.end_with(parent):
            os._exit(1)

    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=(fd,),
        env={"LC_ALL": "C"},
        preexec_fn=end_with_parent,  # noqa: PLW1509 - this process has one thread here
    )
    try:
        assert process.stderr is not None
        words = b""
        with process.stderr as pipe:
            while data := os.read(pipe.fileno(), 1 << 16):
                words += data[: _MAX_WORDS - len(words)]
        return process.wait(), words
    except BaseException:
        process.kill()
        process.wait()
        raise


def _settle(root: str, *, has_xattrs: bool) -> Unpacked:
    """Bring an unpacked tree under the rules; every path was made by path, so none is too long."""
    size = entries = skipped = 0
    closed: list[tuple[str, int]] = []
    os.chmod(root, stat.S_IMODE(os.lstat(root).st_mode) & 0o1777 | 0o700)
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        for name in os.listdir(folder):
            path = f"{folder}/{name}"
            info = os.lstat(path)
            entries += 1
            mode = stat.S_IMODE(info.st_mode)
            if any(is_kind(info.st_mode) for is_kind in _SPECIAL):
                os.unlink(path)
                skipped += 1
                continue
            if not stat.S_ISLNK(info.st_mode) and mode & 0o6000:
                mode &= 0o1777
                os.chmod(path, mode)
            if stat.S_ISDIR(info.st_mode):
                waiting.append(path)
                if mode & 0o700 != 0o700:
                    os.chmod(path, mode | 0o700)
                    closed.append((path, mode))
            elif stat.S_ISREG(info.st_mode):
                size += info.st_size
            if has_xattrs and not stat.S_ISLNK(info.st_mode):
                _drop_overlay_attributes(path)
    if has_xattrs:
        _drop_overlay_attributes(root)
    for path, mode in reversed(closed):
        os.chmod(path, mode)
    if skipped:
        log.debug(f"{skipped} devices and sockets were left out")
    return Unpacked(size, entries, skipped)


def _drop_overlay_attributes(path: str) -> None:
    for name in os.listxattr(path, follow_symlinks=False):
        if name.startswith("user.overlay."):
            with contextlib.suppress(FileNotFoundError):
                os.removexattr(path, name, follow_symlinks=False)
