"""The documents of an image that has one more layer than another, or that is all our own. Pure.

Rules:
- Only OCI types are written: a layer of Docker's is the same bytes under another name.
- A configuration keeps every field that is not about layers, also those that nothing here knows.
- ``history`` gets an entry for each layer, or podman would refuse the image.

Source: image-spec 1.1 ``config.md``, ``manifest.md``, ``conversion.md``.
"""

from __future__ import annotations

import hashlib
import json
from typing import NamedTuple

from fairlead import errors
from fairlead.image import manifest
from fairlead.image.manifest import Descriptor, Platform

LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
_PREFIX = "application/vnd.oci.image.layer.v1.tar"
_SUFFIXES = (("gzip", "+gzip"), ("zstd", "+zstd"), ("", ""))


class Added(NamedTuple):
    """A layer of ours: its descriptor and the digest of its uncompressed archive."""

    descriptor: Descriptor
    diff_id: str


class Documents(NamedTuple):
    """An image to be written: manifest and configuration as bytes, and all its layers."""

    manifest: bytes
    media_type: str
    digest: str
    config: bytes
    config_descriptor: Descriptor
    layers: tuple[Descriptor, ...]


def extend(
    config: bytes,
    layers: tuple[Descriptor, ...],
    added: tuple[Added, ...],
    created: str,
    created_by: str,
) -> Documents:
    """Return an image with layers of ours above others.

    Args:
        config: the configuration of the image below.
        layers: its layers.
        added: what comes above them.
        created: time, ISO 8601.
        created_by: what made it.

    Raises:
        errors.ManifestError: config is none, or a layer must not be distributed.
    """
    try:
        table = json.loads(config)
        rootfs = dict(table["rootfs"])
        diff_ids = [*rootfs["diff_ids"], *(item.diff_id for item in added)]
        history = [entry for entry in table.get("history") or [] if isinstance(entry, dict)]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise errors.ManifestError("the image's configuration cannot be extended") from error
    known = sum(not entry.get("empty_layer") for entry in history)
    history += [{"created": created}] * (len(layers) - known)
    history += [{"created": created, "created_by": created_by}] * len(added)
    whole = {
        **table,
        "created": created,
        "rootfs": {**rootfs, "diff_ids": diff_ids},
        "history": history,
    }
    below = tuple(item._replace(media_type=_oci_type(item)) for item in layers)
    return documents(_json(whole), (*below, *(item.descriptor for item in added)))


def fresh(platform: Platform, config: dict[str, object]) -> bytes:
    """Return the configuration of an image without layers, to be extended."""
    table: dict[str, object] = {
        "architecture": platform.architecture,
        "os": platform.os,
        **({"variant": platform.variant} if platform.variant else {}),
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": []},
    }
    return _json(table)


def documents(config: bytes, layers: tuple[Descriptor, ...]) -> Documents:
    """Return an image's documents for its configuration and layers."""
    descriptor = Descriptor(manifest.OCI_CONFIG, digest_of(config), len(config))
    table = {
        "schemaVersion": 2,
        "mediaType": manifest.OCI_MANIFEST,
        "config": _entry(descriptor),
        "layers": [_entry(layer) for layer in layers],
    }
    data = _json(table)
    digest = digest_of(data)
    return Documents(data, manifest.OCI_MANIFEST, digest, config, descriptor, layers)


def digest_of(data: bytes) -> str:
    """Return the digest that names data."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _oci_type(layer: Descriptor) -> str:
    if "foreign" in layer.media_type or "nondistributable" in layer.media_type:
        raise errors.ManifestError(
            f"{layer.digest}: this layer must not be distributed, by its type {layer.media_type}"
        )
    suffix = next(oci for end, oci in _SUFFIXES if layer.media_type.endswith(end))
    return _PREFIX + suffix


def _entry(descriptor: Descriptor) -> dict[str, object]:
    return {
        "mediaType": descriptor.media_type,
        "digest": descriptor.digest,
        "size": descriptor.size,
    }


def _json(table: dict[str, object]) -> bytes:
    return json.dumps(table, separators=(",", ":"), sort_keys=True).encode()
