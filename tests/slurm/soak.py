"""Many launches one after the other, and what they leave behind: which must be nothing.

``look`` counts what a launch could leave: descriptors, memory and mounts of the daemons, mounts of the
machine, files in the shared places, cgroups, processes. ``steps``, ``runs``, ``through_the_engine`` and
``array`` launch. ``leaks`` compares two looks.

Rules:
- What a launch prints is counted: a launch that did not run leaves nothing, and shows nothing.
- The first launches of each kind come before the first look: what is kept once is no leak.
- Two columns are counted and not judged. A job leaves its lease, an empty file, on each image until the
  storekeeper works next, at the latest an hour after the last proof of access (shared/gc.py,
  ``forget_leases``). And of some hundred contained jobs on a loaded machine one leaves its freezer directory,
  empty: the broker is in it (of the job, not of the step), and may end a moment after slurmstepd.
"""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable
from typing import NamedTuple

import jobs
import psutil

DAEMONS = ("slurmctld", "slurmd", "munged")
LEASES = "/var/lib/fairlead/leases"
PLACES = {
    "run": ("/run",),
    "tmp": ("/tmp", "/var/tmp"),
    "stores": ("/var/lib/fairlead",),
    "leases": (LEASES,),
    "plans": (f"/var/tmp/fairlead-plans-{jobs.USER.pw_uid}",),
    "cgroups": ("/sys/fs/cgroup/freezer",),
}
UNJUDGED = ("leases", "cgroups")
GROWTH_KIB = 16384  # of a daemon: caches of its allocator
# A plan is kept for each node, which a scheduler may choose for the first time at any launch; plans lie in /var/tmp.
ROOM = {"plans": 4, "tmp": 4}


class Look(NamedTuple):
    """What the machine holds at one moment."""

    descriptors: int  # of all daemons
    sockets: int  # of the Unix kind, on the machine
    mounts: int  # in the daemons' namespaces and in this one
    namespaces: int  # of mounts, that have a process
    processes: int  # of the user and of the service, zombies of a living parent included
    run: int
    tmp: int
    stores: int  # without leases
    leases: int
    plans: int
    cgroups: int  # of the freezer
    slurmd_kib: int
    slurmctld_kib: int
    munged_kib: int
    idle: int  # nodes


def look() -> Look:
    """Count."""
    daemons = [item for item in jobs.processes() if item.info["name"] in DAEMONS]
    memory = dict.fromkeys(DAEMONS, 0)
    for daemon in daemons:
        memory[daemon.info["name"]] += daemon.memory_info().rss >> 10
    own = {
        entry.pw_uid for entry in pwd.getpwall() if entry.pw_name in (jobs.USER.pw_name, "fairlead")
    }
    seen = [item for item in jobs.processes("pid", "uids", "status", "ppid") if _counts(item)]
    with open("/proc/net/unix", encoding="utf-8", errors="replace") as file:
        sockets = len(file.readlines())
    return Look(
        sum(len(_names(f"/proc/{daemon.pid}/fd")) for daemon in daemons),
        sockets,
        sum(_mounts(pid) for pid in ("self", *(daemon.pid for daemon in daemons))),
        len({_link(f"/proc/{item.info['pid']}/ns/mnt") for item in seen} - {""}),
        sum(bool(item.info["uids"]) and item.info["uids"].real in own for item in seen),
        *(sum(map(_entries, places)) for places in PLACES.values()),
        *(memory[name] for name in ("slurmd", "slurmctld", "munged")),
        jobs.run("sinfo", "-h", "-N", "-o", "%T").stdout.split().count("idle"),
    )


def leaks(before: Look, after: Look) -> list[str]:
    """Return what is more than it was, in words."""
    grown = []
    for name, old, new in zip(Look._fields, before, after, strict=True):
        room = GROWTH_KIB if name.endswith("_kib") else ROOM.get(name, 0)
        if name == "idle" and new < old:
            grown.append(f"idle nodes: {new} of {old}")
        elif name not in ("idle", *UNJUDGED) and new > old + room:
            grown.append(f"{name}: {new}, was {old}")
    return grown


def settled(before: Look, seconds: float = 60) -> list[str]:
    """Return what is still more than it was once everything has had time to end."""
    deadline = time.monotonic() + seconds
    while (grown := leaks(before, look())) and time.monotonic() < deadline:
        time.sleep(0.5)
    return grown


def steps(image: str, count: int, parallel: int = 8) -> int:
    """Launch as steps of one allocation over all nodes; return how many said that they ran."""
    step = f"srun --overlap -N1 -n1 -r$(({{}} % 4)) --container={shlex.quote(image)} echo ran"
    script = f"seq {count} | xargs -P {parallel} -I{{}} sh -c {shlex.quote(step)}"
    shown = jobs.run("salloc", "-Q", "-N4", "-n4", "sh", "-c", script, timeout=36000)
    return _ran(shown.stdout)


def runs(image: str, count: int, parallel: int = 4, **variables: str) -> int:
    """Launch by ``fairlead run``; return how many said that they ran."""
    launch = f"fairlead run {shlex.quote(image)} /bin/busybox echo ran"
    script = f"seq {count} | xargs -P {parallel} -I{{}} {launch}"
    return _ran(jobs.run("sh", "-c", script, timeout=36000, **variables).stdout)


def through_the_engine(image: str, count: int, parallel: int = 4) -> int:
    """Launch by ``fairlead run`` without kept plans; return how many said that they ran."""
    return runs(image, count, parallel, FAIRLEAD_PLAN_CACHE="no")


def array(image: str, count: int, parallel: int = 8) -> int:
    """Run a job array whose tasks launch one step each; return how many said that they ran."""
    place = tempfile.mkdtemp(prefix="fairlead-array-", dir="/tmp")
    os.chown(place, jobs.USER.pw_uid, jobs.USER.pw_gid)
    try:
        words = (f"--array=1-{count}%{parallel}", f"--output={place}/%a", f"--container={image}")
        submitted = jobs.run("sbatch", "--parsable", "-n1", *words, "--wrap=srun echo ran")
        job = jobs.output(submitted).strip()
        jobs.wait_for(lambda: not jobs.run("squeue", "-h", "-j", job).stdout, 36000)
        return sum(_ran(_text(f"{place}/{name}")) for name in os.listdir(place))
    finally:
        shutil.rmtree(place)


KINDS: dict[str, Callable[[str, int], int]] = {
    "steps": steps,
    "runs": runs,
    "engine": through_the_engine,
    "array": array,
}


def _counts(process: psutil.Process) -> bool:
    """Tell a process from what a first process that reaps nobody leaves of one."""
    return process.info["status"] != psutil.STATUS_ZOMBIE or process.info["ppid"] != 1


def _ran(shown: str) -> int:
    return shown.splitlines().count("ran")


def _text(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def _names(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:  # it has ended
        return []


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _mounts(pid: int | str) -> int:
    try:
        return len(_text(f"/proc/{pid}/mountinfo").splitlines())
    except OSError:
        return 0


def _entries(place: str) -> int:
    return sum(
        len(directories) + len(files)
        for folder, directories, files in os.walk(place)
        if folder != LEASES or place == LEASES
    )
