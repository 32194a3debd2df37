"""Indexes: the merged tree of an image's layers, as one small EROFS image beside theirs.

An index holds every inode, directory and xattr that the layers show together; the files' data stay
in the layers, which the broker gives to the mount as its devices. So an image of N layers is one
mount, read-only containers need no overlay, and a name is looked up once and not N times
(docs/adr/0012).

Rules:
- An index is named by what it was made of: its form, and each layer's name and checksum, in order.
  It is written by the storekeeper once the layers are there, and published and checked like one.
- It only makes things quicker. Whoever cannot have one mounts the layers one by one and sees the
  same; nothing that goes wrong here stops a launch.
- It goes before a layer that it names does, and after, too: one may have been made in between.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Sequence

from fairlead import errors, sinks
from fairlead.shared import files, site
from fairlead.shared.site import IndexInfo, LayerInfo
from fairlead.store import blobs, layout
from fairlead.store.layout import Lock, Stage, Store

FORM = "fairlead-index 1"
# What an entry may take at most, in the index and in the scratch file; xattrs aside.
ENTRY_BYTES = 5 << 10


def make(
    store: Store,
    infos: Sequence[LayerInfo],
    *,
    floor_bytes: int = 0,
    stop: threading.Event | None = None,
    suspect: bool = False,
) -> IndexInfo | None:
    """Return the index of published layers, lowest first; None where none is needed.

    Args:
        store: the shared store.
        infos: the layers.
        floor_bytes: what stays free on the store's disk.
        stop: set when the engine is gone.
        suspect: check the one that is there.

    Raises:
        errors.Error, OSError: there is none, and none can be made.
    """
    if len(infos) < 2 and not any(info.markers for info in infos):
        return None
    name = name_of(infos)
    with Lock(store, lock_name(name), stop, tells=False):
        there = _whole(store, name, suspect=suspect)
        if there is not None:
            os.utime(site.index_path(store, name))  # for gc
            return there
        _check_room(store, infos, floor_bytes)
        os.makedirs(store.path("indexes"), mode=0o700, exist_ok=True)
        with Stage(store) as stage:
            made = _write(store, stage, name, infos)
        if not all(_is_published(store, info) for info in infos):
            remove(store, name)
            raise errors.StoreError("a layer was removed while its index was made")
    return made


def name_of(infos: Sequence[LayerInfo]) -> str:
    """Return the HEX of what an index of these layers is made of."""
    lines = [FORM, *(f"{info.layer} {info.digest}" for info in infos), ""]
    return site.name_of(blobs.digest_of("sha256:", "\n".join(lines).encode()))


def lock_name(name: str) -> str:
    """Return the name of the lock under which an index is made or removed."""
    return f"index.{name}"


def names(store: Store) -> list[str]:
    """Return the HEX of every index; a store of before may have no place for them."""
    try:
        found = os.listdir(store.path("indexes"))
    except FileNotFoundError:
        return []
    return sorted(name.removesuffix(".erofs") for name in found if name.endswith(".erofs"))


def find(store: Store, name: str) -> IndexInfo | None:
    """Return what is recorded of an index; None if nothing is, or nothing that makes sense."""
    try:
        with open(site.index_info_path(store, name), "rb") as file:
            return site.parse_index(file.read(site.MAX_INFO_BYTES + 1), file.name)
    except (FileNotFoundError, errors.StoreError):
        return None


def remove(store: Store, name: str) -> None:
    """Remove an index; who has it mounted keeps it."""
    layout.discard(site.index_path(store, name))
    layout.discard(site.index_info_path(store, name))


def forget(store: Store, layer: str) -> None:
    """Remove the indexes that name a layer, and those of which nobody knows what they name."""
    for name in names(store):
        info = find(store, name)
        if info is None or layer in info.layers:
            remove(store, name)


def _whole(store: Store, name: str, *, suspect: bool) -> IndexInfo | None:
    """Return an index that is there; what is left of a damaged one is removed."""
    info, path = find(store, name), site.index_path(store, name)
    if info is not None and info.name == name and os.path.exists(path):
        if os.lstat(path).st_size == info.size and not suspect:
            return info
        if files.is_whole(path, info.size, info.digest):
            return info
    remove(store, name)
    return None


def _check_room(store: Store, infos: Sequence[LayerInfo], floor_bytes: int) -> None:
    disk = os.statvfs(store.root)
    need = ENTRY_BYTES * sum(info.entries for info in infos)
    if disk.f_bavail * disk.f_frsize < floor_bytes + need:
        raise errors.SpaceError(f"{store.root}: has no room for an index of the layers")


def _write(store: Store, stage: Stage, name: str, infos: Sequence[LayerInfo]) -> IndexInfo:
    staged, scratch = stage.name(), stage.name()
    new = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    with contextlib.ExitStack() as opened:

        def open_file(path: str, flags: int, mode: int = 0) -> int:
            fd = os.open(path, flags, mode)
            opened.callback(os.close, fd)
            return fd

        fd, scratch_fd = open_file(staged, new, 0o400), open_file(scratch, new, 0o600)
        os.unlink(scratch)
        paths = [site.layer_path(store, info.layer) for info in infos]
        fds = [open_file(path, os.O_RDONLY | os.O_CLOEXEC) for path in paths]
        made = sinks.write_index(fd, scratch_fd, fds)
        os.fsync(fd)
        digest = files.checksum(fd)
    record = IndexInfo(name, made.size, digest, tuple(info.layer for info in infos))
    layout.replace_file(stage, site.index_info_path(store, name), site.format_info(record))
    layout.publish(staged, site.index_path(store, name))
    return record


def _is_published(store: Store, info: LayerInfo) -> bool:
    try:
        with open(site.info_path(store, info.layer), "rb") as file:
            there = site.parse_info(file.read(site.MAX_INFO_BYTES + 1), file.name)
    except (FileNotFoundError, errors.StoreError):
        return False
    same = (there.size, there.digest) == (info.size, info.digest)
    return same and os.path.exists(site.layer_path(store, info.layer))
