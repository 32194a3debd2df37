"""From a reference to an image whose tree is ready: the way that every launch takes.

Policies (``config.pull``):

    always    ask the registry what the tag means now; what is in the store is not fetched again
    newer     the same, but a registry out of reach (no route, no answer, one 429 or 5xx too many)
              is a note, not an error, if an image is in the store; 401, 403 and 404 are errors
    missing   ask only if the store has no image for the reference
    never     do not ask

Rules:
- A reference with a digest that is in the store needs no network under any policy.
- The launch path, with the image in the store, loads no module of the network and starts no
  thread; when ``pull`` returns, no thread that it started is left (the caller unshares a user
  namespace next).
- The record is written last: whoever finds it finds everything.
- Compressed layers are removed once their tree is published: the tree is what launches need, and
  a store on a node's disk would hold everything twice. The price: a layer shared with another
  image is fetched again, unless ``keep_blobs`` says otherwise.
- Whoever asks the registry also removes what the dead left (``layout.sweep``).

Source: security.md sections 1 and 4.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from fairlead import errors, log
from fairlead.config import Config
from fairlead.image import manifest
from fairlead.image.reference import Reference
from fairlead.store import blobs, layers, layout, records
from fairlead.store.layout import Lock, Stage, Store
from fairlead.store.records import Record

if TYPE_CHECKING:
    from fairlead.image.registry import Client
    from fairlead.store.resolve import Resolved


class Image(NamedTuple):
    """An image in the store, ready to run.

    Attributes:
        reference: its canonical text; it holds a digest only if that is what was asked for.
        digest: of the manifest for this machine.
        target: digest that the reference meant, of an index or of the same manifest.
        config: what it wants to run with.
        rootfs: absolute path of its merged tree.
        size: bytes of its files.
        chain: ChainID, which names the tree (``layers.hold``).
        pulled: when, UTC, ISO 8601.
    """

    reference: str
    digest: str
    target: str
    config: manifest.ImageConfig
    rootfs: str
    size: int
    chain: str
    pulled: str


def pull(
    reference: Reference,
    config: Config,
    store: Store,
    *,
    policy: str,
    progress: log.Progress | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Image:
    """Return the image of a reference, fetched if the policy and the store's contents ask for it.

    Raises:
        errors.Error: with the reference in its line; the store is then as it was before.
    """
    image = local(store, reference)
    if image is not None and (reference.digest or policy in {"missing", "never"}):
        return image
    if policy == "never":
        raise errors.ImageNotFoundError(
            f"{reference}: is not in the store {store.root}, and pull is never",
            hint="fetch it with fairlead pull, or set pull to missing",
        )
    return _ask(reference, config, store, policy, progress, environ)


def local(store: Store, reference: Reference) -> Image | None:
    """Return the image of a reference if all of it is in the store."""
    record = records.read(store, reference.identity)
    if record is None and reference.digest:
        same = (r for r in records.all_of(store) if _repository(r) == reference.name)
        record = next((r for r in same if reference.digest in {r.target, r.manifest}), None)
    return None if record is None else _image(store, record)


def images(store: Store) -> tuple[Image, ...]:
    """Return every image in the store, sorted by reference."""
    found = (_image(store, record) for record in records.all_of(store))
    return tuple(image for image in found if image is not None)


def remove(store: Store, name: Reference | str) -> tuple[str, ...]:
    """Forget a reference, or every reference to a digest, and remove what no other needs.

    Returns:
        The references that were forgotten.

    Raises:
        errors.ImageNotFoundError: there is no such image in the store.
        errors.BusyError: it is in use.
    """
    known = records.all_of(store)
    if isinstance(name, str):
        doomed = [r for r in known if name in {r.target, r.manifest, r.config}]
    else:
        doomed = [r for r in known if r.reference == name.identity]
    if not doomed:
        raise errors.ImageNotFoundError(
            f"{name}: is not in the store {store.root}", hint="see fairlead images"
        )
    for record in doomed:
        _remove(store, record)
    return tuple(record.reference for record in doomed)


def remove_all(store: Store) -> tuple[str, ...]:
    """Forget every reference and remove what is left of work that was never finished.

    Raises:
        errors.BusyError: an image is in use.
    """
    known = records.all_of(store)
    for record in known:
        _remove(store, record)
    for chain in layers.chains(store):  # of a process that died before it wrote its record
        with Lock(store, layers.lock_name(chain)), Stage(store) as stage:
            if all(record.chain != chain for record in records.all_of(store)):
                layers.remove(store, stage, chain)
    layout.sweep(store)
    if not os.listdir(store.path("locks")):  # else somebody is just fetching
        blobs.discard_all(store)
    return tuple(record.reference for record in known)


def manifest_of(store: Store, image: Image) -> manifest.Manifest | None:
    """Return an image's manifest, None if its copy in the store was damaged."""
    data = blobs.read(store, image.digest)
    return None if data is None else manifest.parse_manifest(data, "", image.digest)


def look(reference: Reference, config: Config, environ: Mapping[str, str] = os.environ) -> Resolved:
    """Return what a reference is at its registry; nothing is kept.

    Raises:
        errors.Error: not found, not allowed, out of reach, not for this machine, or malformed.
    """
    from fairlead.image import registry
    from fairlead.store.resolve import resolve

    with registry.Client(config, environ) as client:
        return resolve(client, reference, reference.digest)


def _remove(store: Store, record: Record) -> None:
    with Lock(store, layers.lock_name(record.chain)), Stage(store) as stage:
        others = [r for r in records.all_of(store) if r.reference != record.reference]
        if all(other.chain != record.chain for other in others):
            layers.remove(store, stage, record.chain)
        records.remove(store, record)
        kept = {digest for r in others for digest in (r.target, r.manifest, r.config)}
        for digest in {record.target, record.manifest, record.config} - kept:
            blobs.discard(store, digest)


def _repository(record: Record) -> str:
    name = record.reference.partition("@")[0]
    head, colon, tail = name.rpartition(":")
    return head if colon and "/" not in tail else name


def _image(store: Store, record: Record) -> Image | None:
    data = blobs.read(store, record.config)
    if data is None or not layers.exists(store, record.chain):
        return None
    config = manifest.parse_config(data, record.config)
    root = layers.rootfs(store, record.chain)
    return Image(
        record.reference,
        record.manifest,
        record.target,
        config,
        root,
        record.size,
        record.chain,
        record.pulled,
    )


# -- with the registry -----------------------------------------------------------------------------


def _ask(
    reference: Reference,
    config: Config,
    store: Store,
    policy: str,
    progress: log.Progress | None,
    environ: Mapping[str, str],
) -> Image:
    with Lock(store, records.lock_name(reference.identity)) as lock:
        image = local(store, reference)
        # Of many that ask at once one does; the others take its answer, without loading the client.
        if image is not None and (lock.shared or policy == "missing"):
            return image
        return _ask_registry(reference, config, store, image, policy, progress, environ)


def _ask_registry(
    reference: Reference,
    config: Config,
    store: Store,
    image: Image | None,
    policy: str,
    progress: log.Progress | None,
    environ: Mapping[str, str],
) -> Image:
    from fairlead.image import registry, transport

    layout.sweep(store)
    # With an image at hand nobody wants to wait a minute for a registry that is down.
    timing = (
        transport.TIMING._replace(tries=2, connect_s=3.0) if image and policy == "newer" else None
    )
    # With an image at hand nobody wants to wait a minute for a registry that is down.
    hurried = image is not None and policy == "newer"
    timing = transport.TIMING._replace(tries=2, connect_s=3.0) if hurried else None
    try:
        with registry.Client(config, environ, timing=timing) as client:
            target = client.head(reference)
            if target is None and (image is not None or reference.digest):
                target = client.manifest(reference, reference.target).digest
    except errors.RegistryUnreachableError as error:
        if image is None or not hurried:
            raise
        log.note(f"{error.message}; using the image in the store, pulled {image.pulled}")
        return image
    if image is not None and target == image.target:
        return image
    with registry.Client(config, environ) as client:
        return _fetch(client, reference, target, config, store, progress)


def _fetch(
    client: Client,
    reference: Reference,
    target: str | None,
    config: Config,
    store: Store,
    progress: log.Progress | None,
) -> Image:
    from fairlead.store.resolve import about, resolve

    try:
        found = resolve(client, reference, target, store)
        chain = layers.chain_id(found.config.diff_ids)
        with Lock(store, layers.lock_name(chain)), about(reference):
            tree = layers.find(store, chain)
            with Stage(store) as stage:
                if tree is None:
                    tree = _build(client, reference, found, config, store, stage, progress)
                if not config.keep_blobs:  # nor what one left that was killed at this point
                    _drop_layers(store, found)
                record = _record(reference, found, chain, tree)
                _remember(store, stage, reference, record)
    except OSError as error:
        raise layout.failure(error, store.root) from error
    return Image(
        record.reference,
        record.manifest,
        record.target,
        found.config,
        tree.rootfs,
        tree.size,
        chain,
        record.pulled,
    )


def _build(
    client: Client,
    reference: Reference,
    found: Resolved,
    config: Config,
    store: Store,
    stage: Stage,
    progress: log.Progress | None,
) -> layers.Tree:
    from fairlead.store import gc, room
    from fairlead.store.transfer import Transfer

    wanted = found.manifest.layers
    need = room.forecast(wanted, lambda layer: os.path.exists(blobs.path(store, layer.digest)))
    room.make(store, config, need, str(reference), gc.reclaim(store))
    if progress is not None:
        _announce(found, progress)
    with Transfer(
        client, reference, store, stage, wanted, progress, config.shared_blobs
    ) as transfer:
        return layers.build(
            store, stage, found.manifest, found.config, transfer.layer, transfer.applied, progress
        )


def _drop_layers(store: Store, found: Resolved) -> None:
    documents = {found.target, found.manifest.digest, found.config.digest}
    for digest in {layer.digest for layer in found.manifest.layers} - documents:
        blobs.discard(store, digest)


def _remember(store: Store, stage: Stage, reference: Reference, record: Record) -> None:
    known = records.read(store, record.reference)
    if known is not None and known._replace(pulled=record.pulled) == record:
        return
    if known is not None and known.target != record.target:
        # The tag has moved. What it meant stays findable by its digest, as a job may be running it.
        records.write(store, stage, known._replace(reference=f"{reference.name}@{known.target}"))
    records.write(store, stage, record)


def _announce(found: Resolved, progress: log.Progress) -> None:
    # All at once, so that the totals are right from the beginning.
    for layer, diff_id in zip(found.manifest.layers, found.config.diff_ids, strict=True):
        progress.start(layer.digest, f"fetch {layer.digest[7:19]}", layer.size)
        progress.start(f"unpack {diff_id}", f"unpack {diff_id[7:19]}", layer.size)


def _record(reference: Reference, found: Resolved, chain: str, tree: layers.Tree) -> Record:
    return Record(
        reference=reference.identity,
        target=found.target,
        manifest=found.manifest.digest,
        config=found.config.digest,
        chain=chain,
        size=tree.size,
        pulled=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
