"""Run a step's task in a container where Slurm itself starts it, by oci.conf, without the plugin.

For RunTimeRun in oci.conf, Slurm 23.02 or later:

  exec /usr/local/bin/fairlead slurm-run -- '%e' '%b' %@

The node's first task makes the container, the others join it, and each becomes its command.
"""

from __future__ import annotations

import argparse
import os
import signal

from fairlead import config as settings
from fairlead import errors, log
from fairlead.cli import names
from fairlead.host import witness
from fairlead.image import reference
from fairlead.plan import request as launch
from fairlead.run import block, environment, namespace, proof, rendezvous, upper
from fairlead.run import launch as prepare

# A batch script's name, in a directory of slurmd's that is in no container.
_SCRIPT = "slurm_script"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("environ", metavar="ENVIRONMENT", help="file with the task's environment")
    parser.add_argument("reference", metavar="IMAGE", help="what --container names")
    parser.add_argument(
        "command", nargs=argparse.REMAINDER, metavar="COMMAND [ARG...]", help="what the task runs"
    )


def run(arguments: argparse.Namespace, config: settings.Config) -> int:
    """Become the task's command. Returns only by raising."""
    prepare.refuse_root()
    command = tuple(arguments.command)
    if not command:
        raise errors.UsageError("slurm-run: no command", hint="RunTimeRun ends with %@")
    environ = rendezvous.read(arguments.environ)
    place = rendezvous.task(arguments.environ, environ)
    # Some releases of Slurm start the engine with the job's environment, others do not.
    os.environ.clear()
    os.environ.update(environ)
    log.set_quiet(environ.get("SLURM_NODEID", "0") != "0")  # every node would say the same
    launch_block = _lead(place, arguments.reference, command) if place.first else _follow(place)
    # Python ignores these two; the command must start with the defaults.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    namespace.execute(launch_block, command)


def _lead(place: rendezvous.Task, name: str, command: tuple[str, ...]) -> bytes:
    """Make the node's container around this process, and wait for its other tasks."""
    fd = rendezvous.lead(place)
    try:
        launch_block = _make(name, command)
        rendezvous.show(fd, launch_block)
    except BaseException as error:
        status = error.status if isinstance(error, errors.Error) else errors.Error.status
        rendezvous.tell(fd, f"failed {status}")
        raise
    rendezvous.wait(fd, place.others)
    return launch_block


def _follow(place: rendezvous.Task) -> bytes:
    """Join the container that the first task makes; end as it did, where it could not."""
    standing = rendezvous.meet(place)
    if standing.status:
        raise SystemExit(standing.status)  # what there is to say was said
    namespace.join(standing.fds)
    return standing.block


def _make(name: str, command: tuple[str, ...]) -> bytes:
    """Make the container around this process; return its launch block."""
    request, config = _request(name, command, settings.load())
    upper.check(request, broker=-1)
    ready = prepare.prepare(request, config, log.QuietProgress(f"pulling {request.reference}"))
    found = prepare.hooks(ready, request)
    if found and found.after:
        raise errors.HookError(
            "a poststop hook applies, and by this door nobody sees the container's end",
            hint="install the plugin, or let its conditions leave these jobs out",
        )
    launch_block = block.compile_plan(ready.plan)
    namespace.enter(launch_block, hooks=found.around if found else None)
    proven = proof.prove(ready.plan, launch_block)
    for note in (*ready.plan.notes, *proven.notes):
        log.note(note)
    return launch_block


def _request(
    name: str, command: tuple[str, ...], config: settings.Config
) -> tuple[launch.Request, settings.Config]:
    """Return what the task asks for."""
    file = reference.environment(name)
    script = command[0] if os.path.basename(command[0]) == _SCRIPT else ""
    request = launch.Request(
        reference="" if file else name,
        command=command,
        environ=witness.Environment(os.environ),
        cwd=names.directory(),
        mpi=config.mpi,
        volumes=(launch.Volume(script, script, ("ro",)),) if script else (),
        mount_home=config.mount_home,
        writable=config.writable,
        upper=config.upper,
        upper_size=config.upper_size,
    )
    if file:
        request, config = environment.applied(request, config, file, frozenset())
    return launch.check(request), config
