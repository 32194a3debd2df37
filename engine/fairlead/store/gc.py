"""Remove from a user's store what is not used: garbage first, then the least recently used images.

Rules:
- A tree that a launch holds or a process has mounted is never removed; it is asked again under the
  tree's lock. Nothing here waits: what another process works on is spared.
- The records of a tree go before the tree, its documents after: a kill in between leaves garbage,
  no record of what is not there.
- What a named container wrote is the user's, who removes it (``fairlead rm --container``).
- What no record names is garbage: a tree of a process that died before it wrote its record, a
  compressed layer that was never unpacked. A process that is just fetching needs such things, so
  they are spared while any object is being made; what has just come is spared, too.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from typing import NamedTuple

from fairlead import errors, log
from fairlead.image import manifest
from fairlead.store import (
    blobs,
    containers,
    fingerprint,
    items,
    layers,
    layout,
    leftovers,
    quarantine,
    records,
)
from fairlead.store.items import Item, Outcome
from fairlead.store.layout import Lock, Stage, Store
from fairlead.store.records import Record
from fairlead.store.room import Reclaim

YOUNG_S = 60.0


class _Known(NamedTuple):
    """What the records lead to."""

    trees: dict[str, tuple[str, ...]]  # ChainID → references
    documents: frozenset[str]
    kept_layers: dict[str, tuple[str, ...]]  # digest of a compressed layer → references


def inventory(store: Store) -> tuple[Item, ...]:
    """Return everything that can be removed by itself, with who uses it.

    Raises:
        errors.StoreError: the store cannot be read.
    """
    with layout.failures_named(store):
        known, mounted = _known(store), layers.mounted()
        return (
            *_trees(store, known, mounted),
            *_blobs(store, known),
            *_containers(store),
            *_garbage(store, known),
        )


def reclaim(store: Store) -> Reclaim:
    """Return the store's side of making room for an image that is about to be fetched."""
    return Reclaim(
        used=lambda: items.total(inventory(store)),
        can_free=lambda: items.total(items.free(inventory(store))),
        free=lambda wanted: collect(store, wanted).freed,
    )


def collect(
    store: Store, wanted: int, *, dry: bool = False, progress: log.Progress | None = None
) -> Outcome:
    """Remove garbage, and of the images as many as free wanted bytes.

    Raises:
        errors.StoreError: something cannot be removed.
    """
    if not dry:
        leftovers.sweep(store)
    found = inventory(store)
    chosen = items.choose(found, wanted)
    spared = tuple(item for item in found if item.held)
    if dry:
        return Outcome(chosen, spared)
    with layout.failures_named(store):
        removed, busy = remove_each(chosen, lambda item: _remove(store, item), progress)
    return Outcome(removed, (*spared, *busy))


def remove_each(
    chosen: tuple[Item, ...], remove: Callable[[Item], None], progress: log.Progress | None
) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    """Remove items and return those that are gone, and those that turned out to be in use."""
    removed, busy = [], []
    if progress is not None:
        progress.start("gc", "remove", items.total(chosen))
    for item in chosen:
        try:
            remove(item)
        except errors.BusyError:
            busy.append(item)
        else:
            removed.append(item)
        if progress is not None:
            progress.advance("gc", item.size)
    if progress is not None:
        progress.finish("gc")
    return tuple(removed), tuple(busy)


def _remove(store: Store, item: Item) -> None:
    if item.kind == "tree":
        _remove_tree(store, item.name)
    elif item.kind == "blob":
        with Lock(store, blobs.lock_name(item.name), wait=False):
            blobs.discard(store, item.name)
    else:
        layout.discard(store.path(item.name))


def _remove_tree(store: Store, chain: str) -> None:
    with Lock(store, layers.lock_name(chain), wait=False), Stage(store) as stage:
        named = [record for record in records.all_of(store) if record.chain == chain]

        def forget() -> None:
            for record in named:
                records.remove(store, record)

        layers.remove(store, stage, chain, before=forget)
        kept = {digest for record in records.all_of(store) for digest in _documents(record)}
        for digest in {digest for record in named for digest in _documents(record)} - kept:
            blobs.discard(store, digest)


def _known(store: Store) -> _Known:
    trees: dict[str, tuple[str, ...]] = {}
    documents: set[str] = set()
    kept: dict[str, tuple[str, ...]] = {}
    for record in records.all_of(store):
        trees[record.chain] = (*trees.get(record.chain, ()), record.reference)
        documents.update(_documents(record))
        for digest in _layers_of(store, record):
            kept[digest] = (*kept.get(digest, ()), record.reference)
    return _Known(trees, frozenset(documents), kept)


def _documents(record: Record) -> tuple[str, ...]:
    return record.target, record.manifest, record.config


def _layers_of(store: Store, record: Record) -> tuple[str, ...]:
    data, _ = blobs.look(store, record.manifest)
    if data is None:
        return ()
    try:
        found = manifest.parse_manifest(data, "", record.manifest)
    except errors.ManifestError:
        return ()
    return tuple(dict.fromkeys(layer.digest for layer in found.layers))


def _trees(store: Store, known: _Known, mounted: dict[str, str]) -> list[Item]:
    found = []
    for chain in layers.chains(store):
        where = layers.path(store, chain)
        with contextlib.suppress(FileNotFoundError):
            used = os.lstat(where).st_mtime
            pid = mounted.get(chain.partition(":")[2])
            held = f"process {pid}" if pid else "a launch" if layers.held(store, chain) else ""
            kept = "" if held else containers.using(store, chain)
            held = f"container {kept}" if kept else held
            described = layers.describe(store, chain)
            size = described.disk_bytes if described else 0
            found.append(Item("tree", chain, size, used, known.trees.get(chain, ()), held))
    return found


def _containers(store: Store) -> list[Item]:
    """Return the named containers: always in use, by their name if by nothing else.

    Those of jobs that have ended are not for this module to know: see ``run.named``.
    """
    found = []
    running = containers.mounted()
    for container in containers.all_of(store):
        with contextlib.suppress(FileNotFoundError):
            used, size = os.lstat(container.path).st_mtime, fingerprint.disk_bytes(container.path)
            kept = containers.read(container)
            pid = running.get(container.key)
            held = f"process {pid}" if pid else f"job {container.job}" if container.job else ""
            images = (kept.reference,) if kept else ()
            found.append(Item("container", container.key, size, used, images, held or "its name"))
    return found


def _blobs(store: Store, known: _Known) -> list[Item]:
    found = []
    busy = _is_busy(store)
    for algorithm in ("sha256", "sha512"):
        for name in os.listdir(store.path("blobs", algorithm)):
            digest = f"{algorithm}:{name}"
            if digest in known.documents:
                continue
            with contextlib.suppress(FileNotFoundError):
                info = os.lstat(store.path("blobs", algorithm, name))
                images = known.kept_layers.get(digest, ())
                young = time.time() - info.st_mtime < YOUNG_S
                held = "a launch" if not images and (busy or young) else ""
                found.append(
                    Item("blob", digest, 512 * info.st_blocks, info.st_mtime, images, held)
                )
    return found


def _garbage(store: Store, known: _Known) -> list[Item]:
    paths = [*quarantine.entries(store), *leftovers.stale_stages(store)]
    if os.path.isdir(store.path("derived")) and not _is_busy(store):
        derived = os.listdir(store.path("derived"))
        paths += [store.path("derived", n) for n in derived if f"sha256:{n}" not in known.trees]
    return [
        Item("garbage", os.path.relpath(path, store.root), fingerprint.disk_bytes(path), 0.0)
        for path in paths
    ]


def _is_busy(store: Store) -> bool:
    stale = set(leftovers.stale_locks(store))
    return any(store.path("locks", name) not in stale for name in os.listdir(store.path("locks")))
