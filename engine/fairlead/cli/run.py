"""Run a command in a container, as yourself: no daemon, no privilege, no further process.

The process that you start becomes the command: signals, exit status, terminal and resource limits
are its own. Home, the working directory, /tmp and /dev/shm are the host's; the image's root is
writable in memory and forgotten at the end.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal

from fairlead import config as settings
from fairlead import log
from fairlead.cli import names, words
from fairlead.host import running, witness
from fairlead.image import reference
from fairlead.plan import longmount, pyxis
from fairlead.plan import request as launch
from fairlead.run import block, namespace, proof, upper
from fairlead.run import launch as prepare

EPILOG = """\
examples:
  fairlead run debian:12 cat /etc/os-release
  fairlead run -v /scratch:/data:ro -e OMP_NUM_THREADS=4 registry.example.org/sim:2 -- ./solve
  input.dat fairlead run -it ubuntu bash
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_options(parser)
    parser.add_argument(
        "-n",
        "--name",
        default="",
        metavar="NAME[:MODE]",
        help="keep what is written to the root for the next container of this name; "
        "MODE: auto (default), create, exec, no_exec",
    )
    parser.add_argument(
        "--environment",
        "--edf",
        metavar="NAME|PATH",
        help="environment file (EDF) that names image, mounts and variables; all words that follow "
        "are the command (for the image's own: fairlead run edf:NAME)",
    )
    parser.add_argument(
        "reference", metavar="IMAGE", help="image reference, or an environment file (x.toml)"
    )
    add_command(parser)


def add_command(parser: argparse.ArgumentParser) -> None:
    """Declare the words of the command."""
    parser.add_argument(
        "command",
        nargs=argparse.REMAINDER,
        metavar="COMMAND [ARG...]",
        help="default: the image's own",
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare what says how to launch."""
    add = parser.add_argument
    parser.set_defaults(environment=None)
    words.add_arguments(parser)
    add("-w", "--workdir", metavar="DIR", help="working directory inside")
    add("--entrypoint", metavar="COMMAND", help="replace the image's entrypoint; empty: none")
    add("--mpi", choices=launch.MPI_MODES, help="whose MPI library runs (default: auto)")
    add("--mpi-profile", metavar="NAME", help="which of the host's MPI (fairlead mpi list)")
    add(
        "--pull",
        choices=("always", "newer", "missing", "never"),
        help="when to ask the registry (default: missing)",
    )
    add("--read-only", action="store_true", help="let nothing write to the container's root")
    add("--no-home", action="store_true", help="do not bind the home directory")
    add("--slurm", action="store_true", help="bring Slurm's client programs (srun, sbatch...)")
    add(
        "-i",
        "--interactive",
        action="store_true",
        help="accepted as by podman; stdin is always the command's",
    )
    add(
        "-t",
        "--tty",
        action="store_true",
        help="accepted as by podman; the terminal is always the command's",
    )
    add("--rm", action="store_true", help="accepted as by podman; nothing is ever left behind")


def launch_from(
    arguments: argparse.Namespace, config: settings.Config
) -> tuple[launch.Request, settings.Config]:
    """Return the request for a command line, and the settings with its options on top."""
    config = _configured(arguments, config)
    name = arguments.environment
    if name is None:
        name = reference.environment(arguments.reference)
        arguments.reference = "" if name is not None else arguments.reference
    else:
        arguments.command = [arguments.reference, *arguments.command]
        arguments.reference = ""
    request = _request(arguments, config)
    if name is None:
        return request, config
    from fairlead.run import environment

    options = {"workdir": arguments.workdir, "entrypoint": arguments.entrypoint}
    told = frozenset(key for key, value in options.items() if value is not None)
    request, config = environment.applied(request, config, name, told)
    return launch.check(request), config


def _request(arguments: argparse.Namespace, config: settings.Config) -> launch.Request:
    """Return what the words of a command line ask for."""
    words.refuse(arguments)
    environ = witness.Environment(os.environ)
    command = tuple(arguments.command)
    if command[:1] == ("--",):
        command = command[1:]
    entrypoint = None if arguments.entrypoint is None else tuple(shlex.split(arguments.entrypoint))
    cwd = names.directory()
    return launch.check(
        launch.Request(
            reference=arguments.reference,
            command=command,
            environ=environ,
            cwd=cwd,
            workdir=arguments.workdir,
            use_entrypoint=True,
            entrypoint=entrypoint,
            mpi=config.mpi,
            variables=words.variables(arguments.env_file, arguments.env, environ),
            volumes=(
                *(words.volume(text, cwd) for text in arguments.volume),
                *(words.tmpfs(text) for text in arguments.tmpfs),
                *(longmount.parse(text, cwd) for text in arguments.mount),
            ),
            devices=tuple(arguments.device),
            gpu=arguments.gpu or "",
            annotations=tuple(words.annotation(text) for text in arguments.annotation),
            mount_home=config.mount_home,
            writable=config.writable,
            upper=config.upper,
            upper_size=config.upper_size,
            slurm_inside=config.slurm_inside,
            name=pyxis.container_name(getattr(arguments, "name", ""), "--name"),
        )
    )


def _configured(arguments: argparse.Namespace, config: settings.Config) -> settings.Config:
    """Return the settings with the command line's on top.

    Outside Slurm a local image is used without asking the registry, as podman does.
    """
    usual = config.origins["pull"] == "default" and "pull" not in config.locked
    pull = arguments.pull or ("missing" if usual else None)
    return config.override(
        settings.COMMAND_LINE,
        pull=pull,
        mpi=arguments.mpi or ("host" if arguments.mpi_type else None),
        mpi_profile=arguments.mpi_profile or arguments.mpi_type,
        writable=False if arguments.read_only else None,
        mount_home=False if arguments.no_home else None,
        slurm_inside=True if arguments.slurm else None,
    )


def run(arguments: argparse.Namespace, config: settings.Config) -> int:
    """Become the command. Returns only by raising."""
    _restore_locale()
    key = _key()
    start = None
    if key and not arguments.env_file:  # what such a file said is in no basis
        from fairlead.run import basis, keep

        start = basis.begin(os.environ)
        config = settings.load()  # once more, now that its files were looked at
    request, config = launch_from(arguments, config)
    if not request.name:
        upper.check(request, broker=-1)
    ready = prepare.prepare(request, config, progress(request.reference))
    pending = keep.begin(key, start, ready, request, config) if start else None
    plan = ready.plan
    launch_block = block.compile_plan(plan)
    if ready.named and ready.named.joins:
        namespace.join(running.open_process(ready.named.joins).fds)
        proven = proof.Proven()
    else:
        found = prepare.hooks(ready, request)
        if found and found.after:
            from fairlead.run import after

            after.stay(found.after)
        namespace.enter(launch_block, hooks=found.around if found else None)
        proven = proof.prove(plan, launch_block)
    for note in (*plan.notes, *proven.notes):
        log.note(note)
    if pending:
        keep.publish(pending, proven)
    # Python ignores these two; the command must start with the defaults.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    namespace.execute(launch_block, plan.command)


def _restore_locale() -> None:
    """Take LC_CTYPE out of the environment if this interpreter put it there (PEP 538).

    The command must not see another locale for having been started by Python.
    """
    try:
        with open("/proc/self/environ", "rb") as file:
            given = file.read()
    except OSError:
        return
    if b"\0LC_CTYPE=" not in b"\0" + given:
        os.environ.pop("LC_CTYPE", None)


def _key() -> bytes:
    """Return the key under which this launch may be kept; empty: not (``spank_shim/front.c``)."""
    text = os.environ.pop("_FAIRLEAD_KEY", "")
    try:
        if not os.readlink(f"/proc/self/fd/{int(text)}").startswith("/memfd:fairlead-key"):
            return b""
        with open(int(text), "rb") as file:
            return file.read()
    except (OSError, ValueError):  # not from us
        return b""


def progress(reference: str, doing: str = "pulling") -> log.Progress:
    """Return who shows how far an image is."""
    if not log.main_stream_is_terminal():
        return log.QuietProgress(f"{doing} {reference}")
    from fairlead.cli import lazy_progress

    return lazy_progress.LazyProgress(reference)
