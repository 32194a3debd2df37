"""Runs a command as an ordinary user in a user and mount namespace of its own, on a tmpfs of its own.

    python sandbox.py DIRECTORY OPTIONS COMMAND...

The tmpfs, mounted with OPTIONS, lies over DIRECTORY, which must exist; the command starts there, without a single capability, so that a
mode of 000 means something, and nothing that it does outlives it.
"""

from __future__ import annotations

import ctypes
import os
import sys

CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
MS_NOSUID, MS_NODEV, MS_REC, MS_PRIVATE = 2, 4, 16384, 1 << 18
NOBODY = 65534


def checked(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def main(directory: str, options: str, command: list[str]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        checked(libc.prctl(4, 1, 0, 0, 0))  # PR_SET_DUMPABLE: else /proc/self/uid_map is root's
    uid, gid = os.getuid(), os.getgid()
    checked(libc.unshare(CLONE_NEWUSER | CLONE_NEWNS))
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {uid} 1"),
        ("gid_map", f"{gid} {gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    checked(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None))
    flags = MS_NOSUID | MS_NODEV
    checked(libc.mount(b"none", directory.encode(), b"tmpfs", flags, options.encode()))
    os.chdir(directory)
    os.execvp(command[0], command)  # as a user other than 0: the capabilities end here


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
