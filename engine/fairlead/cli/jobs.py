"""Show who ran which image: jobs and steps, by what Slurm has kept of them.

WHAT is a digest (sha256:..., or its beginning), a NAME, a NAME:TAG or a path; of a name its end is
enough: small means registry/demo/small, too. Without it every image is shown.

Slurm tells what you may see: your own jobs, or everybody's. Where nothing is accounted, only what
is known now is shown, and a line says so.
"""

from __future__ import annotations

import argparse
import json
import re
import time

from fairlead import config as settings
from fairlead import errors, log
from fairlead.cli import columns
from fairlead.host import jobs

EPILOG = """\
examples:
  fairlead jobs                                 the last seven days
  fairlead jobs --since=90d sha256:fc2a70c07b67
  fairlead jobs --user=ada --since=2026-11-01 pytorch:24.01
"""
_COLUMNS = ("JOB.STEP", "USER", "STATE", "START", "END", "NODES", "IMAGE")
_UNITS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_FORMS = ("%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("what", metavar="WHAT", nargs="?", default="", help="digest or name")
    parser.add_argument("--user", metavar="NAME", default="", help="only this user's")
    parser.add_argument(
        "--since",
        metavar="TIME",
        default="7d",
        help="what ended after it, or still runs: a number of m, h, d, w, or YYYY-MM-DD[THH:MM] "
        "(default: 7d)",
    )
    parser.add_argument("--json", action="store_true", help="everything known, as JSON")


def run(arguments: argparse.Namespace, config: settings.Config) -> int:
    """Print one line for each job or step."""
    if arguments.user and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.@\\-]*\$?", arguments.user):
        raise errors.UsageError(f"--user={arguments.user}: not the name of a user")
    answer = jobs.ran(since(arguments.since), arguments.user)
    if answer.way == "squeue":
        log.note("Slurm keeps no accounting here: only jobs that it knows now are shown")
    found = [item for item in answer.ran if means(arguments.what, item.image)]
    if arguments.json:
        print(json.dumps([entry(item) for item in found], indent=2))
        return 0
    for line in columns.lines(_COLUMNS, (_row(item) for item in found)):
        print(line)
    return 0


def since(text: str) -> int:
    """Return the time that --since means, in seconds since the epoch.

    Raises:
        errors.UsageError: it is none.
    """
    if text[-1:] in _UNITS and text[:-1].isascii() and text[:-1].isdecimal() and len(text) < 8:
        return int(time.time()) - int(text[:-1]) * _UNITS[text[-1]]
    for form in _FORMS:
        try:
            when = int(time.mktime(time.strptime(text, form)))
        except (ValueError, OverflowError):
            continue
        if when <= time.time():
            return when
    raise errors.UsageError(
        f"--since={text}: not a time that has been",
        hint="write 12h, 7d, 2026-11-01 or 2026-11-01T12:30",
    )


def means(what: str, image: str) -> bool:
    """Tell whether a digest, a name or a path means an image, as its label is written."""
    name, _, digest = image.partition("@")
    if what.startswith(("sha256:", "sha512:")):
        return digest.startswith(what)
    asked, _, wanted = what.partition("@")
    if not _tag(asked):
        name = name.removesuffix(_tag(name))
    return digest.startswith(wanted) and (asked in {"", name} or name.endswith(f"/{asked}"))


def _tag(name: str) -> str:
    """Return ``:TAG`` of a name; a colon before the last slash is a port's."""
    _, colon, tag = name.rpartition("/")[2].partition(":")
    return colon + tag


def entry(item: jobs.Ran) -> dict[str, object]:
    """Return what is known of a job or step, for JSON; the digest apart from the name."""
    name, _, digest = item.image.partition("@")
    return {
        "job": item.job,
        "step": item.step,
        "user": item.user,
        "state": item.state,
        "start": _time(item.start),
        "end": _time(item.end),
        "nodes": item.nodes,
        "image": name,
        "digest": digest,
    }


def _row(item: jobs.Ran) -> tuple[str, ...]:
    name, _, digest = item.image.partition("@")
    kind, _, value = digest.partition(":")
    image = f"{name}@{kind}:{value[:12]}" if value else name
    step = f"{item.job}.{item.step}" if item.step else item.job
    cells = (step, item.user, item.state, _time(item.start), _time(item.end), item.nodes, image)
    return tuple(errors.one_line(cell) for cell in cells)


def _time(when: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when)) if when else ""
