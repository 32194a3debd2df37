"""Write a launch as an OCI bundle, which crun, runc and youki run: ``crun run -b DIR NAME``.

DIR gets the image's files, with the host's MPI where a launch would inject it, and the same mounts
and variables as ``fairlead plan`` shows, in config.json. It is for this user and this node. The
host's PMIx is in it only inside the job whose it is.
"""

from __future__ import annotations

import argparse
import json
import os

from fairlead import config as settings
from fairlead import errors, kernel, log, sinks
from fairlead.cli import run as run_verb
from fairlead.plan import oci
from fairlead.plan import plan as launch_plan
from fairlead.run import launch, view
from fairlead.store import layertar

EPILOG = """\
examples:
  fairlead bundle debian:12 ./box cat /etc/os-release && crun run -b ./box box
  fairlead bundle --tmpfs /scratch registry.example.org/sim:2 ./sim -- ./solve input.dat
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options: those of ``run``, with the directory before the command."""
    run_verb.add_options(parser)
    parser.add_argument("reference", metavar="IMAGE", help="image reference")
    parser.add_argument("directory", metavar="DIR", help="where to write it; must not exist")
    run_verb.add_command(parser)


def run(arguments: argparse.Namespace, config: settings.Config) -> int:
    """Write the bundle; a failure leaves no half of one."""
    request, config = run_verb.launch_from(arguments, config)
    where = os.path.abspath(arguments.directory)
    if request.upper == "disk":
        raise errors.UpperError('a bundle has a root of its own: upper = "disk" has no meaning')
    try:
        os.mkdir(where)
    except OSError as error:
        raise errors.UsageError(
            f"{where}: {error.strerror}", hint="name a directory that does not exist yet"
        ) from error
    try:
        plan = launch.prepare(request, config, run_verb.progress(request.reference)).plan
        root = f"{where}/rootfs"
        os.mkdir(root, 0o755)
        view.with_rights(lambda: _fill(root, plan))
        document = oci.bundle(plan, request.environ, missing=_missing(plan))
        with open(f"{where}/config.json", "w", encoding="utf-8") as file:
            json.dump(document, file, indent=2)
    except BaseException:
        sinks.remove_tree(where)
        raise
    for note in plan.notes:
        log.note(note)
    print(where)
    return 0


def _missing(plan: launch_plan.Plan) -> frozenset[str]:
    """Return what would be mounted if it were there: another runtime would fail for it."""
    optional = (mount for mount in plan.mounts if "optional" in mount.options)
    return frozenset(mount.source for mount in optional if not os.path.exists(mount.source))


def _fill(root: str, plan: launch_plan.Plan) -> None:
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with sinks.LayerTree(fd) as tree:
            tree.begin_layer()
            layertar.whole(_Feeds(tree), plan.layers, layertar.Left(hidden=frozenset()))
            tree.end_layer()
        for mount in plan.mounts:
            if mount.type == "file":
                _write(fd, mount.destination, mount.source)
    finally:
        os.close(fd)


class _Feeds:
    """A tree of the C reader, as an archive's sink."""

    def __init__(self, tree: sinks.LayerTree) -> None:
        self._tree = tree

    def write(self, data: bytes) -> None:
        self._tree.feed(data)


def _write(root: int, path: str, text: str) -> None:
    """Write a generated file into the root; the image's own symbolic links stay inside."""
    folder, _, name = path.rpartition("/")
    try:
        _make_folders(root, folder)
        parent = kernel.open_in_root(root, folder or "/", os.O_PATH | os.O_DIRECTORY)
        try:
            try:
                os.unlink(name, dir_fd=parent)
            except FileNotFoundError:
                pass
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(os.open(name, flags, 0o644, dir_fd=parent), "wb") as file:
                file.write(os.fsencode(text))
        finally:
            os.close(parent)
    except OSError as error:
        raise errors.MountError(f"{path}: {error.strerror} (in the bundle)") from error


def _make_folders(root: int, path: str) -> None:
    made = ""
    for part in filter(None, path.split("/")):
        parent = kernel.open_in_root(root, made or "/", os.O_PATH | os.O_DIRECTORY)
        try:
            os.mkdir(part, 0o755, dir_fd=parent)
        except FileExistsError:
            pass
        finally:
            os.close(parent)
        made = f"{made}/{part}"
