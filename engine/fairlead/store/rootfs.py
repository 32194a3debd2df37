"""Root file systems without manifest and layers: squashfs and SIF files, directories.

::

    trees/HEX/rootfs     of a squashfs image: unpacked; HEX is the digest of its digest
                         of a directory: a symbolic link to it; HEX is the digest of its stamp
    trees/HEX/over       of a directory: folders of the user's own in place of others' folders
    trees/HEX/tree.json  as of any tree

Rules:
- A squashfs image is named by the digest of its bytes; the file must not change from the moment
  that they are hashed until they are unpacked.
- A directory is used where it is, and never written to: the container sees it through an overlay.
  Its entry in the store holds only what is derived from it, and goes when it changes.
- Where its topmost folders belong to others, the container's mount points could not be made in
  them: empty folders of the user's own are laid over them. Folders further down stay theirs, and
  refuse writing.
- The trees take part in holding, removing and listing as those of layers do.
"""

from __future__ import annotations

import json
import os
import stat

from fairlead import errors, kernel, log
from fairlead.config import Config
from fairlead.image import files, manifest, rootconfig, sif, source, squashfs
from fairlead.image.reference import Reference
from fairlead.store import blobs, fetch, gc, layers, layout, leftovers, records, room, unsquash
from fairlead.store.layout import Lock, Stage, Store
from fairlead.store.records import Record
from fairlead.store.room import Forecast

OVER = fetch.OVER
RATIO, RATIO_FROM_BYTES = 1000, 1 << 30
_MAX_TEXT = 1 << 20


def take(
    reference: Reference,
    kind: str,
    config: Config,
    store: Store,
    stamp: str,
    progress: log.Progress | None,
) -> fetch.Image:
    """Bring a root file system into the store; kind is one of ``source.kind``'s.

    Raises:
        errors.Error: with its path in the line; the store is then as it was before.
    """
    try:
        if kind == source.DIRECTORY:
            _adopt(reference, store, stamp)
        else:
            _unpack(reference, kind, config, store, stamp, progress)
    except OSError as error:
        raise layout.failure(error, store.root) from error
    image = fetch.local(store, reference)
    if image is None:
        raise errors.StoreError(f"{reference}: was removed from the store while it was read")
    return image


# -- squashfs --------------------------------------------------------------------------------------


def _unpack(
    reference: Reference,
    kind: str,
    settings: Config,
    store: Store,
    stamp: str,
    progress: log.Progress | None,
) -> None:
    path = reference.repository
    fd, info = files.open_file(path)
    try:
        part = sif.Partition(0, info.st_size, "")
        if kind == source.SIF:
            part = sif.partition(fd, info.st_size, path)
        platform = manifest.this_platform()
        if part.architecture not in {"", platform.architecture}:
            offered = manifest.Platform("linux", part.architecture)
            raise manifest.no_platform(platform, (offered,))
        head = files.read_at(fd, part.offset, min(squashfs.SUPERBLOCK_BYTES, part.size), path)
        block = squashfs.superblock(head, part.size, path)
        digest = _digest(fd, part, path, progress)
        if reference.digest not in {None, digest}:
            raise errors.ImageNotFoundError(f"{path}: is {digest}, not {reference.digest}")
        chain = blobs.digest_of("sha256:", f"squashfs {digest}".encode())
        with Lock(store, layers.lock_name(chain)):
            tree = layers.find(store, chain)
            with Stage(store) as stage:
                if tree is None:
                    leftovers.sweep(store)
                    room.make(
                        store, settings, Forecast(block.size, block.size), path, gc.reclaim(store)
                    )
                    grown = stage.name()
                    os.mkdir(grown, 0o700)
                    done = unsquash.unpack(fd, part.offset, block, f"{grown}/rootfs", path)
                    _check_unchanged(fd, info, path)
                    _check_ratio(done.size, block.size, path)
                    table = {"size": done.size, "entries": done.entries, "squashfs": digest}
                    tree = _publish(store, grown, chain, table)
                config = _configured(store, stage, tree.rootfs, (digest,))
                record = _record(reference, digest, config, chain, tree.size, stamp)
                fetch.remember(store, stage, reference, record)
    finally:
        os.close(fd)
    if kind == source.SIF:
        log.note(
            "a SIF's environment and run scripts are not run; begin the command with "
            "/.singularity.d/actions/exec, or /.singularity.d/actions/run, to run them"
        )


def _digest(fd: int, part: sif.Partition, path: str, progress: log.Progress | None) -> str:
    key, found = f"hash {path}", blobs.hasher_fast("sha256:")
    if progress is not None:
        progress.start(key, "read", part.size)
    for chunk in files.chunks(fd, part.offset, part.size, path):
        found.update(chunk)
        if progress is not None:
            progress.advance(key, len(chunk))
    if progress is not None:
        progress.finish(key)
    return f"sha256:{found.hexdigest()}"


def _check_unchanged(fd: int, before: os.stat_result, path: str) -> None:
    # Whoever may write to the file could otherwise give a digest to other content. A change shows
    # in ctime, which no call can set.
    after = os.fstat(fd)
    if (after.st_size, after.st_mtime_ns, after.st_ctime_ns) != (
        before.st_size,
        before.st_mtime_ns,
        before.st_ctime_ns,
    ):
        raise errors.ArchiveError(f"{path}: has changed while it was read", hint="try again")


def _check_ratio(size: int, compressed: int, path: str) -> None:
    # As for layers (``convert``): holes cost a bomb nothing, and the jobs that read them much.
    if size > RATIO_FROM_BYTES and size > RATIO * compressed:
        raise errors.ArchiveError(
            f"{path}: its files are more than {RATIO} times larger than itself"
        )


# -- a directory -----------------------------------------------------------------------------------


def _adopt(reference: Reference, store: Store, stamp: str) -> None:
    path = reference.repository
    if reference.digest:
        raise errors.ReferenceError(f"{reference}: a directory has no digest", hint="leave it out")
    looks = source.look(reference)
    chain = blobs.digest_of("sha256:", f"directory {path}\0{looks.text}".encode())
    before = records.read(store, reference.identity)
    with Lock(store, layers.lock_name(chain)), Stage(store) as stage:
        if layers.find(store, chain) is None:
            grown = stage.name()
            os.mkdir(grown, 0o700)
            os.symlink(path, f"{grown}/rootfs")
            _lay_over(path, f"{grown}/{OVER}")
            _publish(store, grown, chain, {"size": 0, "entries": 0, "directory": path})
        config = _configured(store, stage, path, ())
        records.write(store, stage, _record(reference, chain, config, chain, 0, stamp))
    if before is not None and before.chain != chain:
        _forget(store, before)


def _lay_over(root: str, over: str) -> None:
    """Make empty folders for those of root that belong to another user or group."""
    own = (os.geteuid(), os.getegid())
    for name in (*sorted(os.listdir(root)), "var/tmp", "dev/shm"):
        try:
            info = os.lstat(f"{root}/{name}")
        except OSError:
            continue
        if not stat.S_ISDIR(info.st_mode) or (info.st_uid, info.st_gid) == own:
            continue
        os.makedirs(os.path.dirname(f"{over}/{name}"), exist_ok=True)
        os.mkdir(f"{over}/{name}")
        os.chmod(f"{over}/{name}", stat.S_IMODE(info.st_mode) & 0o1777 | 0o700)


def _forget(store: Store, old: Record) -> None:
    """Remove what was derived from a directory as it was before, unless a job is using it."""
    with Lock(store, layers.lock_name(old.chain)), Stage(store) as stage:
        others = records.all_of(store)
        if any(old.chain == record.chain for record in others):
            return
        try:
            layers.remove(store, stage, old.chain)
        except errors.StoreError as error:
            log.debug(error.message)  # it goes with rm --all, or with the collection of garbage
        if all(old.config != record.config for record in others):
            blobs.discard(store, old.config)


# -- both ------------------------------------------------------------------------------------------


def _publish(store: Store, grown: str, chain: str, table: dict[str, object]) -> layers.Tree:
    text = json.dumps({"chain": chain, **table, "layers": []}, indent=1)
    layout.write_file(f"{grown}/tree.json", text.encode() + b"\n")
    folder = os.open(grown, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        layers.sync(folder)
    finally:
        os.close(folder)
    layout.publish(grown, layers.path(store, chain))
    found = layers.find(store, chain)
    assert found is not None
    return found


def _configured(store: Store, stage: Stage, root: str, diff_ids: tuple[str, ...]) -> str:
    """Keep the configuration that a root's own files give it; return its digest."""
    root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        data = rootconfig.document(
            _text(root_fd, "/etc/environment"),
            _text(root_fd, "/etc/rc"),
            manifest.this_platform(),
            diff_ids,
        )
    finally:
        os.close(root_fd)
    digest = blobs.digest_of("sha256:", data)
    blobs.put(store, stage, digest, data)
    return digest


def _text(root_fd: int, path: str) -> str:
    """Return a small text of the root, a hostile file: regular, bounded, inside the root only."""
    try:
        fd = kernel.open_in_root(root_fd, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return ""
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or info.st_size > _MAX_TEXT:
            return ""
        return os.read(fd, _MAX_TEXT).decode(errors="replace").replace("\0", "")
    finally:
        os.close(fd)


def _record(
    reference: Reference, digest: str, config: str, chain: str, size: int, stamp: str
) -> Record:
    return Record(reference.identity, digest, digest, config, chain, size, fetch.now(), stamp)
