"""Show an image's configuration and layers, as JSON.

An image that is in the store is read there; otherwise its registry or file is, and nothing is kept.
"""

from __future__ import annotations

import argparse
import json

from fairlead import config as settings
from fairlead.cli import names
from fairlead.image import manifest, reference
from fairlead.store import fetch, layout


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--json", action="store_true", help="accepted; the output is always JSON")
    parser.add_argument("--remote", action="store_true", help="ask the registry in any case")
    parser.add_argument("reference", metavar="IMAGE", help="image reference")


def run(arguments: argparse.Namespace, config: settings.Config) -> int:
    """Print one JSON object."""
    wanted = names.parse(arguments.reference, config)
    store = layout.open_store(config)
    image = None if arguments.remote else fetch.local(store, wanted)
    if image is not None:
        document = _document(wanted, image.target, fetch.manifest_of(store, image), image.config)
        document["digest"] = image.digest or None
        document["store"] = {
            "rootfs": image.rootfs,
            "size_bytes": image.size,
            "pulled": image.pulled,
        }
    else:
        found = fetch.look(wanted, config)
        document = _document(wanted, found.target, found.manifest, found.config)
    print(json.dumps(document, indent=2))
    return 0


def _document(
    wanted: reference.Reference,
    target: str,
    found: manifest.Manifest | None,
    config: manifest.ImageConfig,
) -> dict[str, object]:
    layers: list[dict[str, object]] = [{"diff_id": diff_id} for diff_id in config.diff_ids]
    if found is not None:
        for table, layer in zip(layers, found.layers, strict=True):
            table |= {"digest": layer.digest, "size": layer.size, "media_type": layer.media_type}
    return {
        "reference": wanted.identity,
        "target": target,
        "digest": found.digest if found is not None else None,
        "media_type": found.media_type if found is not None else None,
        "platform": str(config.platform),
        "created": config.created,
        "config": {
            "digest": config.digest,
            "env": dict(config.env),
            "entrypoint": list(config.entrypoint),
            "cmd": list(config.cmd),
            "workdir": config.workdir,
            "user": config.user,
            "labels": dict(config.labels),
        },
        "layers": layers,
        "store": None,
    }
