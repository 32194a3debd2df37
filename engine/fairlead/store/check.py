"""Verify every object of a user's store; with repair, take what is wrong out of use.

What is verified: blobs by their digest; trees by their ChainID, their description and their
fingerprint (not the contents of their files, see ``fingerprint``); records by their form and by
what they name. What no image needs is no finding: gc removes it.

A repair makes the next launch fetch again what was damaged: damaged objects and foreign names go to
quarantine, records that point nowhere and what the dead left are removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from typing import NamedTuple

from fairlead import errors, log
from fairlead.image import reference
from fairlead.store import blobs, fingerprint, layers, layout, leftovers, quarantine, records
from fairlead.store.layout import Lock, Store
from fairlead.store.records import Record

_PIECE = 1 << 20


class Finding(NamedTuple):
    """Something that is not as it should be.

    Attributes:
        kind: ``damaged``, ``points-nowhere``, ``leftover`` or ``foreign``.
        path: what.
        why: in which way.
        repair: how to repair it; returns what was done.
        repaired: what was done; empty without repair, or if it could not be done.
    """

    kind: str
    path: str
    why: str
    repair: Callable[[], str]
    repaired: str = ""


def run(store: Store, *, repair: bool, progress: log.Progress | None = None) -> Iterator[Finding]:
    """Yield what is wrong with a store, repaired if asked for.

    Raises:
        errors.StoreError: something cannot be read or repaired.
    """
    return repaired(store, findings(store, progress), repair)


def repaired(store: Store, found: Iterator[Finding], repair: bool) -> Iterator[Finding]:
    """Repair each finding if asked for; one that is in use stays as it is."""
    while (finding := _next(store, found)) is not None:
        done = ""
        if repair:
            with contextlib.suppress(errors.BusyError), layout.failures_named(store):
                done = finding.repair()
        yield finding._replace(repaired=done)


def _next(store: Store, found: Iterator[Finding]) -> Finding | None:
    with layout.failures_named(store):  # not around the yield: a reader's closed pipe is no disk
        return next(found, None)


def findings(store: Store, progress: log.Progress | None) -> Iterator[Finding]:
    """Yield what is wrong, in an order in which repairs do not get into each other's way."""
    yield from remains(store)
    for algorithm in ("sha256", "sha512"):
        yield from wrong_blobs(store, algorithm, progress)
    yield from _trees(store, progress)
    yield from _records(store)


# -- what both kinds of store have -----------------------------------------------------------------


def remains(store: Store) -> Iterator[Finding]:
    """Yield what killed processes left below ``tmp`` and ``locks``."""

    def swept() -> str:
        leftovers.sweep(store)
        return "removed"

    # Listed first: a repair needs the locks that are held while they are listed.
    for path in [*leftovers.stale_stages(store), *leftovers.stale_locks(store)]:
        yield Finding("leftover", path, "its process is dead", swept)


def wrong_blobs(store: Store, algorithm: str, progress: log.Progress | None) -> Iterator[Finding]:
    """Yield the blobs whose content is not what their name says."""
    for name in sorted(os.listdir(store.path("blobs", algorithm))):
        digest, path = f"{algorithm}:{name}", store.path("blobs", algorithm, name)
        if not _is_digest(digest):
            yield Finding("foreign", path, "is no digest", quarantined(store, path))
            continue
        try:
            found, _ = digest_of_file(path, algorithm, progress)
        except FileNotFoundError:
            continue  # gc, or a launch that dropped a layer
        if found != digest:
            why = f"its content has the digest {found}" if found else "is no plain file"
            yield Finding("damaged", path, why, quarantined(store, path, blobs.lock_name(digest)))


def _is_digest(text: str) -> bool:
    try:
        reference.parse_digest(text)
    except errors.ReferenceError:
        return False
    return True


def digest_of_file(path: str, algorithm: str, progress: log.Progress | None) -> tuple[str, int]:
    """Return the digest and the size of a file; an empty digest if it is no plain file.

    Raises:
        OSError: it cannot be read.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        if stat.S_ISREG(os.lstat(path).st_mode):
            raise
        return "", 0
    with open(fd, "rb", buffering=0) as file:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            return "", 0
        if progress is not None:
            progress.start(path, f"check {os.path.basename(path)[:12]}", info.st_size)
        found, size = hashlib.new(algorithm), 0
        while data := file.read(_PIECE):
            found.update(data)
            size += len(data)
            if progress is not None:
                progress.advance(path, len(data))
    if progress is not None:
        progress.finish(path)
    return f"{algorithm}:{found.hexdigest()}", size


def quarantined(store: Store, path: str, lock: str = "") -> Callable[[], str]:
    """Return the repair that takes an object out of use, under its lock if it has one."""

    def repair() -> str:
        with Lock(store, lock, wait=False) if lock else contextlib.nullcontext():
            return f"moved to {quarantine.put(store, path)}"

    return repair


def removed(path: str) -> Callable[[], str]:
    """Return the repair that removes a file."""

    def repair() -> str:
        layout.discard(path)
        return "removed"

    return repair


# -- a user's store --------------------------------------------------------------------------------


def _trees(store: Store, progress: log.Progress | None) -> Iterator[Finding]:
    names = sorted(os.listdir(store.path("trees")))
    for name in names:
        chain = f"sha256:{name}"
        path = store.path("trees", name)
        if not _is_digest(chain):
            yield Finding("foreign", path, "is no digest", quarantined(store, path))
            continue
        described = layers.describe(store, chain)
        size = described.disk_bytes if described else 0
        if progress is not None:
            progress.start(path, f"check {name[:12]}", size)
        why = _wrong_tree(store, chain, described)
        if progress is not None:
            progress.advance(path, size)
            progress.finish(path)
        if why and os.path.lexists(path):
            yield Finding("damaged", path, why, _tree_quarantined(store, chain))


def _wrong_tree(store: Store, chain: str, described: layers.Description | None) -> str:
    if described is None:
        return "its description is missing or malformed"
    if described.chain != chain or layers.chain_id(described.layers) != chain:
        return "its description is that of another tree"
    if not layers.exists(store, chain):
        return "it has no files"
    if not described.fingerprint:
        return ""  # of a release that took none; all that can be said is that it is there
    try:
        found = fingerprint.of(layers.rootfs(store, chain))
    except OSError as error:
        return f"it cannot be read: {error.filename}: {error.strerror}"
    if found.digest != described.fingerprint:
        return "its files are not those that were unpacked (names, sizes, modes or times)"
    return ""


def _tree_quarantined(store: Store, chain: str) -> Callable[[], str]:
    def repair() -> str:
        with Lock(store, layers.lock_name(chain), wait=False):
            return f"moved to {layers.set_aside(store, chain)}"

    return repair


def _records(store: Store) -> Iterator[Finding]:
    folder = store.path("images")
    for name in sorted(os.listdir(folder)):
        path = f"{folder}/{name}"
        record = records.read_file(store, name)
        if record is None:
            if os.path.lexists(path):
                yield Finding("damaged", path, "is no record", quarantined(store, path))
            continue
        missing = _missing(store, record)
        if missing:
            why = f"{record.reference}: {missing} is not in the store"
            yield Finding("points-nowhere", path, why, removed(path))


def _missing(store: Store, record: Record) -> str:
    # Its tree need not be here: the site store may have its layers, and a launch makes it if not.
    for digest in filter(None, (record.target, record.manifest, record.config)):
        if not os.path.exists(blobs.path(store, digest)):
            return f"the document {digest}"
    return ""
