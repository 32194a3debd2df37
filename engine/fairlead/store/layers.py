"""The tree of an image: its layers applied one after the other, published when it is complete.

Rules:
- A tree is named by its ChainID, so that any two images with the same stack share it.
- It is made in the stage, brought to the disk with one ``syncfs``, and renamed: under its final
  name it is complete. The caller holds the tree's lock.
- A tree in use is not removed: users hold a shared flock on its directory (``hold``), and those who
  have already mounted it are found in their ``mountinfo``.
- A named container that was made from a tree keeps it in use (``containers``).
- The directory's modification time is when a launch last used it (``hold``): gc goes by it.
- A tree whose description is gone or malformed counts as absent, and is taken out of the way of its
  successor.
"""

from __future__ import annotations

import fcntl
import io
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from fairlead import errors, jsontext, log
from fairlead.image.manifest import ImageConfig, Manifest
from fairlead.store import blobs, layout
from fairlead.store.layout import Stage, Store

if TYPE_CHECKING:
    from fairlead import sinks

_MAX_DESCRIPTION = 1 << 20
# By the name, not the whole path: mountinfo escapes blanks, and shows a path in the file system,
# which is not the store's where that is mounted elsewhere.
_MOUNTED = rb"/trees/([0-9a-f]{64})/rootfs\b"


class Description(NamedTuple):
    """What ``tree.json`` says.

    Attributes:
        chain: ChainID.
        layers: DiffIDs, the lowest first.
        size: bytes of the archives' files.
        entries: of the archives.
        fingerprint: see ``fingerprint``; empty for a tree of an earlier release.
        disk_bytes: what its files take up; a guess for a tree of an earlier release.
    """

    chain: str
    layers: tuple[str, ...]
    size: int
    entries: int
    fingerprint: str
    disk_bytes: int


class Tree(NamedTuple):
    """A published tree: where, and how many bytes its files were unpacked from."""

    rootfs: str
    size: int


def chain_id(diff_ids: tuple[str, ...]) -> str:
    """Return the ChainID of a stack of layers; one without layers has one of our own making.

    Source: image-spec 1.1 ``config.md`` "Layer ChainID".
    """
    if not diff_ids:
        return blobs.digest_of("sha256:", b"")
    chain = diff_ids[0]
    for diff_id in diff_ids[1:]:
        chain = blobs.digest_of("sha256:", f"{chain} {diff_id}".encode())
    return chain


def path(store: Store, chain: str) -> str:
    """Return the directory of a tree."""
    return store.path("trees", chain.partition(":")[2])


def rootfs(store: Store, chain: str) -> str:
    """Return the root directory of a tree."""
    return f"{path(store, chain)}/rootfs"


def derived(store: Store, chain: str) -> str:
    """Return the directory for what is derived from an image whose tree is not in this store."""
    return store.path("derived", chain.partition(":")[2])


def lock_name(chain: str) -> str:
    """Return the name of the lock under which a tree is made or removed."""
    return "tree." + chain.partition(":")[2]


def chains(store: Store) -> tuple[str, ...]:
    """Return the ChainIDs of all published trees."""
    return tuple(f"sha256:{name}" for name in os.listdir(store.path("trees")))


def describe(store: Store, chain: str) -> Description | None:
    """Return a tree's description, or None if there is none or it is malformed."""
    try:
        with open(f"{path(store, chain)}/tree.json", "rb") as file:
            table = jsontext.loads(file.read(_MAX_DESCRIPTION))
        size, entries = int(table["size"]), int(table["entries"])
        return Description(
            str(table["chain"]),
            tuple(str(layer) for layer in table["layers"]),
            size,
            entries,
            str(table.get("fingerprint", "")),
            # Half a block is lost at the end of an average file.
            int(table.get("disk_bytes", size + 2048 * entries)),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def find(store: Store, chain: str) -> Tree | None:
    """Return a published tree, or None."""
    described = describe(store, chain)
    if described is None or described.chain != chain or not exists(store, chain):
        return None
    return Tree(rootfs(store, chain), described.size)


def exists(store: Store, chain: str) -> bool:
    """Tell whether a tree is published; one call, for the launch path."""
    return os.path.isdir(rootfs(store, chain))


def build(
    store: Store,
    stage: Stage,
    manifest: Manifest,
    config: ImageConfig,
    layer: Callable[[int], io.RawIOBase],
    applied: Callable[[int], None],
    progress: log.Progress | None = None,
) -> Tree:
    """Make and publish the tree of an image.

    Args:
        store: where it goes.
        stage: where it grows.
        manifest: the layers' media types.
        config: the layers' DiffIDs.
        layer: gives layer number i as a stream of its (compressed) bytes, which may still be
            arriving.
        applied: told when layer number i is no longer needed.
        progress: told how many bytes were unpacked.

    Raises:
        errors.LayerError, errors.DigestError, errors.SpaceError: and whatever ``layer``'s stream
            raises.
    """
    import json

    from fairlead.store import fingerprint

    chain = chain_id(config.diff_ids)
    grown = stage.name()
    try:
        os.mkdir(grown, 0o700)
        os.mkdir(f"{grown}/rootfs", 0o755)
        root_fd = os.open(f"{grown}/rootfs", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            stats = _apply(root_fd, manifest, config, layer, applied, progress)
            size, entries = sum(item.bytes for item in stats), sum(item.entries for item in stats)
            print_ = fingerprint.of(f"{grown}/rootfs")
            table = {
                "chain": chain,
                "size": size,
                "entries": entries,
                "layers": list(config.diff_ids),
                "fingerprint": print_.digest,
                "disk_bytes": print_.disk_bytes,
            }
            text = json.dumps(table, indent=1)
            layout.write_file(f"{grown}/tree.json", f"{text}\n".encode())
            sync(root_fd)
        finally:
            os.close(root_fd)
        if not layout.publish(grown, path(store, chain)):  # the caller found it unusable
            set_aside(store, chain)
            layout.publish(grown, path(store, chain))
    except OSError as error:
        raise layout.failure(error, store.root, f"unpacking {manifest.digest}") from error
    return Tree(rootfs(store, chain), size)


def _apply(
    root_fd: int,
    manifest: Manifest,
    config: ImageConfig,
    layer: Callable[[int], io.RawIOBase],
    applied: Callable[[int], None],
    progress: log.Progress | None,
) -> list[sinks.LayerStats]:
    from fairlead import sinks
    from fairlead.store import convert

    stats = []
    with sinks.LayerTree(root_fd) as tree:
        pairs = zip(manifest.layers, config.diff_ids, strict=True)
        for number, (descriptor, diff_id) in enumerate(pairs):
            kind, size = descriptor.media_type, descriptor.size
            with layer(number) as stream:
                stats.append(convert.apply(stream, kind, diff_id, tree, progress, size=size))
            applied(number)
            for warning in stats[-1].warnings:
                log.warning(f"layer {descriptor.digest[:19]}: {warning}")
    return stats


def hold(store: Store, chain: str) -> int:
    """Return a descriptor that keeps a tree from being removed while it is open anywhere.

    Raises:
        errors.StoreError: the tree is gone, or is just being removed.
    """
    where = path(store, chain)
    try:
        fd = os.open(where, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        raise layout.failure(error, where) from error
    try:
        os.utime(fd)
    except OSError:
        pass  # a disk that has become read-only is no reason not to run
    return fd


def set_aside(store: Store, chain: str) -> str:
    """Move a tree that is damaged to quarantine and return its new path; the caller holds its lock.

    Who has mounted it keeps it.

    Raises:
        errors.BusyError: a launch is just about to mount it.
        OSError: it cannot be moved.
    """
    where = path(store, chain)
    try:
        fd = os.open(where, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return ""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        from fairlead.store import quarantine

        return quarantine.put(store, where)
    except BlockingIOError as error:
        raise _busy(where) from error
    finally:
        os.close(fd)


def remove(
    store: Store, stage: Stage, chain: str, *, before: Callable[[], None] | None = None
) -> None:
    """Remove a tree; the caller holds its lock.

    before is called once nobody can use it any more, and still under its name: records go first, so
    that a kill in between leaves a tree without a record and never a record without a tree.

    Raises:
        errors.BusyError: it is in use.
        errors.StoreError: it cannot be removed.
    """
    where = path(store, chain)
    try:
        fd = os.open(where, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        user = mounted().get(chain.partition(":")[2])
        if user:
            raise errors.BusyError(
                f"{where}: is in use by process {user}", hint="try again when it has ended"
            )
        from fairlead.store import containers

        kept = containers.using(store, chain)
        if kept:
            raise errors.BusyError(
                f"{where}: is in use by the container {kept}",
                hint="remove that with fairlead rm --container",
            )
        if before is not None:
            before()
        staged = stage.name()
        os.rename(where, staged)
    except BlockingIOError as error:
        raise _busy(where) from error
    except OSError as error:
        raise layout.failure(error, where) from error
    finally:
        os.close(fd)
    layout.remove(staged)


def held(store: Store, chain: str) -> bool:
    """Tell whether a launch is just about to mount a tree."""
    try:
        fd = os.open(path(store, chain), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def mounted() -> dict[str, str]:
    """Return which trees are mounted, by the HEX of their ChainID, and by which process."""
    import re  # not for the launch path, which pays 3 ms for it

    found: dict[str, str] = {}
    for pid in os.listdir("/proc"):
        if not pid.isdecimal():
            continue
        try:
            with open(f"/proc/{pid}/mountinfo", "rb") as file:
                text = file.read()
        except OSError:
            continue  # it has ended, or is another user's, who cannot enter this store
        for name in re.findall(_MOUNTED, text):
            found.setdefault(name.decode(), pid)
    return found


def _busy(where: str) -> errors.BusyError:
    return errors.BusyError(f"{where}: is in use", hint="try again when its users have ended")


def sync(fd: int) -> None:
    """Bring the whole file system of a descriptor to the disk."""
    # One syncfs costs less than an fsync for each of tens of thousands of files. Python has no
    # call for it.
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syncfs(fd) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
