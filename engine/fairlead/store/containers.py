"""Named containers: what was written to a container's root, kept for the next one of its name.

::

    containers/JOB.NAME/     JOB is 0 where the name outlives jobs
      upper/ work/           the overlay's, above the tree of the image
      container.json         which image it was made from, and what of ``upper`` is not the user's

Rules:
- A flock on the directory is held from the first look at a container until it stands, or while it
  is removed or saved. Whether it runs is for ``host.running`` to say, and for its ``holder``: the
  process that was to become it, in the moment before it has.
- The tree of its image is in use as long as it is there (``layers.remove``).
- What was kept for a job goes when the job has ended: with the next launch of a name on this node,
  or with ``fairlead store gc``.
"""

from __future__ import annotations

import fcntl
import os
from typing import NamedTuple

from fairlead import errors, jsontext
from fairlead.store import layout
from fairlead.store.layout import Stage, Store

FOLDER = "containers"
_RECORD = "container.json"
_LIMIT = 4 << 20
# In the source of a root's mount (``c_ext/root.c``); mountinfo writes "#" as \\043.
_MOUNTED = rb" - overlay \S+?(?:#|\\043)([0-9]+\.[\w.-]+) "


class Container(NamedTuple):
    """A container's place: its key is JOB.NAME."""

    key: str
    path: str

    @property
    def upper(self) -> str:
        """What was written to its root."""
        return f"{self.path}/upper"

    @property
    def job(self) -> int:
        """The job that it belongs to, 0 for none."""
        return int(self.key.partition(".")[0])


class Kept(NamedTuple):
    """What is known of a container.

    Attributes:
        reference: canonical text of its image, and
        pinned: the same with its digest.
        chain: ChainID of the image.
        names: texts that mean this very image: as it was asked for, and by its digests.
        layers: the image's directories, topmost first, without what a launch laid over them.
        points: where something was mounted in it.
        injected: directories that were laid over the image.
        holder: the process that was to become it (``witness``), last.
    """

    reference: str
    pinned: str
    chain: str
    names: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    points: tuple[str, ...] = ()
    injected: tuple[str, ...] = ()
    holder: str = ""


def at(store: Store, key: str) -> Container:
    """Return the place of a container; key is made of a checked name."""
    return Container(key, store.path(FOLDER, key))


def hold(store: Store, key: str, *, make: bool = False) -> int:
    """Return a descriptor that keeps everybody else from a container while it is open.

    Raises:
        errors.ContainerError: there is none, and make is not asked for.
        errors.StoreError, errors.SpaceError
    """
    container = at(store, key)
    try:
        while True:
            if make:
                os.makedirs(container.path, mode=0o700, exist_ok=True)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(container.path, flags)
            fcntl.flock(fd, fcntl.LOCK_EX)
            if layout.is_at(fd, container.path):
                return fd
            os.close(fd)  # it was removed meanwhile
    except FileNotFoundError:
        raise missing(key) from None
    except OSError as error:
        raise layout.failure(error, container.path) from error


def missing(key: str) -> errors.ContainerError:
    """Return the error for a container that is not there."""
    job, _, name = key.partition(".")
    where = f" of job {job}" if job != "0" else ""
    return errors.ContainerError(
        f"{name}: there is no container{where} of this name on {os.uname().nodename}",
        hint="make one with fairlead run --name or srun --container-name",
    )


def read(container: Container) -> Kept | None:
    """Return what is known of a container; None: it was not finished."""
    try:
        with open(f"{container.path}/{_RECORD}", "rb") as file:
            table = jsontext.loads(file.read(_LIMIT))
        lists = {k: tuple(map(str, table[k])) for k in ("names", "layers", "points", "injected")}
        texts = {k: str(table[k]) for k in ("reference", "pinned", "chain", "holder")}
        return Kept(**texts, **lists)  # type: ignore[arg-type]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def write(store: Store, container: Container, kept: Kept) -> None:
    """Keep what is known of a container, whose lock is held.

    Raises:
        errors.StoreError, errors.SpaceError
    """
    import json

    data = json.dumps(kept._asdict(), indent=1).encode() + b"\n"
    with layout.failures_named(store), Stage(store) as stage:
        layout.replace_file(stage, f"{container.path}/{_RECORD}", data)


def remove(store: Store, container: Container) -> None:
    """Remove a container that does not run; the caller holds its lock.

    Raises:
        errors.StoreError: it cannot be removed.
    """
    with layout.failures_named(store), Stage(store) as stage:
        staged = stage.name()
        try:
            os.rename(container.path, staged)
        except FileNotFoundError:
            return
        layout.remove(staged)


def empty(store: Store, container: Container) -> None:
    """Forget what was written to a container, whose lock is held.

    Raises:
        errors.StoreError: it cannot be removed.
    """
    with layout.failures_named(store), Stage(store) as stage:
        for name in (_RECORD, "upper", "work"):
            try:
                os.rename(f"{container.path}/{name}", stage.name())
            except FileNotFoundError:
                continue


def all_of(store: Store) -> tuple[Container, ...]:
    """Return every container, sorted by key."""
    try:
        names = os.listdir(store.path(FOLDER))
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise layout.failure(error, store.path(FOLDER)) from error
    keys = sorted(name for name in names if name.partition(".")[0].isdecimal())
    return tuple(at(store, key) for key in keys)


def find(store: Store, text: str, job: str) -> Container:
    """Return the container that a NAME or JOB.NAME means; in a job the job's own comes first.

    Raises:
        errors.ContainerError: there is none.
    """
    known = {item.key: item for item in all_of(store)}
    for key in (f"{job or 0}.{text}", f"0.{text}", text):
        if key in known:
            return known[key]
    raise missing(f"0.{text}")


def mounted() -> dict[str, int]:
    """Return the keys of the containers that run, each with a process in it."""
    import re

    found: dict[str, int] = {}
    for pid in os.listdir("/proc"):
        if pid.isdecimal():
            try:
                with open(f"/proc/{pid}/mountinfo", "rb") as file:
                    text = file.read()
            except OSError:
                continue  # it has ended, or is another user's
            for key in re.findall(_MOUNTED, text):
                found.setdefault(key.decode(), int(pid))
    return found


def using(store: Store, chain: str) -> str:
    """Return the key of a container that was made from an image, empty if there is none."""
    for container in all_of(store):
        kept = read(container)
        if kept is not None and kept.chain == chain:
            return container.key
    return ""
