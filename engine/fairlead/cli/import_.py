"""Make an image of one layer of a root file system: a tar archive, squashfs or SIF file, directory.

A tar archive may be compressed with gzip, zstd or xz. What an image may not hold is left out, as
when a layer is unpacked; everything in it is owned by root.
"""

from __future__ import annotations

import argparse

from fairlead import config as settings
from fairlead import errors
from fairlead.cli import names
from fairlead.cli import run as run_verb
from fairlead.image import reference
from fairlead.run import launch, saving
from fairlead.store import layout

EPILOG = """\
examples:
  fairlead import rootfs.tar.gz oci:./image:1
  fairlead import enroot.sqsh docker://registry.example.org/team/image:1
"""
_TARS = (".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.xz")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("file", metavar="FILE", help="archive, image file, or root directory")
    parser.add_argument("target", metavar="TARGET", help="oci:PATH[:TAG] or docker://REFERENCE")


def run(arguments: argparse.Namespace, config: settings.Config) -> int:
    """Make the image, and print what names it."""
    launch.refuse_root()
    where = saving.target(arguments.target, config, names.directory())
    if where.ref is None:
        raise errors.UsageError(
            f"{arguments.target}: is no place for an image",
            hint="write oci:PATH[:TAG] or docker://REFERENCE",
        )
    store, progress = layout.open_store(config), run_verb.progress(arguments.target)
    if arguments.file.endswith(_TARS):
        path = names.parse(f"dir:{arguments.file}", config).repository
        print(saving.save_archive(path, where.ref, config, store, progress))
        return 0
    text = arguments.file if "/" in arguments.file else f"./{arguments.file}"
    ref = names.parse(text, config)
    if ref.transport != reference.PATH or saving.has_layers(ref):
        raise errors.UsageError(f"{ref}: is an image already", hint="copy it with fairlead push")
    root = saving.of_image(ref, config, store)
    print(saving.save(root, where, config, store, progress))
    return 0
