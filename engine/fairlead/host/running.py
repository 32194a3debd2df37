"""The containers that run on this node, found without a daemon: by their processes in /proc.

A container is a mount namespace, other than the own one, whose root was put together by an engine
of this kind and in which a process has ``FAIRLEAD_CONTAINER`` in its environment.

Rules:
- Only processes of the calling user are looked at; the kernel shows no others' namespaces.
- A process is held by a descriptor of its directory in /proc: what is read there is of this very
  process or an error, whatever the number means by then (security.md section 2, row 10).
- What a program says of itself is no proof of anything: whoever could forge it runs as this user
  with this user's home, and is joined only by the user's own word.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from fairlead import errors

_OWNER_UID = 0xB704  # NS_GET_OWNER_UID. Source: ioctl_nsfs(2)
_LIMIT = 4 << 20
FURTHER = ("net", "ipc", "uts")  # in the order of ``enum channel_fd``
NAME_MARK = "#"  # in the source of a root's mount: what follows is the container's name


class Running(NamedTuple):
    """A running container.

    Attributes:
        pid: the oldest process in it.
        image: reference with digest.
        name: JOB.NAME, as in the store; empty for a container without a name.
        job, step: of Slurm; empty outside.
        started: when that process started, seconds since the epoch.
        processes: how many there are.
        namespace: the mount namespace's number.
    """

    pid: int
    image: str
    name: str
    job: str
    step: str
    started: float
    processes: int
    namespace: int


class _Seen(NamedTuple):
    pid: int
    ticks: int
    namespace: int
    environ: dict[str, str]


def all_of(root: str = "/proc") -> tuple[Running, ...]:
    """Return the calling user's running containers, the oldest first."""
    own = os.stat(f"{root}/self/ns/mnt").st_ino
    groups: dict[int, list[_Seen]] = {}
    for name in os.listdir(root):
        if name.isdecimal():
            found = _look(f"{root}/{name}", int(name), own)
            if found is not None:
                groups.setdefault(found.namespace, []).append(found)
    boot = _boot_time(root)
    tick = os.sysconf("SC_CLK_TCK")
    containers = []
    for namespace, seen in groups.items():
        seen.sort(key=lambda process: (process.ticks, process.pid))
        told = next((p.environ for p in seen if "FAIRLEAD_CONTAINER" in p.environ), None)
        name_found = _name(f"{root}/{seen[0].pid}")
        if told is None or name_found is None:
            continue
        containers.append(
            Running(
                pid=seen[0].pid,
                image=errors.one_line(told["FAIRLEAD_CONTAINER"]),
                name=name_found,
                job=_number(told.get("SLURM_JOB_ID", "")),
                step=_number(told.get("SLURM_STEP_ID", "")),
                started=boot + seen[0].ticks / tick,
                processes=len(seen),
                namespace=namespace,
            )
        )
    return tuple(sorted(containers, key=lambda item: (item.started, item.pid)))


def find(text: str, running: tuple[Running, ...], job: str = "") -> Running:
    """Return the container that a PID, a NAME, JOB.NAME or JOB.STEP means.

    Args:
        text: what the user typed.
        running: from ``all_of``.
        job: the job in which this is asked: its containers' names come first.

    Raises:
        errors.ContainerError: there is none, or there are several.
    """
    for wanted in (f"{job or 0}.{text}", f"0.{text}", text):
        named = [item for item in running if item.name == wanted]
        if named:
            return named[0]
    if text.isdecimal():
        found = [item for item in running if item.namespace == _namespace(int(text))]
    else:
        found = [item for item in running if item.job and text == f"{item.job}.{item.step}"]
    if len(found) == 1:
        return found[0]
    if not found:
        raise errors.ContainerError(
            f"{text!r}: no container of yours runs here under this name or number",
            hint="see fairlead ps, on the node where it runs",
        )
    pids = ", ".join(str(item.pid) for item in found)
    raise errors.ContainerError(
        f"{text!r}: means several containers, of the processes {pids}", hint="name one by its PID"
    )


class Process(NamedTuple):
    """A process of a container, opened: what is needed to join it.

    Attributes:
        fds: its namespaces, in the order of ``c_ext/channel.h``; -1 for the host's own.
        environ: what it was started with.
        cwd: its working directory, as it sees it.
    """

    fds: tuple[int, ...]
    environ: dict[str, str]
    cwd: str


def open_process(container: Running, needs: tuple[str, ...] = ()) -> Process:
    """Open the namespaces of a container.

    Raises:
        errors.ContainerError: it has ended, is not this user's, or shares with the host a namespace
            that it needs for itself.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC
    where = f"process {container.pid}"
    try:
        folder = os.open(f"/proc/{container.pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            user_fd, mount_fd = (os.open(f"ns/{n}", flags, dir_fd=folder) for n in ("user", "mnt"))
            more = {name: _own(name, folder) for name in FURTHER}
            environ = _environ(os.open("environ", flags, dir_fd=folder))
            cwd = os.readlink("cwd", dir_fd=folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise errors.ContainerError(
            f"{where}: cannot be joined: {error.strerror}", hint="see fairlead ps"
        ) from error
    if os.fstat(mount_fd).st_ino != container.namespace:
        raise errors.ContainerError(f"{where}: is another one by now", hint="see fairlead ps")
    owner = _owner(user_fd)
    if owner != os.geteuid():
        raise errors.ContainerError(
            f"{where}: its user namespace belongs to uid {owner}, not to you ({os.geteuid()})",
            hint="only a container of your own can be joined",
        )
    for name in needs:
        if more[name] < 0:
            raise errors.ContainerError(
                f"{where}: its container has no {name} namespace of its own",
                hint="leave --container-unshare out, or make the container with it",
            )
    fds = (user_fd, mount_fd, -1, *more.values())
    return Process(fds, environ, cwd if cwd.startswith("/") else "/")


def _own(name: str, folder: int) -> int:
    """Open a further namespace of a process, -1 where it is that of this process, too."""
    fd = os.open(f"ns/{name}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
    if os.fstat(fd).st_ino != os.stat(f"/proc/self/ns/{name}").st_ino:
        return fd
    os.close(fd)
    return -1


def _owner(user_fd: int) -> int:
    import fcntl
    import struct

    return int(struct.unpack("I", fcntl.ioctl(user_fd, _OWNER_UID, bytes(4)))[0])


def _look(path: str, pid: int, own: int) -> _Seen | None:
    try:
        if os.stat(path).st_uid != os.geteuid():
            return None
        namespace = os.stat(f"{path}/ns/mnt").st_ino
        if namespace == own:
            return None
        environ = _environ(os.open(f"{path}/environ", os.O_RDONLY | os.O_CLOEXEC))
        with open(f"{path}/stat", "rb") as file:
            # Field 22, after the command's name, which may hold anything. Source: proc(5).
            ticks = int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None  # it has ended, or may not be looked at
    return _Seen(pid, ticks, namespace, environ)


def _environ(fd: int) -> dict[str, str]:
    with open(fd, "rb") as file:
        data = file.read(_LIMIT)
    pairs = (os.fsdecode(item).partition("=") for item in data.split(b"\0"))
    return {name: value for name, separator, value in pairs if separator and name}


def _name(path: str) -> str | None:
    """Return the name in the mount source of a process's root; None if the root is no container's.

    Source: proc(5) ``mountinfo``: after the separator come type, source and options.
    """
    try:
        with open(f"{path}/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read(_LIMIT).splitlines()
    except OSError:
        return None
    for line in lines:
        head, _, tail = line.partition(" - ")
        fields, kinds = head.split(), tail.split()
        if len(fields) > 4 and fields[4] == "/" and len(kinds) > 1:
            if kinds[0] not in {"overlay", "erofs"} and "/trees/" not in head:
                return None
            _, mark, name = kinds[1].replace("\\043", NAME_MARK).rpartition(NAME_MARK)
            return errors.one_line(name) if mark and kinds[0] == "overlay" else ""
    return None


def _namespace(pid: int) -> int:
    try:
        return os.stat(f"/proc/{pid}/ns/mnt").st_ino
    except OSError:
        return 0


def _number(text: str) -> str:
    return text if text.isdecimal() and text.isascii() else ""


def _boot_time(root: str) -> float:
    with open(f"{root}/stat", "rb") as file:
        for line in file:
            if line.startswith(b"btime "):
                return float(line.split()[1])
    return 0.0
