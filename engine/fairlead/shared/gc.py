"""Remove from the site store what no living job and no grant needs, the least recently used first.

Rules:
- A layer is held while a lease of a living job names a manifest that needs it. Which jobs live is
  asked from Slurm by the caller; a lease that is younger than the question holds. If Slurm does not
  answer, every lease of this boot holds: no job of this node is older.
- A running container never needs its lease: an image file that is unlinked stays mounted. The lease
  is for the next step of the job.
- An index goes when nobody uses it, like a layer, and with any of its layers. An injection
  goes when no grant names it, or nobody has mounted it for the longest time.
- Grants go before the layers that they name. A kill in between leaves garbage; a user who had the
  grant is asked to prove access once more.
- A grant that is younger than the question holds, too: its lease is just about to be made.
- While a storekeeper is at work (``turn.work``), what no grant names yet and what it may have found
  and be about to grant, that is what was touched lately, stay.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from fairlead import errors, log
from fairlead.shared import index, injection, site, turn
from fairlead.store import fingerprint, gc, items, layout, leftovers, quarantine
from fairlead.store.items import Item, Outcome
from fairlead.store.layout import Lock, Store
from fairlead.store.room import Reclaim

LATELY_S = 3600.0
MANY_LEASES = 256


class Living(NamedTuple):
    """Which jobs live, None if Slurm does not answer; and when it was asked, before it answered."""

    jobs: frozenset[int] | None
    asked: float


class Granted(NamedTuple):
    """A grant as found: whose, for which manifest, when proven and when used last.

    ``grant`` is None if it is damaged.
    """

    path: str
    uid: int
    manifest: str
    grant: site.Grant | None
    proven: float
    used: float


def inventory(store: Store, living: Living) -> tuple[Item, ...]:
    """Return everything that can be removed by itself, with who uses it.

    Raises:
        errors.StoreError: the store cannot be read.
    """
    with layout.failures_named(store), turn.alone(store) as alone:
        return _inventory(store, living, alone)


def reclaim(store: Store, living: Callable[[], Living]) -> Reclaim:
    """Return the store's side of making room for an image that is about to be fetched.

    living asks Slurm, which takes a while: only if something must be removed.
    """
    nobody = Living(frozenset(), 0.0)
    return Reclaim(
        used=lambda: items.total(inventory(store, nobody)),
        can_free=lambda: items.total(items.free(inventory(store, living()))),
        free=lambda wanted: collect(store, wanted, living()).freed,
    )


def collect(
    store: Store,
    wanted: int,
    living: Living,
    *,
    dry: bool = False,
    progress: log.Progress | None = None,
) -> Outcome:
    """Remove garbage, and of the layers as many as free wanted bytes.

    Raises:
        errors.StoreError: something cannot be removed.
    """
    if not dry:
        leftovers.sweep(store)
    with layout.failures_named(store), turn.alone(store) as alone:
        found = _inventory(store, living, alone)
        chosen = items.choose(found, wanted)
        spared = tuple(item for item in found if item.held)
        if dry:
            return Outcome(chosen, spared)
        removed, busy = gc.remove_each(chosen, lambda item: _remove(store, item, living), progress)
    return Outcome(removed, (*spared, *busy))


def forget_leases(store: Store, living: Callable[[], Living]) -> int:
    """Remove the leases of jobs that have ended, once there are many; returns how many went.

    The broker leaves one per job and image, and knows nothing of the jobs' ends. living asks Slurm,
    which takes a while; where it does not answer, all stay.
    """
    names = os.listdir(store.path("leases"))
    if len(names) <= MANY_LEASES:
        return 0
    found, gone = living(), 0
    if found.jobs is None:
        return 0
    for name in names:
        lease, path = site.parse_lease(name), store.path("leases", name)
        with contextlib.suppress(FileNotFoundError):
            if lease and lease[0] not in found.jobs and os.stat(path).st_mtime < found.asked:
                os.unlink(path)
                gone += 1
    return gone


def grants(store: Store) -> Iterator[Granted]:
    """Yield every grant, the damaged ones too."""
    for user in _numbers(store.path("grants")):
        folder = site.grants_path(store, user)
        for name in sorted(os.listdir(folder)):
            where = f"{folder}/{name}"
            with contextlib.suppress(FileNotFoundError):
                info = os.lstat(where)
                proven, used = info.st_mtime, max(info.st_atime, info.st_mtime)
                yield Granted(where, user, name, _grant(where, user, name), proven, used)


def in_use(store: Store, living: Living) -> dict[str, str]:
    """Return the manifests that living jobs use, and one such job of each, for people."""
    boot = boot_time()
    found = {}
    for name in os.listdir(store.path("leases")):
        lease = site.parse_lease(name)
        if lease is None:
            continue
        job, manifest = lease
        with contextlib.suppress(FileNotFoundError):
            made = os.lstat(store.path("leases", name)).st_mtime
            holds = made >= boot if living.jobs is None else job in living.jobs
            if holds or made >= living.asked:
                found[manifest] = f"job {job}"
    for grant in grants(store):
        if grant.grant and grant.proven >= living.asked:
            found.setdefault(grant.manifest, f"job {grant.grant.job}")
    return found


def boot_time() -> float:
    """Return when this node was booted, by today's clock, a second early."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) - 1


def _grant(where: str, uid: int, name: str) -> site.Grant | None:
    try:
        fd = _careful(where, os.O_RDONLY)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENXIO}:  # a link, a socket: no grant
            return None
        raise  # what the disk cannot read now must not make its layers garbage
    with open(fd, "rb") as file:
        data = file.read(site.MAX_GRANT_BYTES + 1)
    try:
        grant = site.parse_grant(data.decode("ascii"), where)
    except (errors.StoreError, UnicodeDecodeError):
        return None
    return grant if grant.uid == uid and site.is_name(name) else None


def _careful(path: str, flags: int) -> int:
    # Without O_NOATIME, looking at a grant would be a use of it.
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOATIME)


def _numbers(folder: str) -> list[int]:
    with os.scandir(folder) as found:
        names = [e.name for e in found if e.name.isascii() and e.is_dir(follow_symlinks=False)]
    return sorted(int(name) for name in names if name.isdecimal())


def _inventory(store: Store, living: Living, alone: bool) -> tuple[Item, ...]:
    held = in_use(store, living)
    granted = [found for found in grants(store) if found.grant]
    images: dict[str, set[str]] = {}
    used: dict[str, float] = {}
    for found in granted:
        for name in _named(found.grant):
            images.setdefault(name, set()).add(found.manifest)
            used[name] = max(used.get(name, 0.0), found.used)
    files = []
    for kind, name, path in _image_files(store):
        with contextlib.suppress(FileNotFoundError):
            info = os.lstat(path)
            needed = tuple(sorted(images.get(name, ())))
            who = next((held[image] for image in needed if image in held), "")
            late = time.time() - info.st_mtime < LATELY_S
            who = who or ("" if alone or (needed and not late) else "the storekeeper")
            when = used.get(name, info.st_mtime)
            if kind == "injection":  # the broker marks its use; that of the image is none of it
                when = max(info.st_atime, info.st_mtime)
            files.append(Item(kind, name, 512 * info.st_blocks, when, needed, who))
    garbage = _garbage(store, living, alone)
    return (*files, *(_as_garbage(store, path) for path in garbage))


def _named(grant: site.Grant | None) -> tuple[str, ...]:
    """Return the HEX of all that a grant allows to mount."""
    if grant is None:
        return ()
    return (*grant.layers, grant.index_name, *(name for name, _ in grant.injections))


def _image_files(store: Store) -> Iterator[tuple[str, str, str]]:
    """Yield the kind, HEX and path of every layer, index and injection."""
    for name in os.listdir(store.path("layers")):
        layer, _, kind = name.partition(".")
        if kind == "erofs":
            yield "layer", layer, site.layer_path(store, layer)
    for name in index.names(store):
        yield "index", name, site.index_path(store, name)
    for name in injection.names(store):
        yield "injection", name, site.injection_path(store, name)


def _garbage(store: Store, living: Living, alone: bool) -> list[str]:
    found = [*quarantine.entries(store), *leftovers.stale_stages(store)]
    held = in_use(store, living)
    for name in os.listdir(store.path("leases")):
        lease = site.parse_lease(name)
        if lease is not None and lease[1] not in held:
            found.append(store.path("leases", name))
    if alone:
        folders = ("layers", "indexes", "injections")
        found += [path for folder in folders for path in _lone_records(store, folder)]
    return found


def _lone_records(store: Store, folder: str) -> list[str]:
    try:
        names = set(os.listdir(store.path(folder)))
    except FileNotFoundError:
        return []
    images = {name.removesuffix(".erofs") for name in names if name.endswith(".erofs")}
    records = {name.removesuffix(".json") for name in names if name.endswith(".json")}
    return [store.path(folder, f"{name}.json") for name in sorted(records - images)]


def _as_garbage(store: Store, path: str) -> Item:
    name = os.path.relpath(path, store.root)
    return Item("garbage", name, fingerprint.disk_bytes(path), 0.0)


def _lock_of(store: Store, layer: str) -> str:
    """Return the HEX that a layer is made under: its DiffID's, whatever it is called then."""
    try:
        with open(site.info_path(store, layer), "rb") as file:
            info = site.parse_info(file.read(site.MAX_INFO_BYTES + 1), file.name)
    except (FileNotFoundError, errors.StoreError):
        return layer
    return site.name_of(info.diff_id)


def _remove(store: Store, item: Item, living: Living) -> None:
    if item.kind == "garbage":
        layout.discard(store.path(item.name))
        return
    if item.kind == "index":  # who is granted it may have the layers one by one
        with Lock(store, index.lock_name(item.name), wait=False):
            index.remove(store, item.name)
        return
    if item.kind == "injection":  # who is granted it has another made
        with Lock(store, injection.lock_name(item.name), wait=False):
            injection.remove(store, item.name)
        return
    with Lock(store, site.lock_name(_lock_of(store, item.name)), wait=False):
        # Asked again: a job may have begun meanwhile.
        held = in_use(store, living)
        naming = [g for g in grants(store) if g.grant and item.name in g.grant.layers]
        for found in naming:
            if found.manifest in held:
                raise errors.BusyError(f"{item.name}: is used by {held[found.manifest]}")
        for found in naming:
            layout.discard(found.path)
        index.forget(store, item.name)
        layout.discard(site.layer_path(store, item.name))
        layout.discard(site.info_path(store, item.name))
        index.forget(store, item.name)
