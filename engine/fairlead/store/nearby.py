"""Images that lie on this machine: archives, layouts, squashfs and SIF files, directories.

The policies of ``fetch`` hold, with looking in place of asking: a look is a stat, so it is done at
every launch. A file whose stamp is the record's is not opened; one that is gone, while the store
has what it held, is a note, except for ``always``.

Rules:
- A file that has changed is read anew, and what it held before stays findable by its digest, as
  for a tag that has moved.
- Nothing of an image is copied but into its tree.
"""

from __future__ import annotations

from collections.abc import Mapping

from fairlead import errors, log
from fairlead.config import Config
from fairlead.image import reference as references
from fairlead.image import source
from fairlead.image.reference import Reference
from fairlead.store import fetch, leftovers, records
from fairlead.store.layout import Lock, Store


def pull(
    reference: Reference,
    config: Config,
    store: Store,
    policy: str,
    progress: log.Progress | None,
    environ: Mapping[str, str],
) -> fetch.Image:
    """Return the image of a reference, read if it is not in the store as it is now.

    Raises:
        errors.Error: with the reference or its path in its line; the store is then as before.
    """
    try:
        stamp = source.stamp(reference, environ)
    except errors.ImageNotFoundError as error:
        image = fetch.local(store, reference)
        if image is None or policy == "always":
            raise
        log.note(f"{error.message}; using what the store has of it, read {image.pulled}")
        return image
    image = _unchanged(store, reference, stamp)
    if image is not None:
        return image
    with Lock(store, records.lock_name(reference.identity)) as lock:
        # Of many that look at once one reads; the others take what it made.
        image = _unchanged(store, reference, stamp) if stamp else None
        if image is None and lock.shared:
            image = fetch.local(store, reference)
        return image or _read(reference, config, store, stamp, progress, environ)


def _unchanged(store: Store, reference: Reference, stamp: str) -> fetch.Image | None:
    record = records.read(store, reference.identity)
    if record is None or not stamp or record.stamp != stamp:
        return None
    return fetch.local(store, reference)


def _read(
    reference: Reference,
    config: Config,
    store: Store,
    stamp: str,
    progress: log.Progress | None,
    environ: Mapping[str, str],
) -> fetch.Image:
    leftovers.sweep(store)
    if reference.transport == references.PATH:
        kind = source.kind(reference)
        if kind in source.ROOTS:
            from fairlead.store import rootfs

            return rootfs.take(reference, kind, config, store, stamp, progress)
    with source.open_local(reference, environ) as client:
        target = reference.digest or client.head(reference)
        return fetch.take(client, reference, target, config, store, progress, stamp)
