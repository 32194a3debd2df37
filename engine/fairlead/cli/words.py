"""What the options of ``run`` say, as values of a request: podman's syntax.

Nothing here decides whether a path may be used: ``plan.request.check`` does.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Mapping

from fairlead import errors
from fairlead.plan import request as launch

_MAX_FILE = 1 << 20
_SIZES = ("size", "nr_inodes")
_TMPFS_FLAGS = ("rw", "nosuid", "nodev", "exec")  # what each one is anyway


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options that are parsed here."""
    add = parser.add_argument
    add(
        "-e",
        "--env",
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="set a variable, or keep the host's",
    )
    add(
        "-v",
        "--volume",
        action="append",
        default=[],
        metavar="SRC[:DST[:ro]]",
        help="bind a host file or directory",
    )
    add(
        "--env-file",
        action="append",
        default=[],
        metavar="FILE",
        help="set the variables that FILE lists, as --env would; --env wins",
    )
    add(
        "--tmpfs",
        action="append",
        default=[],
        metavar="DIR[:OPTIONS]",
        help="an empty directory in memory, e.g. /scratch:size=1g,mode=700",
    )
    add(
        "--mount",
        action="append",
        default=[],
        metavar="KEY=VALUE,...",
        help="the same in the long syntax: type=bind,source=SRC,destination=DST[,readonly], or "
        "type=tmpfs,destination=DST",
    )
    add(
        "--device",
        action="append",
        default=[],
        metavar="DEVICE",
        help="HOST[:CONTAINER][:rwm], or a CDI device as vendor.com/class=name",
    )
    add("--gpu", choices=launch.GPU_MODES, help="which GPUs it gets (default: auto, the job's)")
    add(
        "--annotation",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="by which the site's hooks may be chosen",
    )
    _add_sarus(add)


def _add_sarus(add: Callable[..., object]) -> None:
    """Declare what scripts for Sarus say and nothing else needs."""
    add("-m", dest="mpi", action="store_const", const="host", help="as Sarus: --mpi=host")
    add("--mpi-type", metavar="NAME", help="as Sarus: --mpi=host --mpi-profile=NAME")
    add("--glibc", action="store_true", help="accepted as by Sarus; done whenever it is needed")
    add("--init", action="store_true", help="accepted as by podman; orphans are the host's init's")
    add("--pid", metavar="host", help="accepted as by podman; ranks share the host's pid namespace")
    add("--ssh", action="store_true", help="refused: nothing listens in a container")


def refuse(arguments: argparse.Namespace) -> None:
    """Raise for what is known and cannot be had.

    Raises:
        errors.UsageError
    """
    if arguments.ssh:
        raise errors.UsageError(
            "--ssh: nothing listens in a container", hint="use srun --overlap, or fairlead exec"
        )
    if arguments.pid not in (None, "host"):
        raise errors.UsageError(
            f"--pid={arguments.pid}: ranks need the host's pid namespace", hint="leave it out"
        )


def variables(
    files: Iterable[str], texts: Iterable[str], environ: Mapping[str, str]
) -> tuple[tuple[str, str], ...]:
    """Return what ``--env-file`` and ``--env`` set, one value for each name.

    Raises:
        errors.UsageError: a file cannot be read or holds a malformed line, or a variable is not
            set on the host.
    """
    found: dict[str, str] = {}
    for path in files:
        found.update(_env_file(path, environ))
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator and name not in environ:
            raise errors.UsageError(f"--env {name}: not set on the host", hint="write NAME=VALUE")
        found.pop(name, None)  # the last one counts, and stands last
        found[name] = value if separator else environ[name]
    return tuple(found.items())


def _env_file(path: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables in a file: NAME=VALUE to the end of the line, NAME from the host.

    Source: podman-run(1) ``--env-file``; docker's: no quoting, ``#`` starts a comment only at the
    line's begin, a NAME that the host has not is left out.
    """
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            text = file.read(_MAX_FILE + 1)
    except OSError as error:
        raise errors.UsageError(
            f"--env-file {path}: {error.strerror}", hint="check the path"
        ) from error
    if len(text) > _MAX_FILE:
        raise errors.UsageError(f"--env-file {path}: is larger than {_MAX_FILE} bytes")
    found: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), 1):
        plain = line.lstrip().removesuffix("\r")
        if not plain or plain.startswith("#"):
            continue
        name, separator, value = plain.partition("=")
        if not name or any(char.isspace() or char == "\0" for char in name) or "\0" in value:
            raise errors.UsageError(
                f"--env-file {path}:{number}: {plain[:80]!r} sets no variable",
                hint="write NAME=VALUE or NAME, one in a line",
            )
        if separator or name in environ:
            found[name] = value if separator else environ[name]
    return found


def annotation(text: str) -> tuple[str, str]:
    """Return what ``--annotation`` says.

    Raises:
        errors.UsageError: it is malformed.
    """
    name, separator, value = text.partition("=")
    if not separator:
        raise errors.UsageError(f"--annotation {text!r}: no value", hint="write NAME=VALUE")
    return name, value


def volume(text: str, cwd: str) -> launch.Volume:
    """Return the bind that ``--volume`` asks for.

    Raises:
        errors.UsageError: it is malformed.
    """
    source, _, rest = text.partition(":")
    destination, _, options = rest.partition(":")
    if options not in ("", "ro", "rw"):
        raise errors.UsageError(
            f"--volume {text}: option {options!r} is neither ro nor rw", hint="write SRC[:DST[:ro]]"
        )
    if not source:
        raise errors.UsageError(f"--volume {text!r}: no source", hint="write SRC[:DST[:ro]]")
    source = os.path.normpath(os.path.join(cwd or "/", source))
    return launch.Volume(source, destination or source, (options,) if options else ())


def tmpfs(text: str) -> launch.Volume:
    """Return the empty directory in memory that ``--tmpfs`` asks for.

    Raises:
        errors.UsageError: an option is unknown or malformed.
    """
    destination, _, listed = text.partition(":")
    flags = []
    for option in filter(None, listed.split(",")):
        key, separator, value = option.partition("=")
        if not separator and key in _TMPFS_FLAGS:
            continue
        if separator and (_is_size(key, value) or _is_mode(key, value)):
            flags.append(option)
            continue
        raise errors.UsageError(
            f"--tmpfs {text}: option {option!r} is none of size=, nr_inodes=, mode=",
            hint="write DIR[:size=1g,mode=700]",
        )
    if not any(flag.startswith("mode=") for flag in flags):
        flags.append("mode=1777")
    return launch.Volume("tmpfs", destination, tuple(flags), "tmpfs", "--tmpfs")


def _is_size(key: str, value: str) -> bool:
    number = value[:-1] if value[-1:] in set("kKmMgG%") else value
    return key in _SIZES and number.isascii() and number.isdecimal() and len(number) < 16


def _is_mode(key: str, value: str) -> bool:
    return key == "mode" and 3 <= len(value) <= 4 and set(value) <= set("01234567")
