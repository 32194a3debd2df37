"""Write the root of an image, or of a named container, to a file: a squashfs or a tar archive."""

from __future__ import annotations

import argparse
import os
import sys

from fairlead import config as settings
from fairlead import errors
from fairlead.cli import names
from fairlead.cli import run as run_verb
from fairlead.run import launch, saving
from fairlead.store import containers, layout

EPILOG = """\
examples:
  fairlead export debian:12 debian.sqsh
  fairlead export --container devel - | tar -t
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--container", action="store_true", help="the name is that of a named container"
    )
    parser.add_argument("name", metavar="IMAGE|NAME", help="image reference, or container")
    parser.add_argument(
        "file", metavar="FILE", help="PATH.sqsh, PATH.tar, or - for a tar on stdout"
    )


def run(arguments: argparse.Namespace, config: settings.Config) -> int:
    """Write the file, and print its path."""
    launch.refuse_root()
    where = None
    if arguments.file != "-":
        where = saving.target(arguments.file, config, names.directory())
        if where.kind == saving.IMAGE:
            raise errors.UsageError(
                f"{arguments.file}: is no file",
                hint="write PATH.sqsh or PATH.tar, or use fairlead push or commit",
            )
    store, progress = layout.open_store(config), run_verb.progress(arguments.name, "exporting")
    if arguments.container:
        container = containers.find(store, arguments.name, os.environ.get("SLURM_JOB_ID", ""))
        containers.hold(store, container.key)  # until this process ends
        root = saving.of_container(container, containers.read(container))
    else:
        root = saving.of_image(names.parse(arguments.name, config), config, store, progress)
    if where is None:
        saving.stream(root, sys.stdout.fileno(), progress)
    else:
        print(saving.save(root, where, config, store, progress))
    return 0
