"""Look at this node and say what works, what does not, and what to do about it.

Nothing is changed, and no registry is asked. Each line is ok, warn or fail; the exit status is 1 if
one of them is fail.
"""

from __future__ import annotations

import argparse
import json
import os
import platform

import fairlead
from fairlead import config as settings
from fairlead import errors
from fairlead.host import cdi, diagnosis, discover, gpu, hooks, mpi, probe
from fairlead.host.diagnosis import Item

FAILED = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--json", action="store_true", help="a JSON list, one object per line")


def run(arguments: argparse.Namespace, config: settings.Config) -> int:
    """Print the diagnosis."""
    found = (
        _versions(),
        *diagnosis.of_node(probe.node(config)),
        diagnosis.registry(config),
        diagnosis.mpi(_mpi(config)),
        diagnosis.gpus(gpu.nvidia(), gpu.render()),
        diagnosis.cdi(cdi.read(config.cdi_dirs)),
        _hooks(config),
    )
    if arguments.json:
        print(json.dumps([item._asdict() for item in found], indent=2))
    else:
        width = max(len(item.subject) for item in found)
        for item in found:
            tail = f" ({item.remedy})" if item.remedy else ""
            line = f"{item.verdict:<4}  {item.subject:<{width}}  {item.found}{tail}"
            print(errors.one_line(line))
    return FAILED if any(item.verdict == diagnosis.FAIL for item in found) else 0


def _versions() -> Item:
    text = f"fairlead {fairlead.__version__}, Python {platform.python_version()}"
    return Item("versions", diagnosis.OK, text)


def _mpi(config: settings.Config) -> tuple[str, ...]:
    # Found anew, not remembered: the memory lies in the store, and nothing is written here.
    found, _ = discover.profiles(mpi.search_places(os.environ, config.mpi_prefixes), os.environ)
    return tuple(dict.fromkeys(f"{item.name} ({item.label})" for item in found))


def _hooks(config: settings.Config) -> Item:
    try:
        return diagnosis.hooks(hooks.read(config.hooks_dirs), "")
    except errors.HookError as error:
        return diagnosis.hooks((), error.message)
