"""The engine's side of the node's shared store: an image's layers as mounts, made if need be.

The broker mounts what this user was granted. Where there is no grant (or it is too old, or a layer
was removed), it starts a storekeeper, which proves this user's access to the image, fetches what is
missing and grants; then the broker is asked once more.

Rules:
- The storekeeper gets no credentials. It passes a registry's challenge on, and the header that
  answers it is made here.
- ``Unusable`` is raised where the shared store itself cannot serve (no such store, no EROFS in the
  kernel, a registry that only the user's own proxy or certificates reach): the caller may use the
  user's own store instead. Whatever else concerns the image is the user's error and final.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from fairlead import errors, kernel, log
from fairlead.config import Config
from fairlead.image.reference import Reference
from fairlead.shared import site

if TYPE_CHECKING:
    from fairlead.shared.handing import Handing
    from fairlead.shared.wire import Message, Wire
    from fairlead.store.layout import Store
    from fairlead.store.spread import Spread

# By these a user may reach a registry that the storekeeper, which has none of them, cannot.
_OWN_WAYS = (
    *("SSL_CERT_FILE", "SSL_CERT_DIR"),
    *("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"),
)
# What the broker says when there is nothing to mount yet, and when an image is damaged.
_MISSING = {errno.ENOENT}
_DAMAGED = {errno.EUCLEAN, errno.EIO, errno.EINVAL, errno.EBADMSG}
_UNUSABLE = {errno.ENODEV, errno.EPERM, errno.EPIPE, errno.EOPNOTSUPP, errno.E2BIG, errno.ENOTDIR}


class Unusable(Exception):  # noqa: N818 - internal; becomes a warning
    """The shared store cannot serve this node; the reason, for one line."""


def mounts(
    broker: int,
    reference: Reference,
    digest: str,
    config: Config,
    *,
    target: str = "",
    may_ask: bool = True,
    progress: log.Progress | None = None,
    environ: Mapping[str, str] = os.environ,
    store: Store | None = None,
    spread: Callable[[Store], Spread | None] | None = None,
) -> tuple[int, ...]:
    """Return an image's layers as detached mounts, lowest first, or one mount of all.

    Args:
        broker: the step's connection to the broker.
        reference: where the image comes from.
        digest: of the manifest for this machine.
        target: of the index that led to it, or the same; signatures may be the index's.
        config: the user's settings, for their login.
        may_ask: whether a registry may be asked (policy ``never`` forbids it).
        progress: hears how far the layers are.
        environ: where the user's credentials are.
        store: the user's own store.
        spread: opens the way to the other nodes of the step, which want the same.

    Raises:
        Unusable: the shared store cannot serve.
        errors.Error: the image cannot be had.
    """
    image = site.name_of(digest)
    try:
        return kernel.broker_mount(broker, image)
    except OSError as error:
        suspect = error.errno in _DAMAGED
        if not suspect and error.errno not in _MISSING:
            raise _failure(error) from error
    if not may_ask:
        raise errors.ImageNotFoundError(
            f"{reference}: is not ready in the node's shared store, and pull is never",
            hint="access to a shared image is proven at its registry; set pull to missing",
        )
    name = reference._replace(tag=None, digest=digest)
    together = spread(store) if spread is not None and store is not None else None
    handing = None
    if together is not None and store is not None and not config.shared_blobs:
        handing = (together, store)
    _ask_keeper(broker, name, target or digest, config, progress, environ, handing, suspect=suspect)
    try:
        return kernel.broker_mount(broker, image)
    except OSError as error:
        raise _failure(error) from error


def injection(broker: int, image: str, name: str) -> int:
    """Return an injection that this user's grant for an image names, as a mount; -1: it has none.

    Args:
        broker: the step's connection to the broker.
        image: HEX of the manifest's digest.
        name: of the injection.
    """
    try:
        return kernel.broker_injection(broker, image, name)
    except OSError as error:
        log.debug(f"injection {name[:12]}: {error.filename}: {error.strerror}")
        return -1


def make_injection(broker: int, image: str, profiles: tuple[str, ...]) -> bool:
    """Have a storekeeper lay out the host's MPI for an image; tell whether it did.

    It refuses what only this user's environment leads to: that is no error, and nobody is told.
    """
    from fairlead.shared.wire import PROTOCOL, Wire, texts

    try:
        wire = Wire(kernel.broker_keeper(broker, image))
    except OSError as error:
        log.debug(f"no storekeeper for an injection: {error.filename}: {error.strerror}")
        return False
    try:
        wire.send(protocol=PROTOCOL, inject=list(profiles))
        message = wire.receive() or {"error": ["", "the storekeeper ended without an answer", ""]}
        if "error" in message:
            log.debug(f"injection not shared: {texts(message['error'], 3)[1]}")
        return "done" in message
    except (OSError, errors.StoreError) as error:
        log.debug(f"injection not shared: {error}")
        return False
    finally:
        wire.close()


def _failure(error: OSError) -> Exception:
    what = f"{error.filename}: {error.strerror}"
    if error.errno in _UNUSABLE:
        return Unusable(what)
    return errors.StoreError(f"the node's shared store cannot mount the image: {what}")


def _ask_keeper(
    broker: int,
    name: Reference,
    target: str,
    config: Config,
    progress: log.Progress | None,
    environ: Mapping[str, str],
    together: tuple[Spread, Store] | None,
    *,
    suspect: bool,
) -> None:
    from fairlead.shared.wire import PROTOCOL, Wire

    try:
        wire = Wire(kernel.broker_keeper(broker))
    except OSError as error:  # there is no store, or no more storekeepers for this step
        raise Unusable(f"{error.filename}: {error.strerror}") from error
    try:
        asked = {"image": str(name), "target": target, "suspect": suspect}
        wire.send(protocol=PROTOCOL, together=together is not None, **asked)
        if together is None:
            done = _served(wire, name, config, progress, environ, None)
        else:
            from fairlead.shared.handing import Handing

            with Handing(wire, *together, name, config, environ) as handing:
                done = _served(wire, name, config, progress, environ, handing)
        if done:
            return
    except (errors.RegistryUnreachableError, errors.RegistryError) as error:
        # An authority that only the user trusts shows as an answer that the registry may not give.
        if environ.keys().isdisjoint(_OWN_WAYS):
            raise
        raise Unusable(f"the storekeeper: {error.message}") from error
    except OSError as error:
        raise errors.StoreError(f"the storekeeper hung up: {error.strerror}") from error
    finally:
        wire.close()
    raise errors.StoreError(
        "the storekeeper ended without an answer",
        hint="check the installation on this node, and its memory",
    )


def _served(
    wire: Wire,
    name: Reference,
    config: Config,
    progress: log.Progress | None,
    environ: Mapping[str, str],
    handing: Handing | None,
) -> bool:
    """Serve a storekeeper; tell whether it did what it was asked for.

    Raises:
        errors.Error: the storekeeper's own.
    """
    while (message := wire.receive()) is not None:
        if "done" in message:
            return True
        if handing is not None and "blob" in message:
            handing.wanted(message["blob"])
        else:
            _serve(wire, message, name, config, progress, environ)
    return False


def _serve(
    wire: Wire,
    message: Message,
    name: Reference,
    config: Config,
    progress: log.Progress | None,
    environ: Mapping[str, str],
) -> None:
    """Act on one message of the storekeeper.

    Raises:
        errors.Error: the storekeeper's own.
    """
    from fairlead.shared.wire import texts

    if "error" in message:
        code, text, hint = texts(message["error"], 3)
        kind = next((kind for kind in errors.catalogue() if kind.code == code), errors.StoreError)
        raise kind(text, hint=hint)
    if "login" in message:
        at = str(message.get("at", name.name))
        wire.send(header=_header(message["login"], name, at, config, environ))
    elif "warning" in message:
        log.warning(str(message["warning"]))
    elif progress is not None:
        _report(message, progress)


def _report(message: Message, progress: log.Progress) -> None:
    match message:
        case {"start": [str(key), str(label), int() | None as total]}:
            progress.start(key, label, total)
        case {"advance": [str(key), int(count)]}:
            progress.advance(key, count)
        case {"finish": str(key)}:
            progress.finish(key)


def _header(
    offered: object, name: Reference, at: str, config: Config, environ: Mapping[str, str]
) -> str | None:
    """Return the Authorization header that answers a registry's challenge, as this user.

    The registry is the place of the image that is called at: by the site's registries.conf, as the
    storekeeper reads it. For any other there is none.
    """
    from fairlead.image import headers, mirrors
    from fairlead.shared.wire import texts

    if not isinstance(offered, list):
        return None
    challenges = tuple(headers.Challenge(*texts(item, 3)) for item in offered)
    with mirrors.Client(config, environ, site=True) as client:
        return client.header(name, challenges, at)
