"""From a reference to an image whose tree is ready: the way that every launch takes.

Policies (``config.pull``):

    always    ask the registry what the tag means now; what is in the store is not fetched again
    newer     the same, but a registry out of reach (no route, no answer, one 429 or 5xx too many)
              is a note, not an error, if an image is in the store; 401, 403 and 404 are errors
    missing   ask only if the store has no image for the reference
    never     do not ask

Rules:
- A reference with a digest that is in the store needs no network under any policy.
- What the site's or the user's policy demands of an image (``trust``) is looked at first, and its
  signatures before any layer. An image in the store that satisfied other demands counts as absent.
- What lies on this machine is looked at by ``nearby`` under any policy but never: that costs a
  stat.
- The launch path, with the image in the store, loads no module of the network and starts no
  thread; when ``pull`` returns, no thread that it started is left (the caller unshares a user
  namespace next).
- The record is written last: whoever finds it finds everything.
- Compressed layers are removed once their tree is published: the tree is what launches need, and
  a store on a node's disk would hold everything twice. The price: a layer shared with another
  image is fetched again, unless ``keep_blobs`` says otherwise.
- Whoever asks the registry, or reads an image from a file, also removes what the dead left
  (``leftovers.sweep``).

Source: security.md sections 1 and 4.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple, TypeGuard

from fairlead import errors, log
from fairlead.config import Config
from fairlead.image import manifest
from fairlead.image.manifest import Descriptor
from fairlead.image.reference import Reference
from fairlead.store import blobs, layers, layout, records, trust
from fairlead.store.layout import Lock, Stage, Store
from fairlead.store.records import Record

if TYPE_CHECKING:
    from fairlead.image.source import Source
    from fairlead.store.direct import Direct
    from fairlead.store.resolve import Resolved
    from fairlead.store.spread import Spread
    from fairlead.store.transfer import Transfer


OVER = "over"  # in the place of a directory; see ``rootfs``


class Image(NamedTuple):
    """An image in the store, ready to run.

    Attributes:
        reference: its canonical text; it holds a digest only if that is what was asked for.
        digest: of the manifest for this machine, or of the file that is the whole image; empty for
            a directory, which has none.
        target: digest that the reference meant, of an index or of the same manifest.
        config: what it wants to run with.
        rootfs: absolute path of its merged tree; empty where the shared store has its layers.
        place: directory for what is derived from the image and vanishes with it.
        size: bytes of its files, or of its compressed layers where there is no tree.
        chain: ChainID, which names the tree (``layers.hold``).
        pulled: when, UTC, ISO 8601.
        over: absolute paths of directories that are laid over rootfs, topmost first.
        policy: names the demands that its signatures satisfied; empty: there were none.
    """

    reference: str
    digest: str
    target: str
    config: manifest.ImageConfig
    rootfs: str
    place: str
    size: int
    chain: str
    pulled: str
    over: tuple[str, ...] = ()
    policy: str = ""

    @property
    def pinned(self) -> str:
        """The text that names this very content, as far as it has a digest."""
        known = not self.digest or "@" in self.reference
        return self.reference if known else f"{self.reference}@{self.digest}"


def pull(
    reference: Reference,
    config: Config,
    store: Store,
    *,
    policy: str,
    progress: log.Progress | None = None,
    environ: Mapping[str, str] = os.environ,
    tree: bool = True,
    spread: Callable[[Store], Spread | None] | None = None,
) -> Image:
    """Return the image of a reference, fetched if the policy and the store's contents ask for it.

    Without tree only its documents are fetched: the layers are in the node's shared store. spread
    opens the way to the other nodes of a step, which want the same.

    Raises:
        errors.Error: with the reference in its line; the store is then as it was before.
    """
    wanted = trust.demands(reference, config, environ)
    image = local(store, reference, tree=tree)
    settled = {"never"} if reference.transport else {"missing", "never"}
    if _satisfies(image, wanted) and (reference.digest or policy in settled):
        return image
    if policy == "never" and image is not None:
        raise errors.SignatureError(
            f"{reference}: what the store has of it was not verified by "
            f"{wanted.requirements[0].origin}, and pull is never",
            hint="set pull to missing, so that its signatures can be asked for",
        )
    if policy == "never":
        raise errors.ImageNotFoundError(
            f"{reference}: is not in the store {store.root}, and pull is never",
            hint="fetch it with fairlead pull, or set pull to missing",
        )
    if reference.transport:
        from fairlead.store import nearby

        return nearby.pull(reference, config, store, policy, progress, environ)
    asking = _Asking(reference, config, store, policy, progress, environ, tree, wanted, spread)
    return asking.image()


def _satisfies(image: Image | None, wanted: trust.Demands) -> TypeGuard[Image]:
    return image is not None and (not wanted.name or image.policy == wanted.name)


def local(store: Store, reference: Reference, *, tree: bool = True) -> Image | None:
    """Return the image of a reference if all of it is in the store; its tree only if wanted."""
    record = records.read(store, reference.identity)
    if record is None and reference.digest:
        same = (r for r in records.all_of(store) if _is_of(r, reference))
        record = next((r for r in same if reference.digest in {r.target, r.manifest}), None)
    return None if record is None else _image(store, record, tree=tree)


def images(store: Store) -> tuple[Image, ...]:
    """Return every image in the store, sorted by reference."""
    found = (_image(store, record, tree=False) for record in records.all_of(store))
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
    with layout.failures_named(store):
        for record in doomed:
            _remove(store, record)
    return tuple(record.reference for record in doomed)


def remove_all(store: Store) -> tuple[str, ...]:
    """Forget every reference and remove what is left of work that was never finished.

    Raises:
        errors.BusyError: an image is in use.
    """
    known = records.all_of(store)
    with layout.failures_named(store):
        for record in known:
            _remove(store, record)
        for chain in layers.chains(store):  # of a process that died before it wrote its record
            with Lock(store, layers.lock_name(chain)), Stage(store) as stage:
                if all(record.chain != chain for record in records.all_of(store)):
                    layers.remove(store, stage, chain)
        from fairlead.store import leftovers

        leftovers.sweep(store)
        if not os.listdir(store.path("locks")):  # else somebody is just fetching
            blobs.discard_all(store)
    return tuple(record.reference for record in known)


def manifest_of(store: Store, image: Image) -> manifest.Manifest | None:
    """Return an image's manifest, None if it has none, or its copy in the store was damaged."""
    data = blobs.read(store, image.digest) if image.digest else None
    return None if data is None else manifest.parse_manifest(data, "", image.digest)


def look(reference: Reference, config: Config, environ: Mapping[str, str] = os.environ) -> Resolved:
    """Return what a reference is at its source; nothing is kept.

    Raises:
        errors.Error: not found, not allowed, out of reach, not for this machine, or malformed.
    """
    from fairlead.store.resolve import resolve

    trust.demands(reference, config, environ)
    if reference.transport:
        from fairlead.image import source

        with source.open_local(reference, environ) as client:
            return resolve(client, reference, reference.digest)
    from fairlead.image import mirrors

    with mirrors.Client(config, environ) as client:
        return resolve(client, reference, reference.digest)


def digest(reference: Reference, config: Config, environ: Mapping[str, str] = os.environ) -> str:
    """Return the digest that a tag has now.

    Raises:
        errors.Error: not found, not allowed, or out of reach.
    """
    from fairlead.image import mirrors

    trust.demands(reference, config, environ)  # what is rejected is not even asked about
    with mirrors.Client(config, environ) as client:
        found = client.head(reference)
        return found or client.manifest(reference, reference.target).digest


def _remove(store: Store, record: Record) -> None:
    with Lock(store, layers.lock_name(record.chain)), Stage(store) as stage:
        others = [r for r in records.all_of(store) if r.reference != record.reference]
        if all(other.chain != record.chain for other in others):
            layers.remove(store, stage, record.chain)
        records.remove(store, record)
        kept = {digest for r in others for digest in (r.target, r.manifest, r.config)}
        for digest in {record.target, record.manifest, record.config} - kept:
            blobs.discard(store, digest)


def _is_of(record: Record, reference: Reference) -> bool:
    rest = record.reference.removeprefix(reference.name)
    return rest != record.reference and rest[:1] in {"", ":", "@"}


def _image(store: Store, record: Record, *, tree: bool) -> Image | None:
    data = blobs.read(store, record.config)
    there = layers.exists(store, record.chain)
    if data is None or (tree and not there):
        return None
    image = _described(store, record, manifest.parse_config(data, record.config), tree=there)
    if record.reference.startswith("/") and os.path.islink(image.rootfs):
        # A directory that is used where it is; see ``rootfs``.
        laid = f"{image.place}/{OVER}"
        over = (laid,) if os.path.isdir(laid) else ()
        return image._replace(digest="", target="", rootfs=os.readlink(image.rootfs), over=over)
    return image


def _described(store: Store, record: Record, config: manifest.ImageConfig, *, tree: bool) -> Image:
    return Image(
        reference=record.reference,
        digest=record.manifest,
        target=record.target,
        config=config,
        rootfs=layers.rootfs(store, record.chain) if tree else "",
        place=layers.path(store, record.chain) if tree else layers.derived(store, record.chain),
        size=record.size,
        chain=record.chain,
        pulled=record.pulled,
        policy=record.policy,
    )


# -- with the registry -----------------------------------------------------------------------------


class _Asking(NamedTuple):
    """A pull that asks the registry; the fields are those of ``pull``."""

    reference: Reference
    config: Config
    store: Store
    policy: str
    progress: log.Progress | None
    environ: Mapping[str, str]
    tree: bool
    wanted: trust.Demands
    spread: Callable[[Store], Spread | None] | None

    def image(self) -> Image:
        with Lock(self.store, records.lock_name(self.reference.identity)) as lock:
            there = local(self.store, self.reference, tree=self.tree)
            image = there if _satisfies(there, self.wanted) else None
            # Of many that ask at once one does; the others take its answer, without loading the
            # client.
            if image is not None and (lock.shared or self.policy == "missing"):
                return image
            return self._ask(image)

    def _ask(self, image: Image | None) -> Image:
        from fairlead.image import mirrors, transport
        from fairlead.store import leftovers

        leftovers.sweep(self.store)
        # With an image at hand nobody wants to wait a minute for a registry that is down.
        hurried = image is not None and self.policy == "newer"
        timing = transport.TIMING._replace(tries=2, connect_s=3.0) if hurried else None
        reference = self.reference
        spread = self.spread(self.store) if self.spread is not None else None
        try:
            with mirrors.Client(self.config, self.environ, timing=timing) as client:
                # What a digest names need not be asked for; a neighbour may have it.
                known = reference.digest if spread is not None else None
                target = known or client.head(reference)
                if target is None and (image is not None or reference.digest):
                    target = client.manifest(reference, reference.target).digest
        except errors.RegistryUnreachableError as error:
            if image is None or not hurried:
                raise
            log.note(f"{error.message}; using the image in the store, pulled {image.pulled}")
            return image
        if image is not None and target == image.target:
            return image
        with mirrors.Client(self.config, self.environ) as client:

            def admit(found: Resolved) -> None:
                digests = tuple(dict.fromkeys((found.manifest.digest, found.target)))
                args = (digests, self.wanted, self.config, self.environ)
                trust.verify(client, reference, *args)

            return take(
                client,
                reference,
                target,
                self.config,
                self.store,
                self.progress,
                tree=self.tree,
                admit=admit,
                policy=self.wanted.name,
                spread=spread,
            )


def take(
    client: Source,
    reference: Reference,
    target: str | None,
    config: Config,
    store: Store,
    progress: log.Progress | None,
    stamp: str = "",
    *,
    tree: bool = True,
    admit: Callable[[Resolved], None] | None = None,
    policy: str = "",
    spread: Spread | None = None,
) -> Image:
    """Bring an image from its source into the store; target is its digest if known already.

    Without tree only its documents. What admit raises stops it before any layer is fetched; policy
    names the demands that it verified.

    Raises:
        errors.Error: with the reference in its line; the store is then as it was before.
    """
    from fairlead.store.resolve import about, resolve

    try:
        found = resolve(client, reference, target, store, spread)
        if admit is not None:
            admit(found)
        chain = layers.chain_id(found.config.diff_ids)
        size = sum(layer.size for layer in found.manifest.layers)
        with Lock(store, layers.lock_name(chain)), about(reference), Stage(store) as stage:
            there = layers.find(store, chain)
            if there is None and tree:
                there = _build(client, reference, found, config, store, stage, progress, spread)
            if not config.keep_blobs:  # nor what one left that was killed at this point
                _drop_layers(store, found)
            record = _record(reference, found, chain, there.size if there else size, stamp)
            record = record._replace(policy=policy)
            remember(store, stage, reference, record)
    except OSError as error:
        raise layout.failure(error, store.root) from error
    return _described(store, record, found.config, tree=there is not None)


def _build(
    client: Source,
    reference: Reference,
    found: Resolved,
    config: Config,
    store: Store,
    stage: Stage,
    progress: log.Progress | None,
    spread: Spread | None,
) -> layers.Tree:
    from fairlead.store import gc, room

    wanted = found.manifest.layers
    missing = [layer for layer in wanted if not os.path.exists(blobs.path(store, layer.digest))]
    need = room.forecast(unpacked=wanted, stored=() if reference.transport else missing)
    room.make(store, config, need, str(reference), gc.reclaim(store))
    if progress is not None:
        _announce(found, progress)
    with _supply(client, reference, config, store, stage, wanted, progress, spread) as supply:
        return layers.build(
            store, stage, found.manifest, found.config, supply.layer, supply.applied, progress
        )


def _drop_layers(store: Store, found: Resolved) -> None:
    documents = {found.target, found.manifest.digest, found.config.digest}
    for digest in {layer.digest for layer in found.manifest.layers} - documents:
        blobs.discard(store, digest)


def _supply(
    client: Source,
    reference: Reference,
    config: Config,
    store: Store,
    stage: Stage,
    wanted: tuple[Descriptor, ...],
    progress: log.Progress | None,
    spread: Spread | None,
) -> Transfer | Direct:
    if reference.transport:
        from fairlead.store import direct

        return direct.Direct(client, reference, wanted, progress)
    from fairlead.store import transfer

    shared = config.shared_blobs
    others = None if shared else spread
    return transfer.Transfer(client, reference, store, stage, wanted, progress, shared, others)


def remember(store: Store, stage: Stage, reference: Reference, record: Record) -> None:
    """Keep what a reference means now, and, by its digest, what it meant before."""
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


def _record(reference: Reference, found: Resolved, chain: str, size: int, stamp: str) -> Record:
    return Record(
        reference=reference.identity,
        target=found.target,
        manifest=found.manifest.digest,
        config=found.config.digest,
        chain=chain,
        size=size,
        pulled=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        stamp=stamp,
    )


def now() -> str:
    """Return the time for a record: UTC, ISO 8601."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
