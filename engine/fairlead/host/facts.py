"""What this node and this user have that a plan depends on: read once, a value from then on.

Rules:
- Read-only, no network, nothing from an image.
- Only what exists is named, so that the plan stays pure and its reasons true.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import NamedTuple

from fairlead.host import slurm, witness

# The device nodes that every container has (runtime-spec "Default Devices"), with their fixed
# numbers.
DEVICES = (
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
    ("/dev/ptmx", 5, 2),
)

# What ranks talk through, where a node has it: RDMA's nodes, shared memory, Slingshot, Omni-Path.
FABRIC_DIRECTORY = "/dev/infiniband"
FABRIC_DEVICES = (
    *("/dev/xpmem", "/dev/knem", "/dev/gdrdrv"),
    *(f"/dev/cxi{number}" for number in range(16)),
    *(f"/dev/hfi1_{number}" for number in range(8)),
)

# What shows that a driver of GPUs is loaded: NVIDIA's two, AMD's, and that of all others.
GPU_PLACES = (
    *("/sys/module/nvidia/version", "/proc/driver/nvidia/version"),
    *("/dev/kfd", "/dev/dri"),
)

# Places of the host that a plan may bind, where they exist.
PLACES = (
    *("/tmp", "/var/tmp", "/dev/pts", "/dev/shm", "/dev/mqueue"),  # noqa: S108
    *("/etc/resolv.conf", "/etc/hosts", "/run/munge"),
)


class User(NamedTuple):
    """The calling user as the host's name service knows them."""

    uid: int
    gid: int
    name: str
    home: str
    shell: str
    groups: tuple[tuple[int, str], ...]  # gid, name; primary and supplementary


class Device(NamedTuple):
    """A character device of the host."""

    path: str
    major: int
    minor: int
    reason: str = "runtime-spec default device"


class StepDirectory(NamedTuple):
    """A directory of this step only: its path, and how that is made from the step's variables."""

    path: str
    template: str


class Facts(NamedTuple):
    """This node, seen by this user."""

    hostname: str
    user: User
    devices: tuple[Device, ...]
    existing: frozenset[str]  # of the paths that were asked about, those that exist
    directories: frozenset[str]  # of the existing ones, those that are directories
    pmix: tuple[
        StepDirectory, ...
    ] = ()  # directories through which PMIx reaches this step's server


def user() -> User:
    """Look the calling user up; works for a uid that the name service does not know."""
    import grp
    import pwd

    uid, gid = os.getuid(), os.getgid()
    try:
        entry = pwd.getpwuid(uid)
        name, home, shell = entry.pw_name, entry.pw_dir, entry.pw_shell
    except KeyError:
        name, home, shell = f"user{uid}", os.environ.get("HOME", "/"), "/bin/sh"
    groups = []
    for number in dict.fromkeys((gid, *os.getgroups())):
        try:
            groups.append((number, grp.getgrgid(number).gr_name))
        except KeyError:
            groups.append((number, f"group{number}"))
    return User(uid, gid, name, home, shell, tuple(groups))


def read(environ: Mapping[str, str], candidates: tuple[str, ...] = ()) -> Facts:
    """Read the facts; candidates are paths whose existence the plan wants to know."""
    me = user()
    paths = {me.home, *PLACES, *candidates}
    existing, directories = set(), set()
    for path in paths:
        try:
            info = os.stat(path)
        except OSError:
            continue
        existing.add(path)
        if stat.S_ISDIR(info.st_mode):
            directories.add(path)
    return Facts(
        os.uname().nodename,
        me,
        _devices(),
        frozenset(existing),
        frozenset(directories),
        pmix_directories(environ),
    )


def pmix_directories(environ: Mapping[str, str]) -> tuple[StepDirectory, ...]:
    """Return the directories through which PMIx clients of this step reach slurmstepd.

    They must be the user's, as those of Slurm's PMIx plugin are.

    Source: slurm.md section 4.
    """
    clients, servers = pmix_templates(environ)
    values = witness.plain(environ)
    client = next((text for text in clients if os.path.isdir(from_template(text, values))), "")
    found: dict[str, str] = {}
    for text in (client, *servers):
        found.setdefault(from_template(text, values), text)
    return tuple(
        StepDirectory(path, text)
        for path, text in found.items()
        if path.startswith("/") and witness.kind(path) == "own directory"
    )


def pmix_templates(environ: Mapping[str, str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return where the client's directory may be, and the names of the server's.

    Templates: what differs between the steps of a job stands as ``${NAME}``.
    """
    names = [name for name in ("PMIX_SERVER_TMPDIR", "SLURM_PMIX_TMPDIR") if name in environ]
    names += [
        name for name in witness.named(environ, "PMIX_DSTORE_") if name.endswith("_BASE_PATH")
    ]
    return slurm.pmix_client_templates(environ), tuple(f"${{{name}}}" for name in names)


def from_template(text: str, environ: Mapping[str, str]) -> str:
    """Return a path with each ``${NAME}`` replaced, by nothing where there is no variable.

    Slashes at its end go: PMIX_SERVER_TMPDIR has one. The form that C uses is stricter
    (``c_ext/plan_expand.h``) and decides what is kept.
    """
    head, *rest = text.split("${")
    for piece in rest:
        name, _, tail = piece.partition("}")
        head += environ.get(name, "") + tail
    return head.rstrip("/")


def fabric_devices() -> tuple[str, ...]:
    """Return where the device nodes of fast networks may be."""
    try:
        names = sorted(os.listdir(FABRIC_DIRECTORY))
    except OSError:
        names = []
    return (*(f"{FABRIC_DIRECTORY}/{name}" for name in names), *FABRIC_DEVICES)


def _devices() -> tuple[Device, ...]:
    found = []
    for path, major, minor in DEVICES:
        if _character_device(path) == os.makedev(major, minor):
            found.append(Device(path, major, minor))
    for path in fabric_devices():
        number = _character_device(path)
        if number and (os.access(path, os.R_OK) or os.access(path, os.W_OK)):
            found.append(
                Device(path, os.major(number), os.minor(number), "fast network of this node")
            )
    return tuple(found)


def _character_device(path: str) -> int:
    """Return the number of a character device, 0 where a path is none."""
    try:
        info = os.lstat(path)
    except OSError:
        return 0
    return info.st_rdev if stat.S_ISCHR(info.st_mode) else 0
