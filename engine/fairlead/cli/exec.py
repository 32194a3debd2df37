"""Run a command in a container of yours that is running on this node.

The command gets the container's files, mounts and environment, and becomes this process: signals,
exit status and terminal are its own. It is no part of the container's job step; under Slurm use
srun --overlap --jobid=JOB fairlead exec ... to be counted there.
"""

from __future__ import annotations

import argparse
import os
import signal

from fairlead import config as settings
from fairlead import errors
from fairlead.cli import words
from fairlead.host import running
from fairlead.plan import request as launch
from fairlead.run import block, namespace
from fairlead.run import launch as launching

EPILOG = """\
examples:
  fairlead exec 12345 ps
  fairlead exec -it devel bash
  srun --overlap --jobid=77 fairlead exec 77.0 cat /etc/os-release
"""
# Connections that the process had and that this one has not.
_NOT_OURS = ("PMI_FD", "_FAIRLEAD_ENTER", "_FAIRLEAD_COMMAND")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add(
        "-e",
        "--env",
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="set a variable, or keep this shell's",
    )
    add("-w", "--workdir", metavar="DIR", help="working directory inside (default: the process's)")
    add("-i", "--interactive", action="store_true", help="accepted as by podman")
    add("-t", "--tty", action="store_true", help="accepted as by podman")
    add(
        "container",
        metavar="PID|NAME|JOB.STEP",
        help="a process in it, its name, or the step that runs it",
    )
    add("command", nargs=argparse.REMAINDER, metavar="COMMAND [ARG...]", help="what to run")


def run(arguments: argparse.Namespace, config: settings.Config) -> int:
    """Become the command. Returns only by raising."""
    launching.refuse_root()
    command = tuple(arguments.command)
    command = command[1:] if command[:1] == ("--",) else command
    if not command:
        raise errors.UsageError("exec: no command", hint="name one after the container")
    asked = words.variables((), arguments.env, os.environ)
    launch.check(launch.Request("", command, {}, "", workdir=arguments.workdir, variables=asked))
    job = os.environ.get("SLURM_JOB_ID", "")
    process = running.open_process(running.find(arguments.container, running.all_of(), job))
    term = os.environ.get("TERM")
    kept = {"TERM": term} if term else {}
    environ = {k: v for k, v in process.environ.items() if k not in _NOT_OURS} | kept | dict(asked)
    entry = block.compile_entry(arguments.workdir or process.cwd)
    namespace.join(process.fds)
    os.environ.clear()
    os.environ.update(environ)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    namespace.execute(entry, command)
