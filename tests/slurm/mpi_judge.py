"""What the engine said of a cell of the MPI matrix, what happened, and whether the two agree (pure).

A cell is an image (suite and MPI family), an installation of the host, a program, and the PMI of the
step. It runs on 2 nodes with 2 ranks each. Before that the engine is asked, in a step of the same shape, what
it will do (``fairlead plan``): that is the *verdict*. The *outcome* is read from what the ranks tell
(tests/bed/mpi_programs/report.c). A cell is well if verdict and outcome agree:

- ``host``: four ranks in one world, right results, and only libraries of that installation are mapped;
- ``image``: the same with only the image's own libraries;
- ``refused``: exit status 125 and one line before MPI starts on any rank; where the plan did not refuse, the line is about
  the step's PMI.

Everything else is a surprise: a crash, a hang, singletons, another library than the one named, a world
of two libraries, a line on stderr that Fairlead did not write. Nothing here knows what the engine
*should* decide.
"""

from __future__ import annotations

import json
import re
from typing import NamedTuple

from mpi_cells import Cell

LIMIT_S = 60.0
TASKS = 4
# Ways in which the plan says whose MPI runs.
WORDS = (
    (
        "host",
        re.compile(r"(the )?host('s)? .*?(replaces the image's (?P<image>.*)|injected|stands in)"),
    ),
    ("image", re.compile(r"the image's own (?P<image>.*) runs")),
    ("none", re.compile(r"no MPI in the image|the image holds no MPI")),
)
ABI_NAMES = {"openmpi": "OpenMPI", "mpich": "MPICH", "abi": "MPI ABI"}
RANK = re.compile(
    r"cell language=\S+ rank=(?P<rank>-?\d+) size=(?P<size>\d+) node=(?P<node>\S+) sum=(?P<sum>\w+)"
    r" ring=(?P<ring>\w+) own=(?P<own>\d+) other=(?P<other>\d+) id=(?P<id>\w+)"
    r" library=(?P<library>\S+) version=(?P<version>.*)"
)
# What old libraries say of a machine without RDMA, in a container or not: UCX 1.10.
MACHINE_LINES = (re.compile(r".*pml_ucx\.c:\d+ +Error: Failed to create UCP worker"),)
# By name means by the code of errors.MpiError: a registry that does not answer refuses, too.
MPI_ERROR = "fairlead: error [mpi"
# Slurm's words when a task ends badly; they tell nothing that the exit status does not.
SLURM_LINES = ("srun: ", "slurmstepd: ", "slurmstepd-")


class Host(NamedTuple):
    """An installation: its version, the build-ids of its MPI libraries, what its module sets."""

    version: str
    ids: frozenset[str]
    module: tuple[tuple[str, str], ...]


class Verdict(NamedTuple):
    """What the engine said before the launch: ``host``, ``image``, ``none``, ``refused``, or ``unclear``."""

    choice: str
    reason: str


class Step(NamedTuple):
    """What a step left: exit status (None after the time limit), stdout, stderr."""

    status: int | None
    stdout: str
    stderr: str


class Result(NamedTuple):
    """A cell that was run. ``outcome`` is ``host``, ``image``, ``refused`` or ``SURPRISE``."""

    cell: Cell
    verdict: Verdict
    outcome: str
    detail: str
    library: str
    seconds: float


def read_verdict(step: Step, abi: str, mode: str = "auto") -> Verdict:
    """Read a verdict from the output of ``fairlead plan --json``, or from why it refused.

    Args:
        step: what the plan left.
        abi: the ABI that the cell's program is compiled for, ``openmpi``, ``mpich`` or ``abi``.
        mode: the cell's --container-mpi.
    """
    errors = _errors(step)
    if step.status and errors and MPI_ERROR in errors[0]:
        return Verdict("refused", _reason(errors[0]))
    try:
        lines = json.loads(step.stdout)["reasons"]["mpi"]
    except (ValueError, KeyError, TypeError):
        return Verdict(
            "unclear", f"exit status {step.status}: {(step.stderr or step.stdout)[:200]}"
        )
    told = [
        (choice, line, match.groupdict().get("image") or "")
        for line in lines
        for choice, pattern in WORDS
        if (match := pattern.match(line))
    ]
    # An image with libraries of several ABIs has a line for each; the program uses one.
    told.sort(key=lambda item: not item[2].startswith(ABI_NAMES[abi]))
    if told:
        return Verdict(*told[0][:2])
    if mode == "image" and not lines:
        return Verdict("image", "the image's own MPI runs: asked for")
    return Verdict("unclear", "; ".join(lines) or "the plan says nothing of MPI")


def judge(verdict: Verdict, step: Step, there: Host) -> tuple[str, str]:
    """Return the outcome and, for a refusal or a surprise, what it was.

    Args:
        verdict: what the engine said.
        step: what the step left.
        there: the installation that the user selected.
    """
    errors = _errors(step)
    if step.status == 125 and len(errors) == 1 and MPI_ERROR in errors[0] and not step.stdout:
        # The plan says whose MPI runs and, beside it, what becomes of it under this PMI.
        if verdict.choice != "refused" and "--mpi=" not in errors[0]:
            return "SURPRISE", f"refused: {_reason(errors[0])}"
        return "refused", _reason(errors[0])
    surprise = _surprise(verdict, step, there)
    return ("SURPRISE", surprise) if surprise else (verdict.choice, "")


def _surprise(verdict: Verdict, step: Step, there: Host) -> str:
    ranks = [match.groupdict() for match in RANK.finditer(step.stdout)]
    words = _first_words(step)
    if step.status is None:
        return f"hangs (more than {LIMIT_S:.0f} s; {len(ranks)} of {TASKS} ranks told): {words}"
    if ranks and all(rank["size"] == "1" for rank in ranks):
        return f"{len(ranks)} worlds of 1"
    if step.status or len(ranks) != TASKS:
        return f"exit status {step.status}, {len(ranks)} of {TASKS} ranks told: {words}"
    return (
        _wrong_result(ranks)
        or _wrong_library(verdict, ranks, there)
        or (f"noise: {_noise(step)[0]}" if _noise(step) else "")
    )


def _wrong_result(ranks: list[dict[str, str]]) -> str:
    if sorted(rank["rank"] for rank in ranks) != [str(n) for n in range(TASKS)]:
        return f"ranks {sorted(rank['rank'] for rank in ranks)}"
    if any(rank["size"] != str(TASKS) for rank in ranks):
        return f"worlds of {sorted({rank['size'] for rank in ranks})}"
    if len({rank["node"] for rank in ranks}) != 2:
        return f"ran on {sorted({rank['node'] for rank in ranks})}"
    wrong = [name for name in ("sum", "ring") for rank in ranks if rank[name] == "wrong"]
    return f"wrong {wrong[0]}" if wrong else ""


def _wrong_library(verdict: Verdict, ranks: list[dict[str, str]], there: Host) -> str:
    whose = "; ".join(
        sorted(
            {
                f"{rank['version']} from {rank['library']} (build-id {rank['id'][:12]})"
                for rank in ranks
            }
        )
    )
    mixed = any(int(rank["own"]) and int(rank["other"]) for rank in ranks)
    if mixed:
        return f"libraries of the image and of the host in one process: {whose}"
    if verdict.choice == "image":
        return f"not the image's own: {whose}" if any(int(rank["other"]) for rank in ranks) else ""
    if verdict.choice == "host":
        if any(int(rank["own"]) for rank in ranks):
            return f"not the host's: {whose}"
        known = all(rank["id"] in (there.ids or {"none"}) for rank in ranks)
        named = all(_has_version(rank["version"], there.version) for rank in ranks)
        return "" if known and named else f"not the installation that was selected: {whose}"
    return f"no verdict ({verdict.reason}), and this ran: {whose}"


def _has_version(text: str, version: str) -> bool:
    return (
        re.search(rf"(?<![\d.]){re.escape(version)}(?![\d.])", text.replace("v", " ")) is not None
    )


def _errors(step: Step) -> list[str]:
    return [line for line in step.stderr.splitlines() if "fairlead: error" in line]


def _reason(line: str) -> str:
    """Return an error without the node's and the image's names, which the cell has."""
    text = line.partition("fairlead: error ")[2]
    return re.sub(r"\S+/demo/(mpi-[a-z0-9-]+):1(?:@sha256:\w+)?", r"\1", text)


def _noise(step: Step) -> list[str]:
    return [
        line
        for line in step.stderr.splitlines()
        if line.strip()
        and "fairlead: " not in line
        and not line.startswith(SLURM_LINES)
        and not any(pattern.match(line) for pattern in MACHINE_LINES)
    ]


def _first_words(step: Step) -> str:
    lines = [line for line in _noise(step) if any(c.isalpha() for c in line)]
    said = lines or step.stderr.splitlines() or ["no word"]
    return said[0][:200]
