"""Fetch an image into the store of this node, and print the digest that its tag stands for.

What is in the store already is not fetched again. A launch does the same by itself; this verb is
for doing it beforehand, and for scripts that want to name an image for good.
"""

from __future__ import annotations

import argparse

from fairlead import config as settings
from fairlead import log
from fairlead.cli import names
from fairlead.store import fetch, layout

EPILOG = """\
examples:
  fairlead pull debian:12
  image=$(fairlead pull --quiet registry.example.org/sim:2) && srun --container="$image" ./solve
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("-q", "--quiet", action="store_true", help="show no progress")
    parser.add_argument("reference", metavar="IMAGE", help="image reference")


def run(arguments: argparse.Namespace, config: settings.Config) -> int:
    """Fetch, and print NAME@DIGEST, or the name alone of a directory, which has no digest."""
    wanted = names.parse(arguments.reference, config)
    store = layout.open_store(config)
    progress = None if arguments.quiet else _progress(str(wanted))
    image = fetch.pull(wanted, config, store, policy="always", progress=progress)
    print(f"{wanted.name}@{image.target}" if image.target else wanted)
    return 0


def _progress(label: str) -> log.Progress:
    if log.main_stream_is_terminal():
        from fairlead.cli import lazy_progress

        return lazy_progress.LazyProgress(label)
    return log.QuietProgress(label)
