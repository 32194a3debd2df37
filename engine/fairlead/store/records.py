"""What each reference that was pulled meant: one small JSON file per reference.

Rules:
- A record is written after everything that it names is in place, whole or not at all, and
  replaced when its tag has moved.
- There is no map from tags shared with other users (tag poisoning): a store has one user.
- A record whose types are wrong counts as absent. One that the disk cannot read counts as absent
  for a launch, which fetches again, and is an error for whoever asks for all: gc would take its
  image for garbage.
"""

from __future__ import annotations

import errno
import os
from typing import NamedTuple

from fairlead import jsontext
from fairlead.store import blobs, layout
from fairlead.store.layout import Stage, Store

_MAX_RECORD = 1 << 16


class Record(NamedTuple):
    """What a reference resolved to.

    Attributes:
        reference: its canonical text (``Reference.identity``).
        target: digest that the registry gave for it, of an index or of a manifest.
        manifest: digest of this machine's manifest.
        config: digest of the image configuration.
        chain: ChainID of the layers, which names the tree.
        size: bytes of the tree's files.
        pulled: when, UTC, ISO 8601.
        stamp: of the file that it was read from (``image.source.stamp``); empty for a registry.
        policy: names the demands that its signatures satisfied (``trust``); empty: there were none.
    """

    reference: str
    target: str
    manifest: str
    config: str
    chain: str
    size: int
    pulled: str
    stamp: str = ""
    policy: str = ""


def read(store: Store, reference: str) -> Record | None:
    """Return the record of a reference, or None."""
    try:
        record = _read(path(store, reference))
    except OSError:
        return None
    return record if record is not None and record.reference == reference else None


def read_file(store: Store, name: str) -> Record | None:
    """Return the record in a file of the store, None if it is none, or not under its own name."""
    try:
        record = _read(store.path("images", name))
    except OSError:
        return None
    if record is None or f"{_name(record.reference)}.json" != name:
        return None
    return record


def write(store: Store, stage: Stage, record: Record) -> None:
    """Keep a record in place of an older one for the same reference."""
    import json

    data = json.dumps(record._asdict(), indent=1).encode()
    where = path(store, record.reference)
    try:
        layout.replace_file(stage, where, data + b"\n")
    except OSError as error:
        raise layout.failure(error, where) from error


def remove(store: Store, record: Record) -> None:
    """Forget a reference; one that is forgotten already is no error."""
    try:
        os.unlink(path(store, record.reference))
    except FileNotFoundError:
        return


def all_of(store: Store) -> tuple[Record, ...]:
    """Return every record, sorted by reference.

    Raises:
        errors.StoreError: one of them cannot be read.
    """
    folder = store.path("images")
    with layout.failures_named(store):
        names = [name for name in os.listdir(folder) if name.endswith(".json")]
        found = [_read(f"{folder}/{name}") for name in names]
    return tuple(sorted(record for record in found if record is not None))


def path(store: Store, reference: str) -> str:
    """Return the file of a reference's record."""
    return store.path("images", f"{_name(reference)}.json")


def lock_name(reference: str) -> str:
    """Return the name of the lock under which a registry is asked about a reference."""
    return f"reference.{_name(reference)}"


def _name(reference: str) -> str:
    return blobs.digest_of("sha256:", reference.encode()).partition(":")[2]


def _read(where: str) -> Record | None:
    try:
        fd = os.open(where, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ELOOP, errno.ENXIO}:  # a link, a socket: no record
            return None
        raise
    with open(fd, "rb") as file:
        data = file.read(_MAX_RECORD)
    try:
        table = jsontext.loads(data)
        record = Record(**{key: table[key] for key in Record._fields if key in table})
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    texts = record._replace(size=0)
    fine = type(record.size) is int and all(isinstance(item, str) for item in texts if item != 0)
    return record if fine else None
