"""Verify every object of the site store: layers, indexes, injections, grants and leases.

An image file of any of these is read whole and compared with the checksum that the
storekeeper took when it made it. One without a record can be neither trusted nor compared: it
counts as damaged.

What no grant needs is no finding: gc removes it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

from fairlead import errors, log
from fairlead.shared import files, index, injection, site
from fairlead.shared import gc as shared_gc
from fairlead.store import check
from fairlead.store.check import Finding
from fairlead.store.layout import Store


def run(store: Store, *, repair: bool, progress: log.Progress | None = None) -> Iterator[Finding]:
    """Yield what is wrong with the site store, repaired if asked for.

    Raises:
        errors.StoreError: something cannot be read or repaired.
    """
    return check.repaired(store, findings(store, progress), repair)


def findings(store: Store, progress: log.Progress | None) -> Iterator[Finding]:
    """Yield what is wrong; layers before the grants that name them."""
    yield from check.remains(store)
    for kind in _KINDS:
        yield from _images(store, kind, progress)
    yield from _grants(store)
    yield from _leases(store)


class _Kind(NamedTuple):
    """A folder of EROFS images with their records.

    Attributes:
        folder: its name in the store.
        foreign: what is said of a file of another name.
        wrong: says what is wrong with an image, by store and name; "" if nothing is.
        taken: gives the repair of one that is damaged, by store, name and path.
    """

    folder: str
    foreign: str
    wrong: Callable[[Store, str, log.Progress | None], str]
    taken: Callable[[Store, str, str], Callable[[], str]]


def _images(store: Store, kind: _Kind, progress: log.Progress | None) -> Iterator[Finding]:
    folder = store.path(kind.folder)
    if not os.path.isdir(folder):
        return  # a store of before there was such a kind
    for file in sorted(os.listdir(folder)):
        path = f"{folder}/{file}"
        name, _, suffix = file.partition(".")
        if not site.is_name(name) or suffix not in {"erofs", "json"}:
            yield Finding("foreign", path, kind.foreign, check.quarantined(store, path))
        elif suffix == "erofs":
            try:
                why = kind.wrong(store, name, progress)
            except FileNotFoundError:
                continue  # gc
            if why:
                yield Finding("damaged", path, why, kind.taken(store, name, path))


def _layer_taken(store: Store, layer: str, path: str) -> Callable[[], str]:
    """Return the repair of a layer: what was made of it goes first."""
    quarantined = check.quarantined(store, path, site.lock_name(layer))

    def repair() -> str:
        index.forget(store, layer)
        return quarantined()

    return repair


def _wrong_layer(store: Store, layer: str, progress: log.Progress | None) -> str:
    path = site.info_path(store, layer)
    try:
        with open(path, "rb") as file:
            info = site.parse_info(file.read(site.MAX_INFO_BYTES + 1), path)
    except FileNotFoundError:
        # The image goes first when a layer is removed; if it is there, its record is missing.
        os.lstat(site.layer_path(store, layer))
        return "its record is missing"
    except (errors.StoreError, OSError) as error:
        return f"its record is unreadable: {error}"
    if info.layer != layer or (info.alone and site.name_of(info.diff_id) != layer):
        return "its record is that of another layer"
    return _wrong_file(site.layer_path(store, layer), info.size, info.digest, progress)


def _wrong_file(path: str, size: int, digest: str, progress: log.Progress | None) -> str:
    found = os.lstat(path).st_size
    if found != size:
        return f"has {found} bytes instead of {size}"
    if progress is not None:
        progress.start(path, f"check {os.path.basename(path)[:12]}", size)
    whole = files.is_whole(path, size, digest)
    if progress is not None:
        progress.advance(path, size)
        progress.finish(path)
    return "" if whole else "its content is not what was written"


def _index_taken(store: Store, name: str, path: str) -> Callable[[], str]:
    """Return the repair of an index."""
    return check.quarantined(store, path, index.lock_name(name))


def _wrong_index(store: Store, name: str, progress: log.Progress | None) -> str:
    info, path = index.find(store, name), site.index_path(store, name)
    if info is None:
        os.lstat(path)
        return "its record is missing or unreadable"
    if info.name != name:
        return "its record is that of another index"
    for layer in info.layers:
        if not os.path.exists(site.layer_path(store, layer)):
            return f"the layer {layer} is not in the store"
    return _wrong_file(path, info.size, info.digest, progress)


def _injection_taken(store: Store, name: str, path: str) -> Callable[[], str]:
    """Return the repair of an injection."""
    return check.quarantined(store, path, injection.lock_name(name))


def _wrong_injection(store: Store, name: str, progress: log.Progress | None) -> str:
    info, path = injection.find(store, name), site.injection_path(store, name)
    if info is None:
        os.lstat(path)
        return "its record is missing, unreadable or another's"
    return _wrong_file(path, info.size, info.digest, progress)


_KINDS = (
    _Kind("layers", "is no layer", _wrong_layer, _layer_taken),
    _Kind("indexes", "is no index", _wrong_index, _index_taken),
    _Kind("injections", "is no injection", _wrong_injection, _injection_taken),
)


def _grants(store: Store) -> Iterator[Finding]:
    folder = store.path("grants")
    for name in sorted(os.listdir(folder)):
        path = f"{folder}/{name}"
        if not (name.isascii() and name.isdecimal() and os.path.isdir(path)):
            yield Finding("foreign", path, "is no user's", check.quarantined(store, path))
    for found in shared_gc.grants(store):
        if found.grant is None:
            repair = check.quarantined(store, found.path)
            yield Finding("damaged", found.path, "is no grant", repair)
            continue
        for layer in found.grant.layers:
            if not os.path.exists(site.layer_path(store, layer)):
                why = f"the layer {layer} is not in the store"
                yield Finding("points-nowhere", found.path, why, check.removed(found.path))
                break


def _leases(store: Store) -> Iterator[Finding]:
    folder = store.path("leases")
    for name in sorted(os.listdir(folder)):
        if site.parse_lease(name) is None:
            path = f"{folder}/{name}"
            yield Finding("foreign", path, "is no lease", check.quarantined(store, path))
