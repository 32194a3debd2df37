"""Remove images from the store of this node.

A tree that several references share goes with the last of them. An image that is in use is refused.
"""

from __future__ import annotations

import argparse

from fairlead import config as settings
from fairlead import errors
from fairlead.cli import names
from fairlead.image import reference
from fairlead.store import fetch, layout


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--all", action="store_true", help="every image in the store")
    parser.add_argument("names", nargs="*", metavar="IMAGE|DIGEST", help="reference, or sha256:...")


def run(arguments: argparse.Namespace, config: settings.Config) -> int:
    """Remove, and print each reference that is gone."""
    if bool(arguments.names) == arguments.all:
        raise errors.UsageError("rm takes either names of images or --all")
    store = layout.open_store(config)
    if arguments.all:
        for gone in fetch.remove_all(store):
            print(gone)
        return 0
    for text in arguments.names:
        name: reference.Reference | str
        if reference.is_digest(text):
            name = reference.parse_digest(text)
        else:
            name = names.parse(text, config)
        for gone in fetch.remove(store, name):
            print(gone)
    return 0
