"""Which jobs Slurm knows: the one module that asks it, in the way that this site's release answers.

Who ran which image stands in Slurm's own Container field (21.08 and later), since each job and step
is created with ``NAME:TAG@DIGEST`` as its label. It is read, in this order, by

    pyslurm    where it can be imported and is of the site's release, which its ABI asks for
    sacct      its columns; --json leaves out the container of a step (22.05 and 24.11 do)
    squeue     its columns, where nothing is accounted: what is known now

Rules:
- A label may be anybody's text: columns are told apart by a word that is made up for each question,
  so that no label can look like another column or another line.
- What cannot be had is said; there is no answer that only looks complete.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from fairlead import errors
from fairlead.host import slurm

_PATIENCE_S = 10.0
_LONG_S = 120.0  # of a database with many jobs
_DISABLED = "accounting storage is disabled"
_WIDTH = 1000  # squeue cuts off what is longer


class Ran(NamedTuple):
    """A job or a step that was given an image.

    Attributes:
        job: as Slurm writes it, of an array with its task: "12", "12_3".
        step: "0", "batch"; empty: the job as a whole.
        user, state: names.
        start, end: seconds since the epoch; 0: not yet, or not known.
        nodes: as a list of Slurm's.
        image: the label.
    """

    job: str
    step: str
    user: str
    state: str
    start: int
    end: int
    nodes: str
    image: str


class Answer(NamedTuple):
    """What is known, and by which of the ways above."""

    way: str
    ran: tuple[Ran, ...]


def ran(since: int, user: str = "", environ: Mapping[str, str] = os.environ) -> Answer:
    """Return what ran in an image since a time, as far as Slurm tells it to the calling user.

    Args:
        since: seconds since the epoch.
        user: whose jobs; empty: everybody's.
        environ: with PATH and SLURM_CONF.

    Raises:
        errors.SlurmError: Slurm does not answer, or its release keeps no containers.
    """
    release = _release(environ)
    module = _pyslurm(release)
    if module is not None:
        return Answer("pyslurm", _used(_by_pyslurm(module, since, user)))
    found = _by_sacct(since, user, environ)
    if found is not None:
        return Answer("sacct", _used(found))
    return Answer("squeue", _used(_by_squeue(user, environ)))


def living(environ: Mapping[str, str] = os.environ) -> frozenset[int] | None:
    """Return the jobs that have not ended, by their number; None if Slurm does not answer.

    Those of the whole cluster: a job that waits for another node may come back to this one. What
    runs on this node counts even if the controller has forgotten it. An array lives as long as one
    of its tasks does.
    """
    conf, _ = slurm.configuration(environ)
    if os.geteuid() != 0 and "jobs" in slurm.setting(conf, "PrivateData").lower():
        return None  # others' jobs are hidden from us, and would look dead
    words = ("squeue", "--all", "--noheader", "--array", "--format=%A %F")
    status, text, _ = _run(words, environ, _PATIENCE_S)
    if status != 0 or not all(word.isdigit() for word in text.split()):
        return None
    return frozenset(map(int, text.split())) | _steps_here()


def _steps_here() -> frozenset[int]:
    # slurmstepd calls itself "slurmstepd: [JOB.STEP]". Source: Slurm's slurmstepd.c.
    import psutil

    found = set()
    for process in psutil.process_iter(["cmdline"]):
        words = " ".join(process.info["cmdline"] or ())
        if words.startswith("slurmstepd: ["):
            job = words.partition("[")[2].partition(".")[0]
            if job.isdecimal():
                found.add(int(job))
    return frozenset(found)


# -- asking ----------------------------------------------------------------------------------------


def _run(
    words: tuple[str, ...], environ: Mapping[str, str], patience_s: float
) -> tuple[int, str, str]:
    """Return exit status, output and the last line of what else was said; 127: no such program."""
    import shutil
    import subprocess

    program = shutil.which(words[0], path=environ.get("PATH"))
    if program is None:
        return 127, "", f"{words[0]} is not installed here"
    # Times as seconds since the epoch.
    asked = {**environ, "SLURM_TIME_FORMAT": "%s"}
    try:
        done = subprocess.run(
            [program, *words[1:]], check=False, capture_output=True, timeout=patience_s, env=asked
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        said = error.strerror if isinstance(error, OSError) else f"no answer in {patience_s:.0f} s"
        return 127, "", f"{words[0]}: {said}"
    said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
    return done.returncode, done.stdout.decode(errors="replace"), said


def _release(environ: Mapping[str, str]) -> tuple[int, int]:
    status, text, said = _run(("sacct", "--version"), environ, _PATIENCE_S)
    found = re.search(r"(\d+)\.(\d+)", text)
    if status != 0 or found is None:
        raise errors.SlurmError(
            said or "sacct does not say its release", hint="ask on a node of it"
        )
    return int(found[1]), int(found[2])


def _by_sacct(since: int, user: str, environ: Mapping[str, str]) -> Iterator[Ran] | None:
    """Return what sacct knows, None if nothing is accounted here."""
    mark, names = _mark(), ("JobID", "User", "State", "Start", "End", "Container", "NodeList")
    words = (
        *("sacct", "--parsable2", "--noheader", f"--delimiter={mark}"),
        "--duplicates",  # a job that was requeued ran as often as it says
        f"--format={','.join(names)}",
        time.strftime("--starttime=%Y-%m-%dT%H:%M:%S", time.localtime(since)),
        f"--user={user}" if user else "--allusers",
    )
    status, text, said = _run(words, environ, _LONG_S)
    if status == 0:
        return _from_columns(text, mark, len(names))
    if _DISABLED in said:
        return None
    hint = "Slurm keeps containers from 21.08 on" if "Container" in said else "see sacct"
    raise errors.SlurmError(said or f"sacct ended with status {status}", hint=hint)


def _by_squeue(user: str, environ: Mapping[str, str]) -> Iterator[Ran]:
    whose = (f"--user={user}",) if user else ()
    of_jobs = ("jobarrayid", "username", "state", "starttime", "container", "nodelist")
    of_steps = ("stepid", "username", "starttime", "container", "nodes")
    for names, kind in ((of_jobs, ()), (of_steps, ("--steps",))):
        mark = _mark()
        form = ",".join(f"{name}:{_WIDTH}{mark}" for name in names)
        words = ("squeue", "--all", "--noheader", "--array", *kind, *whose, f"--Format={form}")
        status, text, said = _run(words, environ, _PATIENCE_S)
        if status != 0:
            raise errors.SlurmError(said or f"squeue ended with status {status}")
        for cells in _rows(text, mark, len(names) + 1):
            if kind:
                cells.insert(2, "RUNNING")
            cells.insert(4, "")  # squeue's end is the limit of its time
            yield _ran(*cells[:7])


def _mark() -> str:
    return f"|{os.urandom(12).hex()}|"


# -- understanding ---------------------------------------------------------------------------------


def _rows(text: str, mark: str, count: int) -> Iterator[list[str]]:
    """Yield the columns of each line; a line break within one but the last is part of it."""
    before = ""
    for line in text.split("\n"):
        cells = (before + line).split(mark)
        if len(cells) < count:
            before += f"{line}\n" if before or line else ""
            continue
        before = ""
        yield [cell.strip() for cell in cells]


def _from_columns(text: str, mark: str, count: int) -> Iterator[Ran]:
    user = ""
    for cells in _rows(text, mark, count):
        user = cells[1] = (
            cells[1] or user
        )  # stands in the job's line, which comes before its steps'
        yield _ran(*cells)


def _ran(name: str, user: str, state: str, start: str, end: str, image: str, nodes: str) -> Ran:
    job, _, step = name.partition(".")
    return Ran(job, step, user, state, _seconds(start), _seconds(end), nodes, image)


def _seconds(text: object) -> int:
    return int(str(text)) if str(text).isdecimal() else 0


def _used(found: Iterator[Ran]) -> tuple[Ran, ...]:
    """Return the steps that were given an image, and the jobs of which no such step is known.

    The label of a job is its batch script's, too, wherever that runs.
    """
    labelled = [item for item in found if item.image not in {"", "none", "(null)", "N/A"}]
    steps = [item for item in labelled if item.step.isdecimal()]
    known = {item.job for item in steps}
    whole = [item for item in labelled if not item.step and item.job not in known]
    return tuple(sorted((*steps, *whole), key=_order))


def _order(item: Ran) -> tuple[int, int, str]:
    return item.start or 1 << 62, int(item.step or 0), item.job


# -- pyslurm ---------------------------------------------------------------------------------------


def _pyslurm(release: tuple[int, int]) -> Any:
    """Return the module, None where there is none or it is of another release."""
    import importlib.util

    if importlib.util.find_spec("pyslurm") is None:
        return None
    try:
        import pyslurm
    except ImportError:  # of another libslurm
        return None
    found = re.match(r"(\d+)\.(\d+)", str(getattr(pyslurm, "__version__", "")))
    fits = found is not None and (int(found[1]), int(found[2])) == release
    return pyslurm if fits and hasattr(pyslurm, "db") else None


def _by_pyslurm(module: Any, since: int, user: str) -> Iterator[Ran]:
    whose = {"users": [user]} if user else {}
    try:
        answer = module.db.Jobs.load(module.db.JobFilter(start_time=since, **whose))
    except module.RPCError as error:
        raise errors.SlurmError(f"pyslurm: {error}") from error
    for job in answer.values():
        # Task 0 is None there, too. Source: pyslurm 22.5.3.
        name = f"{job.array_id}_{job.array_task_id or 0}" if job.array_id else str(job.id)
        yield _of_pyslurm(job, name, "", job.user_name, job.nodelist)
        for step in job.steps.values():
            yield _of_pyslurm(step, name, str(step.id), job.user_name, job.nodelist)


def _of_pyslurm(entry: Any, job: str, step: str, user: str, nodes: str) -> Ran:
    image = entry.container or ""
    image = image if isinstance(image, str) else ",".join(image)
    times = (_seconds(entry.start_time or 0), _seconds(entry.end_time or 0))
    return Ran(job, step, user or "", entry.state or "", *times, nodes or "", image)
