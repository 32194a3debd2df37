"""Save a named container: as an image with one more layer, a squashfs file or a tar archive.

The layer holds what was written to the container, and what was removed, and nothing of the host's:
mount points, the user's entries in /etc/passwd and the host's MPI stay out. The layers below are
the image's own, byte for byte.
"""

from __future__ import annotations

import argparse
import os

from fairlead import config as settings
from fairlead import log
from fairlead.cli import names
from fairlead.cli import run as run_verb
from fairlead.run import launch, saving
from fairlead.store import containers, layout

EPILOG = """\
examples:
  fairlead run --name devel debian:12 sh -c 'echo hello > /srv/greeting'
  fairlead commit devel docker://registry.example.org/team/devel:2
  fairlead commit devel ./devel.sqsh
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("container", metavar="NAME", help="the container's name")
    parser.add_argument(
        "target",
        metavar="TARGET",
        help="PATH.sqsh, PATH.tar, oci:PATH[:TAG] or docker://REFERENCE",
    )


def run(arguments: argparse.Namespace, config: settings.Config) -> int:
    """Save, and print what names it now."""
    launch.refuse_root()
    where = saving.target(arguments.target, config, names.directory())
    store = layout.open_store(config)
    job = os.environ.get("SLURM_JOB_ID", "")
    container = containers.find(store, arguments.container, job)
    lock = containers.hold(store, container.key)
    pid = containers.mounted().get(container.key)
    if pid:
        name = arguments.container
        log.warning(f"{name}: runs, as process {pid}; what it writes meanwhile may be missing")
    root = saving.of_container(container, containers.read(container))
    print(saving.save(root, where, config, store, run_verb.progress(arguments.target)))
    os.close(lock)
    return 0
