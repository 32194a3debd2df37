"""The ``fairlead`` command: find the verb, parse, run, turn an error into one line.

A verb is a module of this package with ``add_arguments(parser)`` and ``run(arguments, config) ->
int``; it is imported only when it is called, so that ``fairlead run`` pays for nothing but itself.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from typing import Any, NoReturn

import fairlead
from fairlead import config as settings
from fairlead import errors, log

VERBS = {
    "run": "run a command in a container, as yourself",
    "pull": "fetch an image into the store of this node",
    "images": "list the images in the store",
    "rm": "remove images from the store",
    "store": "list, check and clean the store",
    "doctor": "say what works on this node, what does not, and why",
    "inspect": "show an image's configuration and layers",
    "slurm-run": "run a step's task where Slurm starts it, by oci.conf",
    "plan": "show what a launch would do, and why, without doing it",
    "edf": "check and show environment files (EDF)",
    "ps": "list your running containers on this node",
    "jobs": "show who ran which image, by what Slurm has kept",
    "exec": "run a command in a running container",
    "commit": "save a named container as an image or a file",
    "push": "copy an image to a registry or an OCI layout",
    "export": "write a root file system to a squashfs or tar file",
    "import": "make an image of a root file system",
    "bundle": "write a launch as an OCI bundle for crun, runc and youki",
    "login": "log in to a registry",
    "logout": "forget the login of a registry",
    "completion": "print the completion script of bash, zsh or fish",
    "config": "show every setting with its value and origin, or check the files",
    "migrate": "say what a script or configuration of another engine becomes",
    "mpi": "show the host's MPI, an image's, and whose will run",
}

EPILOG = """\
An image is named as everywhere: [REGISTRY/]NAME[:TAG][@sha256:...], e.g. ubuntu:24.04, or
REGISTRY#NAME. Images on this machine: the PATH of a squashfs or SIF file or of a root directory,
oci:PATH[:TAG], oci-archive:PATH[:TAG], docker-archive:PATH[:NAME], containers-storage:NAME,
dockerd://NAME.
An environment file names image, mounts and variables: PATH.toml, or edf:NAME (see fairlead edf).
Under Slurm: srun --container=IMAGE ./app (see srun --help).
Settings: /etc/fairlead/fairlead.toml and fairlead.d/*.toml, ~/.config/fairlead/fairlead.toml,
FAIRLEAD_* variables; fairlead config shows them.
Exit status: the command's own; 125 when Fairlead fails, 126 and 127 when the command cannot be run
or found.
"""


class _Parser(argparse.ArgumentParser):
    """argparse with our one-line errors and exit status 125."""

    def error(self, message: str) -> NoReturn:
        raise errors.UsageError(message, hint=f"see {self.prog} --help")


def _module(verb: str) -> Any:
    # No module can be called as a keyword of the language is, or hold a hyphen.
    name = "import_" if verb == "import" else verb.replace("-", "_")
    return importlib.import_module(f"fairlead.cli.{name}")


def description(verb: str) -> str:
    """Return what a verb's module says of itself."""
    return _module(verb).__doc__ or ""


def parser_for(verb: str) -> argparse.ArgumentParser:
    """Return the parser of one verb."""
    module = _module(verb)
    parser = _Parser(
        prog=f"fairlead {verb}",
        description=description(verb).split("\n\n")[0],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=getattr(module, "EPILOG", None),
    )
    parser.add_argument(
        "--verbose", action="store_true", help="say what is done, for error reports"
    )
    module.add_arguments(parser)
    return parser


def _usage() -> str:
    lines = [
        "usage: fairlead VERB ...",
        "",
        "Runs OCI containers at native speed, with nothing left running.",
        "",
    ]
    lines += [f"  {name:<9} {text}" for name, text in VERBS.items()]
    return "\n".join([*lines, "", "fairlead VERB --help says more.", "", EPILOG])


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_usage(), end="")
        return 0 if argv else errors.UsageError.status
    if argv[0] in ("-V", "--version"):
        print(f"fairlead {fairlead.__version__}")
        return 0
    verb = argv[0]
    if verb not in VERBS:
        import difflib

        near = difflib.get_close_matches(verb, VERBS, 1)
        hint = f"did you mean fairlead {near[0]}?" if near else f"verbs: {', '.join(VERBS)}"
        raise errors.UsageError(f"unknown verb {verb!r}", hint=hint)
    arguments = parser_for(verb).parse_args(argv[1:])
    if arguments.verbose:
        log.set_verbose(True)
    module = _module(verb)
    status: int = module.run(arguments, settings.load())
    return status


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    try:
        return _dispatch(sys.argv[1:] if argv is None else argv)
    except errors.Error as error:
        log.error(error)
        return error.status
    except KeyboardInterrupt:
        log.note("interrupted")
        return 130
    except BrokenPipeError:  # | head
        return 0
    except Exception as error:  # noqa: BLE001 - the edge; a traceback would read files of the image
        place = error.__traceback__
        while place and place.tb_next:
            place = place.tb_next
        where = f"{place.tb_frame.f_code.co_name}:{place.tb_lineno}" if place else "?"
        failure = errors.Error(f"{type(error).__name__}: {error} (at {where})")
        log.error(failure)
        return failure.status


if __name__ == "__main__":
    sys.exit(main())
