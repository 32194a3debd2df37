"""Layers of an image in the shared store: from the registry to published EROFS images, in parallel.

Rules:
- No copy of a layer on its way: bytes are hashed, decompressed, hashed again and written into the
  image as they arrive (``convert``); nothing gets its name before both digests are right.
- An image is named by the layer's DiffID, unless writing it took a look at the layers below
  (``sinks.LayerImage.needs_lower``): then by its ChainID. It waits for them only then.
- One process fetches a layer at a time; others wait for the lock and find it done. The lock is the
  stack's and the registry's (``_making``): a registry of somebody's own cannot keep others waiting
  who want the same layer from theirs, and stacks that hold the same layers in another order cannot
  wait for each other. What one user's failure says about a registry is not told to the others.
- The lock by which gc knows a layer (``site.lock_name``) is held only while names change.
- What is there already counts for this user only if its registry is known to have it (``_known``);
  else it is fetched again and must come out the same.
"""

from __future__ import annotations

import contextlib
import io
import os
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol

from fairlead import errors, log, sinks
from fairlead.image.manifest import Descriptor, Manifest
from fairlead.image.reference import Reference
from fairlead.shared import files, handed, index, site
from fairlead.shared.site import LayerInfo
from fairlead.store import blobs, convert, layers, layout, shared_blobs
from fairlead.store.layout import Lock, Stage, Store

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from fairlead.image.mirrors import Client

THREADS = 4
MAX_ORIGINS = 64
LOOK_BYTES = 4 << 20  # of an archive, between two looks at what the disk has left


class Wanted(NamedTuple):
    """An image whose layers are wanted.

    Attributes:
        reference: where it comes from.
        manifest: of this machine.
        diff_ids: belong to the manifest's layers.
        floor_bytes: what stays free on the store's disk, whatever the layers unpack to.
    """

    reference: Reference
    manifest: Manifest
    diff_ids: tuple[str, ...]
    floor_bytes: int = 0


class Told(log.Progress, Protocol):
    """Where the work reports to: progress, and lines for the user."""

    def tell(self, **message: object) -> None:
        """Pass a message on (``wire``)."""


def make(
    client: Client,
    wanted: Wanted,
    store: Store,
    told: Told,
    *,
    stop: threading.Event,
    suspect: bool = False,
    shared: str = "",
    handed: Callable[[Descriptor], int | None] | None = None,
) -> tuple[LayerInfo, ...]:
    """Return the image's layers, lowest first, each published, and the user's right to it proven.

    Args:
        client: speaks to the registry with the user's login.
        wanted: what to make.
        store: the shared store.
        told: hears of progress and warnings.
        stop: set when the engine is gone.
        suspect: the kernel refused a layer: check those that are there, and replace what is
            damaged.
        shared: directory of compressed layers that is asked before the registry (``shared_blobs``).
        handed: asks the engine for a layer that it fetched with other nodes (``handed``).

    Raises:
        errors.Error: the first failure; other layers may be published all the same.
    """
    work = _Work(client, wanted, store, told, stop, suspect=suspect, shared=shared, handed=handed)
    threads = [
        threading.Thread(target=work.run, name=f"layer-{number}", daemon=True)
        for number in range(min(THREADS, len(wanted.diff_ids)))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return work.result()


class _Work:
    """The layers of one image, shared by the threads; guarded by ``_changed``."""

    def __init__(
        self,
        client: Client,
        wanted: Wanted,
        store: Store,
        told: Told,
        stop: threading.Event,
        *,
        suspect: bool,
        shared: str,
        handed: Callable[[Descriptor], int | None] | None,
    ) -> None:
        self._shared, self._handed = shared, handed
        self._client, self._wanted, self._store = client, wanted, store
        self._told, self._stop, self._suspect = told, stop, suspect
        self._changed = threading.Condition()
        self._next = 0
        self._infos: list[LayerInfo | None] = [None] * len(wanted.diff_ids)
        self._error: errors.Error | None = None

    def result(self) -> tuple[LayerInfo, ...]:
        """Return every layer.

        Raises:
            errors.Error: the first failure; or the engine is gone, or a thread ran out of memory.
        """
        if self._error is not None:
            raise self._error
        infos = tuple(info for info in self._infos if info is not None)
        if len(infos) < len(self._infos):  # a grant for some of an image is worse than none
            raise errors.StoreError("the work was stopped before every layer was made")
        _check_limits(infos)
        return infos

    def run(self) -> None:
        """Make layers until none is left; whatever ends this ends the whole work."""
        error: errors.Error | None = errors.StoreError(
            "the storekeeper could not go on", hint="check this node's memory"
        )
        try:
            while (number := self._take()) is not None:
                info = self._layer(number)
                with self._changed:
                    self._infos[number] = info
                    self._changed.notify_all()
            error = None
        except errors.Error as found:
            error = found
        except OSError as found:
            error = layout.failure(found, self._store.root)
        finally:
            if error is not None:
                self._fail(error)

    def _fail(self, error: errors.Error) -> None:
        with self._changed:
            self._error = self._error or error
            self._stop.set()
            self._changed.notify_all()
        self._client.stop()

    def _take(self) -> int | None:
        with self._changed:
            if self._stop.is_set() or self._next == len(self._infos):
                return None
            self._next += 1
            return self._next - 1

    def below(self, number: int) -> list[LayerInfo]:
        """Wait for the layers below one.

        Raises:
            errors.StoreError: one of them failed; its own error is the one that is told.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._stop.is_set() or None not in self._infos[:number])
            if self._stop.is_set():
                raise errors.StoreError("a layer below could not be made")
            return [info for info in self._infos[:number] if info is not None]

    def _layer(self, number: int) -> LayerInfo:
        """Return one layer, made if there is none that this user may have."""
        names = _names(self._wanted.diff_ids, number)
        found = self._find(names, number, suspect=self._suspect)
        if found is not None and self._known(found, number):
            return self._touched(found)
        near = self._near(self._wanted.manifest.layers[number])  # others are not kept waiting yet
        try:
            with Lock(self._store, self._making(number), self._stop, tells=False):
                again = self._find(names, number)
                if again is not None and again != found and self._known(again, number):
                    return self._touched(again)
                with Stage(self._store) as stage:
                    return self._make(number, names, stage, near)
        finally:
            if near is not None:
                os.close(near)

    def _making(self, number: int) -> str:
        """Name the lock under which a layer is fetched."""
        size = self._wanted.manifest.layers[number].size
        chain = layers.chain_id(self._wanted.diff_ids[: number + 1])
        text = f"{self._origin(number)} {size} {chain}"
        return f"fetch.{site.name_of(blobs.digest_of('sha256:', text.encode()))}"

    def _touched(self, info: LayerInfo) -> LayerInfo:
        with contextlib.suppress(OSError):  # for gc: see there
            os.utime(site.layer_path(self._store, info.layer))
        return info

    def _find(
        self, names: tuple[str, str], number: int, *, suspect: bool = False
    ) -> LayerInfo | None:
        """Return a layer that is there under either name; what is damaged is taken away."""
        with Lock(self._store, site.lock_name(names[0]), self._stop, tells=False):
            info = self._whole(names[0], suspect=suspect)
            if number and (info is None or not info.alone):  # made for the bottom of a stack
                info = self._whole(names[1], suspect=suspect)
            return info

    def _whole(self, name: str, *, suspect: bool) -> LayerInfo | None:
        info = find(self._store, name)
        if info is None or not suspect or is_whole(self._store, info):
            return info
        quarantine(self._store, name)
        self._told.tell(warning=f"layer {name[:12]} was damaged on disk and is fetched again")
        return None

    def _origin(self, number: int) -> str:
        blob = self._wanted.manifest.layers[number].digest
        return f"{self._client.origin(self._wanted.reference)} {blob}"

    def _known(self, info: LayerInfo, number: int) -> bool:
        """Tell whether this user's registry is known to have this layer, and shows it to them."""
        reference, blob = self._wanted.reference, self._wanted.manifest.layers[number]
        return (
            self._client.is_trusted(reference)
            and self._origin(number) in info.origins
            and self._client.has_blob(reference, blob)
        )

    def _make(
        self, number: int, names: tuple[str, str], stage: Stage, near: int | None
    ) -> LayerInfo:
        """Fetch a layer; what comes out wrong is never published."""
        blob = self._wanted.manifest.layers[number]
        shared = self._find_shared(blob) if near is None else os.dup(near)
        if shared is not None:
            try:
                stream = _Verified(handed.chunks(shared, blob.size), blob, self._stop)
                return self._write(number, names, stage, stream)
            except (errors.LayerError, errors.DigestError, shared_blobs.UnreadableError) as error:
                place = self._shared if near is None else "the engine"
                self._told.tell(warning=shared_blobs.passed_over(place, blob, error))
        chunks = self._client.blob(self._wanted.reference, blob)
        return self._write(number, names, stage, _Verified(chunks, blob, self._stop))

    def _near(self, blob: Descriptor) -> int | None:
        """Return a layer that the engine has, if the user's registry shows it to them."""
        reference, client = self._wanted.reference, self._client
        if self._handed is None or not client.is_trusted(reference):
            return None
        return self._handed(blob) if client.has_blob(reference, blob) else None

    def _find_shared(self, blob: Descriptor) -> int | None:
        """Open a layer of the shared directory, if the user's registry shows it to them.

        Whoever may read that directory is not asked: the user need not be one of them.
        """
        reference, client = self._wanted.reference, self._client
        if not self._shared or not client.is_trusted(reference):
            return None
        if not client.has_blob(reference, blob):
            return None
        return shared_blobs.find(self._shared, blob, lambda text: self._told.tell(warning=text))

    def _write(
        self, number: int, names: tuple[str, str], stage: Stage, stream: _Verified
    ) -> LayerInfo:
        blob, diff_id = self._wanted.manifest.layers[number], self._wanted.diff_ids[number]
        staged, scratch = stage.name(), stage.name()
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        fd, scratch_fd = os.open(staged, flags, 0o400), os.open(scratch, flags, 0o600)
        os.unlink(scratch)
        try:
            with sinks.LayerImage(fd, scratch_fd) as image:
                floor = self._wanted.floor_bytes
                lower = _Lower(self._store, image, lambda: self.below(number), floor)
                try:
                    stats = convert.apply(
                        stream, blob.media_type, diff_id, lower, self._told, size=blob.size
                    )
                except errors.LayerError:
                    stream.finish()  # what cannot be read may have been altered on its way
                    raise
                stream.finish()
                facts = image.facts()
            alone = facts.stands_alone
            for warning in stats.warnings:
                self._told.tell(warning=f"layer {blob.digest[:19]}: {warning}")
            os.fsync(fd)
            info = LayerInfo(
                layer=names[0] if alone else names[1],
                diff_id=diff_id,
                size=os.fstat(fd).st_size,
                digest=files.checksum(fd),
                entries=stats.entries,
                bytes=stats.bytes,
                alone=alone,
                origins=self._origins(number),
                markers=facts.markers,
            )
        finally:
            os.close(fd)
            os.close(scratch_fd)
        with Lock(self._store, site.lock_name(names[0]), self._stop, tells=False):
            return self._publish(stage, staged, info)

    def _origins(self, number: int) -> tuple[str, ...]:
        """Return what to remember of where a layer came from: only a word that will count."""
        trusted = self._client.is_trusted(self._wanted.reference)
        return (self._origin(number),) if trusted else ()

    def _publish(self, stage: Stage, staged: str, info: LayerInfo) -> LayerInfo:
        """Give a layer its name; one that is there already is only told who else has it."""
        there = find(self._store, info.layer)
        if there is not None:
            known = tuple(dict.fromkeys((*there.origins, *info.origins)))
            info = there._replace(origins=known[-MAX_ORIGINS:])
        if info != there:
            text = site.format_info(info)
            layout.replace_file(stage, site.info_path(self._store, info.layer), text)
        if there is None:
            layout.publish(staged, site.layer_path(self._store, info.layer))
        return info


# -- published layers ------------------------------------------------------------------------------


def find(store: Store, name: str) -> LayerInfo | None:
    """Return a published layer, None if there is none or its description is damaged."""
    if not os.path.exists(site.layer_path(store, name)):
        return None
    try:
        with open(site.info_path(store, name), "rb") as file:
            return site.parse_info(file.read(site.MAX_INFO_BYTES + 1), file.name)
    except (FileNotFoundError, errors.StoreError):
        quarantine(store, name)
        return None


def missing(store: Store, wanted: Wanted) -> list[Descriptor]:
    """Return the compressed layers whose images are not in the store."""
    return [
        blob
        for number, blob in enumerate(wanted.manifest.layers)
        if not any(
            os.path.exists(site.layer_path(store, name)) for name in _names(wanted.diff_ids, number)
        )
    ]


def is_whole(store: Store, info: LayerInfo) -> bool:
    """Read a layer's image and tell whether it is what was written."""
    return files.is_whole(site.layer_path(store, info.layer), info.size, info.digest)


def _check_limits(infos: tuple[LayerInfo, ...]) -> None:
    """Hold the limits of an image over all its layers; the sink holds them for each.

    Raises:
        errors.LayerError: the image is too large.
    """
    limits = sinks.Limits()
    if sum(info.entries for info in infos) > limits.entries:
        raise errors.LayerError("the image holds more entries than the limit")
    if sum(info.bytes for info in infos) > limits.bytes:
        raise errors.LayerError("the image's files exceed the limit of bytes")


def quarantine(store: Store, name: str) -> None:
    """Take a damaged layer out of use, and its indexes; who has it mounted keeps it."""
    index.forget(store, name)
    for path in (site.layer_path(store, name), site.info_path(store, name)):
        try:
            os.rename(path, store.path("quarantine", os.path.basename(path)))
        except FileNotFoundError:
            continue


def _names(diff_ids: tuple[str, ...], number: int) -> tuple[str, str]:
    """Return the two names that a layer may have: if it stands alone, and if it does not."""
    chain = layers.chain_id(diff_ids[: number + 1])
    return site.name_of(diff_ids[number]), site.name_of(chain)


# -- streams ---------------------------------------------------------------------------------------


class _Lower:
    """An image under construction that gets the layers below it, if it needs them, at its end.

    It stops short of filling the disk: how much a layer unpacks to is its author's choice.
    """

    def __init__(
        self,
        store: Store,
        image: sinks.LayerImage,
        below: Callable[[], list[LayerInfo]],
        floor_bytes: int,
    ) -> None:
        self._store, self._image, self._below = store, image, below
        self._floor, self._unseen = floor_bytes, 0
        self.begin_layer = image.begin_layer

    def feed(self, data: memoryview) -> None:
        self._unseen += len(data)
        if self._unseen >= LOOK_BYTES:
            self._unseen = 0
            disk = os.statvfs(self._store.root)
            if disk.f_bavail * disk.f_frsize < self._floor:
                raise errors.SpaceError(
                    f"{self._store.root}: the layer unpacks to more than fits; "
                    f"{self._floor / 1e6:,.1f} MB must stay free"
                )
        self._image.feed(data)

    def end_layer(self) -> sinks.LayerStats:
        fds: list[int] = []
        try:
            if self._image.needs_lower:
                for info in self._below():
                    path = site.layer_path(self._store, info.layer)
                    fds.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
                self._image.set_lower(fds)
            return self._image.end_layer()
        finally:
            for fd in fds:
                os.close(fd)


class _Verified(io.RawIOBase):
    """A blob straight from its source; ``finish`` says whether it was the right one."""

    def __init__(self, chunks: Iterator[bytes], blob: Descriptor, stop: threading.Event) -> None:
        super().__init__()
        self._chunks = chunks
        self._blob, self._stop, self._rest = blob, stop, memoryview(b"")
        self._hash = blobs.hasher_fast(blob.digest)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        if not self._rest and not self._more():
            return 0
        count = min(len(view), len(self._rest))
        view[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def _more(self) -> bool:
        if self._stop.is_set():
            raise errors.StoreError("the step has ended")
        chunk = next(self._chunks, b"")
        self._hash.update(chunk)
        self._rest = memoryview(chunk)
        return bool(chunk)

    def finish(self) -> None:
        """Read to the end.

        Raises:
            errors.DigestError: the registry sent other bytes than the digest promised.
        """
        while self._more():
            pass
        found = self._hash.hexdigest()
        if found != self._blob.digest.partition(":")[2]:
            raise errors.DigestError(
                f"{self._blob.digest}: the registry sent other content, with the digest {found}"
            )
