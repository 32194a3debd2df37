"""What steps leave on this machine once they have ended: nothing, if all is well.

Slurm's clients (srun and its like) count for nothing here: they are the user's, on the submitting host.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time

import jobs
import psutil
from installation import plugin_line

CLIENTS = {"srun", "sbatch", "salloc", "scancel"}
LIMIT_S = 60.0  # how long a loaded machine may take; the sweep measures how long it does


def site_store() -> str:
    """The shared store of the installed plugin, empty without one."""
    found = re.search(r" site=(\S+)", plugin_line()[1])
    return found[1] if found else ""


def own_store() -> str:
    """The user's own."""
    return f"/var/tmp/fairlead-{jobs.USER.pw_uid}.{jobs.USER.pw_gid}"


STORES = (site_store(), own_store())
SERVICE = os.stat(STORES[0]).st_uid if STORES[0] else -1


def processes() -> list[str]:
    """Living processes of steps: slurmstepd, tasks, engines, brokers, storekeepers, and their children."""
    found = []
    for process in jobs.processes("cmdline", "uids", "status"):
        info = process.info
        if info["status"] == psutil.STATUS_ZOMBIE or not info["uids"] or info["name"] in CLIENTS:
            continue
        words = " ".join(info["cmdline"] or [])
        if (
            info["uids"].real in {jobs.USER.pw_uid, SERVICE}
            or info["name"].startswith("fairlead-")
            or words.startswith("slurmstepd: [")
        ):
            found.append(f"process {process.pid} {info['name']} {words[:80]}")
    return found


def objects() -> list[str]:
    """Work in progress, or what is left of it, and locks that somebody holds, in both stores."""
    found = []
    for store in STORES:
        with contextlib.suppress(FileNotFoundError):
            found += [f"stage {store}/tmp/{name}" for name in os.listdir(f"{store}/tmp")]
            found += [
                f"lock {store}/locks/{name}"
                for name in os.listdir(f"{store}/locks")
                if is_held(f"{store}/locks/{name}")
            ]
    return found


def is_held(path: str) -> bool:
    """Whether a process holds the flock on a file."""
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def devices() -> list[str]:
    """Loop devices that are bound to a file of the shared store."""
    found = []
    for name in os.listdir("/sys/block"):
        with (
            contextlib.suppress(OSError),
            open(f"/sys/block/{name}/loop/backing_file", encoding="utf-8") as file,
        ):
            text = file.read()
            if STORES[0] and text.startswith(f"{STORES[0]}/"):
                found.append(f"device {name} {text.strip()}")
    return found


def mounts() -> frozenset[str]:
    """Mounts of this process and of every slurmd, each with its place and kind: without the numbers of mounts."""
    found = set()
    for process in jobs.processes():
        if process.info["name"] == "slurmd" or process.pid == os.getpid():
            with (
                contextlib.suppress(OSError),
                open(f"/proc/{process.pid}/mountinfo", encoding="utf-8") as file,
            ):
                found |= {
                    f"mount {process.info['name']} {line.split(' ', 3)[3].strip()}" for line in file
                }
    return frozenset(found)


def everything(before: frozenset[str]) -> list[str]:
    """All that is left, given the mounts of before."""
    return [*processes(), *objects(), *devices(), *sorted(mounts() - before)]


def assert_nothing(before: frozenset[str], limit_s: float = LIMIT_S) -> float:
    """Wait until nothing is left; return how long that took."""
    begun = time.monotonic()
    while left := everything(before):
        assert time.monotonic() - begun < limit_s, left
        time.sleep(0.02)
    return time.monotonic() - begun


def pids(mark: str, *, by_name: bool = False) -> list[int]:
    """Processes whose name is a word, or whose command line has it: a task has slurmstepd's for a while."""
    found = []
    for process in jobs.processes("cmdline", "status"):
        words = " ".join(process.info["cmdline"] or [])
        if process.info["status"] != psutil.STATUS_ZOMBIE and (
            process.info["name"] == mark or (mark in words and not by_name)
        ):
            found.append(process.pid)
    return found


def slurmd(node: str) -> int:
    """The slurmd of a node."""
    for process in jobs.processes("cmdline"):
        words = " ".join(process.info["cmdline"] or [])
        if process.info["name"] == "slurmd" and f"-N {node} " in f"{words} ":
            return int(process.pid)
    raise AssertionError(f"no slurmd of {node}")
