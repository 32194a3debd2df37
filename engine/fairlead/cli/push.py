"""Copy an image to a registry or into an OCI layout, as it is: same bytes, same digest.

Of an image for several machines the one for this machine is copied. A layer that the target has
already is not sent again; within a registry it is taken over.
"""

from __future__ import annotations

import argparse

from fairlead import config as settings
from fairlead import errors
from fairlead.cli import names
from fairlead.cli import run as run_verb
from fairlead.image import reference, source
from fairlead.run import saving
from fairlead.store import layout, material

EPILOG = """\
examples:
  fairlead push oci:./image:2 docker://registry.example.org/team/sim:2
  fairlead push docker://debian:12 docker://registry.example.org/mirror/debian:12
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("reference", metavar="IMAGE", help="image reference")
    parser.add_argument("target", metavar="TARGET", help="docker://REFERENCE or oci:PATH[:TAG]")


def run(arguments: argparse.Namespace, config: settings.Config) -> int:
    """Copy, and print what names it there."""
    where = saving.target(arguments.target, config, names.directory())
    ref = names.parse(arguments.reference, config)
    if where.ref is None:
        raise errors.UsageError(
            f"{arguments.target}: is no place for an image",
            hint="write docker://REFERENCE or oci:PATH[:TAG], or use fairlead export",
        )
    if ref.transport == reference.PATH and not saving.has_layers(ref):
        raise errors.UsageError(
            f"{ref}: holds no image with layers", hint="make one of it with fairlead import"
        )
    target, store = where.ref, layout.open_store(config)

    def copy(client: source.Source) -> str:
        found = material.of_source(client, ref, store, target)
        return saving.send(found, target, config, run_verb.progress(arguments.target))

    print(saving.with_source(ref, config, copy))
    return 0
