"""Running cells of the MPI matrix on the bed's cluster, and keeping what came of them.

Before a cell's program runs in its container, the engine is asked in a step of the same shape what it will do.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import re
import signal
import subprocess
import time
import warnings
from collections.abc import Iterable, Mapping

import jobs
from mpi_cells import HOSTS, NATIVE, Cell
from mpi_judge import LIMIT_S, RANK, TASKS, Host, Result, Step, Verdict, judge, read_verdict

PREFIXES = "/opt/fairlead-bed/mpi"


# -- the host -------------------------------------------------------------------------------


@functools.cache
def host(name: str) -> Host:
    """Describe an installation by its own files."""
    if name in NATIVE.values():
        family = name.partition("-")[2]
        package = {"openmpi": "libopenmpi3", "mpich": "libmpich12"}[family]
        shown = _run("dpkg-query", "-W", "-f", "${Version}", package)
        directory = "/usr/lib/x86_64-linux-gnu"
        wanted = re.compile(
            r"libmpi\.so\.40|libmpi_\w+\.so\.40" if family == "openmpi" else r"libmpich\w*\.so"
        )
        return Host(re.split(r"[+~-]", shown)[0], _build_ids(directory, wanted), ())
    prefix = f"{PREFIXES}/{name}"
    with (
        open(f"{prefix}/version", encoding="utf-8") as version,
        open(f"{prefix}/module", encoding="utf-8") as module,
    ):
        variables = tuple(tuple(line.rstrip("\n").split("=", 1)) for line in module)
        return Host(
            version.read().split()[1],
            _build_ids(f"{prefix}/lib", re.compile(r"lib(mpi|open_mpi)\w*\.so\.\d")),
            tuple((key, value) for key, value in variables),
        )


def _build_ids(directory: str, wanted: re.Pattern[str]) -> frozenset[str]:
    paths = [f"{directory}/{name}" for name in os.listdir(directory) if wanted.match(name)]
    notes = _run("readelf", "-n", *paths)
    return frozenset(re.findall(r"Build ID: (\w+)", notes))


def _run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


# -- running --------------------------------------------------------------------------------


def run(cell: Cell) -> Result:
    """Ask the engine, run the cell, compare."""
    begin = time.monotonic()
    selected = host(cell.host)
    verdict = ask(cell, selected.module)
    step = launch(cell, selected.module)
    outcome, detail = judge(verdict, step, may_run(cell))
    ranks = [match["library"] for match in RANK.finditer(step.stdout)]
    seconds = round(time.monotonic() - begin, 1)
    return Result(cell, verdict, outcome, detail, ranks[0] if ranks else "", seconds)


def may_run(cell: Cell) -> Host:
    """Return the installation that the host's MPI must be, if it is the host's that runs.

    The one that the user selected; where that is of the other family, this machine's of the image's.
    """
    own = cell.host in HOSTS[cell.family] or cell.program == "abi"
    return host(cell.host if own else NATIVE[cell.family])


def ask(cell: Cell, module: Iterable[tuple[str, str]]) -> Verdict:
    """Return what ``fairlead plan`` says on the first rank of a step of the same shape."""
    plan = (
        "fairlead",
        "plan",
        "--json",
        "--pull=newer",
        f"--mpi={cell.mode}",
        _reference(cell),
        *cell.command,
    )
    script = 'test "$SLURM_PROCID" = 0 || exit 0; exec "$@"'
    step = _step(cell, ("sh", "-c", script, "plan", *plan), module)
    return read_verdict(step, cell.abi, cell.mode)


def _reference(cell: Cell) -> str:
    return f"{jobs.REGISTRY}/demo/{cell.image}:1"


def launch(cell: Cell, module: Iterable[tuple[str, str]]) -> Step:
    """Run the cell's program in its container; once more after OpenMPI 4's own null call (see ``jobs.srun``)."""
    options = [f"--container={_reference(cell)}"]
    options += [f"--container-mpi={cell.mode}"] if cell.mode != "auto" else []
    step = _step(cell, cell.command, module, options)
    if step.status == 139 and jobs.NULL_CALL.search(step.stderr):
        warnings.warn(f"{cell.name}: run again after a null call: {step.stderr}", stacklevel=2)
        step = _step(cell, cell.command, module, options)
    return step


_numbers = itertools.count()


def _step(
    cell: Cell,
    command: Iterable[str],
    module: Iterable[tuple[str, str]],
    options: Iterable[str] = (),
) -> Step:
    """Run a step of the matrix's shape, and cancel it when it hangs."""
    job = f"matrix-{os.getpid()}-{next(_numbers)}"
    shape = (f"--mpi={cell.pmi}", "-N2", f"-n{TASKS}", f"--job-name={job}")
    process = jobs.start("srun", *shape, *options, *command, **dict(module))
    try:
        stdout, stderr = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        jobs.run("scancel", "--signal=KILL", f"--name={job}", f"--user={jobs.USER.pw_name}")
        jobs.run("scancel", f"--name={job}", f"--user={jobs.USER.pw_name}")
        process.send_signal(signal.SIGKILL)
        stdout, stderr = process.communicate()
        return Step(None, stdout, stderr)
    return Step(process.returncode, stdout, stderr)


# -- keeping --------------------------------------------------------------------------------


def save(path: str, results: Mapping[str, Result]) -> None:
    """Write results as JSON, whole or not at all."""
    with open(f"{path}.new", "w", encoding="utf-8") as file:
        rows = {name: result._asdict() for name, result in sorted(results.items())}
        for row in rows.values():
            row["cell"], row["verdict"] = row["cell"]._asdict(), row["verdict"]._asdict()
        json.dump(rows, file, indent=1)
    os.replace(f"{path}.new", path)


def load(path: str) -> dict[str, Result]:
    """Read what ``save`` wrote; nothing if there is no such file."""
    try:
        with open(path, encoding="utf-8") as file:
            rows = json.load(file)
    except FileNotFoundError:
        return {}
    return {
        name: Result(
            Cell(**row["cell"]),
            Verdict(**row["verdict"]),
            row["outcome"],
            row["detail"],
            row["library"],
            row["seconds"],
        )
        for name, row in rows.items()
    }
