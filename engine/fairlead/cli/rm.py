"""Remove images, or named containers, from the store of this node.

A tree that several references share goes with the last of them. An image that is in use is refused,
also by a named container; so is a container that runs.
"""

from __future__ import annotations

import argparse
import os

from fairlead import config as settings
from fairlead import errors
from fairlead.cli import names
from fairlead.image import reference
from fairlead.store import containers, fetch, layout


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--all", action="store_true", help="every image in the store")
    parser.add_argument(
        "--container", action="store_true", help="the names are those of containers"
    )
    parser.add_argument(
        "names", nargs="*", metavar="IMAGE|DIGEST|NAME", help="reference, or sha256:..., or name"
    )


def run(arguments: argparse.Namespace, config: settings.Config) -> int:
    """Remove, and print each reference that is gone."""
    if bool(arguments.names) == arguments.all:
        raise errors.UsageError("rm takes either names of images or --all")
    store = layout.open_store(config)
    if arguments.container:
        for text in arguments.names or [item.key for item in containers.all_of(store)]:
            print(_remove_container(store, text))
        return 0
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


def _remove_container(store: layout.Store, text: str) -> str:
    container = containers.find(store, text, os.environ.get("SLURM_JOB_ID", ""))
    lock = containers.hold(store, container.key)
    try:
        pid = containers.mounted().get(container.key)
        if pid:
            raise errors.BusyError(f"{text}: runs, as process {pid}", hint="end it first")
        containers.remove(store, container)
    finally:
        os.close(lock)
    return container.key
