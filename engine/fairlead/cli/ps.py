"""List your running containers on this node.

There is no daemon that would know: they are found by their processes. A container of one user is
never shown to another.
"""

from __future__ import annotations

import argparse
import json
import time

from fairlead import config as settings
from fairlead.cli import columns
from fairlead.host import running

_COLUMNS = ("PID", "IMAGE", "NAME", "JOB.STEP", "PROCESSES", "SINCE")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--json", action="store_true", help="everything known, as JSON")


def run(arguments: argparse.Namespace, config: settings.Config) -> int:
    """Print one line for each container."""
    found = running.all_of()
    if arguments.json:
        print(json.dumps([_entry(item) for item in found], indent=2))
        return 0
    for line in columns.lines(_COLUMNS, (_row(item) for item in found)):
        print(line)
    return 0


def _entry(item: running.Running) -> dict[str, object]:
    return {
        "pid": item.pid,
        "image": item.image,
        "name": item.name,
        "job": item.job,
        "step": item.step,
        "processes": item.processes,
        "since": _time(item.started),
    }


def _row(item: running.Running) -> tuple[str, ...]:
    step = f"{item.job}.{item.step}" if item.job else ""
    image = item.image.partition("@sha256:")
    short = f"{image[0]}@{image[2][:12]}" if image[1] else image[0]
    name = item.name.removeprefix("0.")
    return str(item.pid), short, name, step, str(item.processes), _time(item.started)


def _time(when: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when))
