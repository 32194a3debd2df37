"""List the images in the store of this node."""

from __future__ import annotations

import argparse
import json

from fairlead import config as settings
from fairlead.cli import columns
from fairlead.store import fetch, layout

_COLUMNS = ("REFERENCE", "DIGEST", "SIZE", "PULLED")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--json", action="store_true", help="a JSON list, with everything known")


def run(arguments: argparse.Namespace, config: settings.Config) -> int:
    """Print the table or the list."""
    images = fetch.images(layout.open_store(config))
    if arguments.json:
        print(json.dumps([_entry(image) for image in images], indent=2))
        return 0
    for line in columns.lines(_COLUMNS, (_row(image) for image in images)):
        print(line)
    return 0


def _entry(image: fetch.Image) -> dict[str, object]:
    return {
        "reference": image.reference,
        "digest": image.digest,
        "target": image.target,
        "config": image.config.digest,
        "platform": str(image.config.platform),
        "size_bytes": image.size,
        "created": image.config.created,
        "pulled": image.pulled,
        "rootfs": image.rootfs,
    }


def _row(image: fetch.Image) -> tuple[str, ...]:
    return image.reference, image.digest[:19], size_text(image.size), image.pulled


def size_text(size: int) -> str:
    """Return a number of bytes for a reader."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
