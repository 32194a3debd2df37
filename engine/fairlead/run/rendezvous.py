"""How a node's tasks come to one container without the plugin: the first makes it, the others join.

Slurm's own ``--container`` starts the engine once per task and gives every task a file with its
environment. That of the node's first task is where they meet: once read, it holds one line, of one
length, that says how far the first task is, and one byte more for each task that has joined.

    building PID TICKS           the process that makes the container
    ready PID NAMESPACE BLOCK    it stands: its mount namespace, the descriptor of the launch block
    failed STATUS                it will not stand; the first task has said why

Rules:
- Nothing of it outlives the step: Slurm removes the file as the environment that it was.
- The first task executes when the others have joined, or after a patience: until then its process
  shows where the container is, whatever the command makes of itself.
- What the file says is the user's own word. Joined is a process of this user only, and only if its
  namespace is the one that was named (``host.running``).
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from typing import NamedTuple

from fairlead import errors
from fairlead.host import running
from fairlead.store import layout

_LIMIT = 4 << 20
_SIZE = 64
_LINE = re.compile(rb"fairlead (\w+)((?: \d+)+) *\n")
_NUMBERS = {"building": 2, "ready": 3, "failed": 1}  # how many follow each word
_POLL_S = 0.01
_BEGINS_S, _JOINS_S = 120.0, 30.0


class Task(NamedTuple):
    """One task of a node.

    Attributes:
        own: the file with its environment.
        meeting: that of the node's first task.
        first: it is the first itself.
        others: how many more tasks the node has.
    """

    own: str
    meeting: str
    first: bool
    others: int


def read(path: str) -> dict[str, str]:
    """Return the environment in a file that Slurm wrote for a task (``CreateEnvFile=null``).

    Raises:
        errors.SlurmError: it cannot be read, or is not of that form.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(_LIMIT)
    except OSError as error:
        raise errors.SlurmError(
            f"{path}: cannot read the task's environment: {error.strerror}",
            hint="oci.conf takes CreateEnvFile=null, and '%e' in RunTimeRun",
        ) from error
    pairs = [os.fsdecode(item).partition("=") for item in data.split(b"\0") if item]
    environ = {name: value for name, separator, value in pairs if separator and name}
    if b"\0" not in data or not environ.get("SLURM_JOB_ID", "").isdecimal():
        raise errors.SlurmError(
            f"{path}: no environment of a Slurm task, in strings that end with NUL",
            hint="oci.conf takes CreateEnvFile=null, and '%e' in RunTimeRun",
        )
    return environ


def task(path: str, environ: Mapping[str, str]) -> Task:
    """Return which task of its node this is."""
    local = environ.get("SLURM_LOCALID", "0")
    others = environ.get("SLURM_GTIDS", "0").count(",")
    # Source: SchedMD/slurm container.c: SPOOL/oci-jobJ-S/task-T, T counted from 0 on each node.
    step = os.path.dirname(os.path.dirname(os.path.abspath(path)))
    meeting = os.path.join(step, "task-0", os.path.basename(path))
    return Task(path, meeting, local == "0", others)


# -- the first task --------------------------------------------------------------------------------


def lead(place: Task) -> int:
    """Say that this process makes the container; return the descriptor for what follows."""
    fd = os.open(place.own, os.O_RDWR | os.O_CLOEXEC)
    tell(fd, f"building {os.getpid()} {layout.start_time()}")
    os.ftruncate(fd, _SIZE)
    return fd


def tell(fd: int, words: str) -> None:
    """Put the one line into the file; who reads it half written looks again."""
    os.pwrite(fd, f"fairlead {words}".ljust(_SIZE - 1).encode() + b"\n", 0)


def show(fd: int, block: bytes) -> None:
    """Say that the container stands, which this process has entered."""
    memory = os.memfd_create("fairlead-block", os.MFD_CLOEXEC)
    rest = memoryview(block)
    while rest:
        rest = rest[os.write(memory, rest) :]
    tell(fd, f"ready {os.getpid()} {os.stat('/proc/self/ns/mnt').st_ino} {memory}")


def wait(fd: int, others: int) -> None:
    """Wait until the others have joined; who comes later still finds this process for a while."""
    deadline = time.monotonic() + _JOINS_S
    while os.fstat(fd).st_size < _SIZE + others and time.monotonic() < deadline:
        time.sleep(_POLL_S)


# -- the others ------------------------------------------------------------------------------------


class Standing(NamedTuple):
    """A container that stands: its namespaces, and its launch block. Or the first one's failure."""

    fds: tuple[int, ...]
    block: bytes
    status: int


def meet(place: Task) -> Standing:
    """Wait for the container of the node's first task and say that this one joins.

    Raises:
        errors.SlurmError: the first task has ended, or was never started.
        errors.ContainerError: it cannot be joined.
    """
    deadline = time.monotonic() + _BEGINS_S
    while True:
        word, numbers = _look(place.meeting)
        if word == "failed":
            return Standing((), b"", numbers[0])
        if word == "ready":
            return _open(place.meeting, *numbers)
        if word == "building":
            _check(*numbers)
        elif time.monotonic() > deadline:
            raise errors.SlurmError(
                f"{place.meeting}: the node's first task did not begin within {_BEGINS_S:.0f} s",
                hint="start the step again",
            )
        time.sleep(_POLL_S)


def _look(path: str) -> tuple[str, tuple[int, ...]]:
    try:
        with open(path, "rb") as file:
            line = _LINE.fullmatch(file.read(_SIZE))
    except FileNotFoundError:
        return "", ()
    except OSError as error:
        raise errors.SlurmError(f"{path}: {error.strerror}") from error
    if line is None:
        return "", ()
    word, numbers = line[1].decode(), tuple(map(int, line[2].split()))
    return (word, numbers) if len(numbers) == _NUMBERS.get(word) else ("", ())


def _check(pid: int, ticks: int) -> None:
    try:
        lives = layout.start_time(str(pid)) == str(ticks)
    except OSError:
        lives = False
    if not lives:
        raise errors.SlurmError(
            "the node's first task, which was to make the container, has ended",
            hint="see what it said",
        )


def _open(path: str, pid: int, namespace: int, number: int) -> Standing:
    container = running.Running(pid, "", "", "", "", 0.0, 1, namespace)
    fds = running.open_process(container).fds
    try:
        with open(f"/proc/{pid}/fd/{number}", "rb") as file:
            file.seek(0)
            block = file.read()
        mark = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        os.write(mark, b".")
        os.close(mark)
    except OSError as error:
        raise errors.ContainerError(
            f"process {pid}: cannot be joined: {error.strerror}", hint="start the step again"
        ) from error
    return Standing(fds, block, 0)
