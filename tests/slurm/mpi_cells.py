"""The cells of the MPI matrix: which images, installations of the host, programs and PMIs are put together.

See mpi_judge for what is asked of a cell and mpi_matrix for how it is run.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

SUITES = ("bullseye", "bookworm", "trixie", "sid")
FAMILIES = ("openmpi", "mpich")
NATIVE = {"openmpi": "bookworm-openmpi", "mpich": "bookworm-mpich"}
HOSTS = {
    "openmpi": (
        "bookworm-openmpi",
        "openmpi-4.1.8",
        "openmpi-5.0.11",
        "trixie-openmpi",
        "sid-openmpi",
    ),
    "mpich": ("bookworm-mpich", "mpich-4.3.2", "mpich-5.0.2", "trixie-mpich", "sid-mpich"),
}
PMIS = ("pmix", "pmi2")
FITTING_PMI = {"openmpi": "pmix", "mpich": "pmi2"}
LANGUAGES = ("c", "fortran", "c++", "bindings")
# Where mpi_programs/build finds C++ bindings to compile against.
BINDINGS = {
    (suite, family)
    for suite, family in itertools.product(SUITES, FAMILIES)
    if family == "mpich" or suite in ("bullseye", "bookworm")
}
# What users' scripts do to the environment (HOME stays: without it OpenMPI 5 ends with 14, in a container or not);
# /opt/mpi/private holds a copy of the image's own library.
WRAPPERS = {
    "reset": "LD_LIBRARY_PATH=/opt/mpi/nowhere exec /opt/mpi/c",
    "astray": "LD_LIBRARY_PATH=/opt/mpi/private exec /opt/mpi/c",
    "cleared": "exec env -i $(env | grep -E '^(PMI|SLURM|OMPI_|HOME=)' | grep -v ' ') /opt/mpi/c",
}
SPECIALS = (
    "f08",
    "rpath",
    "runpath",
    "private-rpath",
    "absolute",
    "opened",
    "topology",
    "setuid",
    *WRAPPERS,
)


class Cell(NamedTuple):
    """One case. ``host`` is a name of tests/bed/mpi_hosts or one of ``NATIVE``; ``mode`` is --container-mpi."""

    suite: str
    family: str
    host: str
    program: str
    pmi: str
    mode: str = "auto"

    @property
    def name(self) -> str:
        """A name that is a test id and that --only matches."""
        mode = "" if self.mode == "auto" else f"-{self.mode}"
        return f"{self.suite}-{self.family}/{self.program}/{self.host}/{self.pmi}{mode}"

    @property
    def image(self) -> str:
        """The image's name in tests/bed/mpi_images."""
        kind = "python" if self.program == "mpi4py" else self.family
        return f"mpi-{self.suite}-{kind}"

    @property
    def abi(self) -> str:
        """What its program is compiled for: a family's own ABI, or MPI's standard one."""
        return "abi" if self.program == "abi" else self.family

    @property
    def command(self) -> tuple[str, ...]:
        """What runs in the container."""
        if self.program in WRAPPERS:
            return "sh", "-c", WRAPPERS[self.program]
        if self.program == "mpi4py":
            return "python3", "/opt/mpi/ring.py"
        return (f"/opt/mpi/{self.program}",)


def cells() -> tuple[Cell, ...]:
    """Return every cell, in the order of the table."""
    return tuple(
        cell
        for suite, family in itertools.product(SUITES, FAMILIES)
        for cell in (*_of_languages(suite, family), *_of_specials(suite, family))
    )


def _of_languages(suite: str, family: str) -> list[Cell]:
    programs = [name for name in LANGUAGES if name != "bindings" or (suite, family) in BINDINGS]
    programs += ["mpi4py"] if family == "openmpi" else []
    found = [
        Cell(suite, family, host, program, pmi)
        for host, program, pmi in itertools.product(HOSTS[family], programs, PMIS)
    ]
    # An installation of the other family is selected: it cannot stand in, whatever else is there.
    other = "mpich" if family == "openmpi" else "openmpi"
    return [*found, Cell(suite, family, HOSTS[other][2], "c", FITTING_PMI[family])]


def _of_specials(suite: str, family: str) -> list[Cell]:
    host, pmi = NATIVE[family], FITTING_PMI[family]
    found = [Cell(suite, family, host, program, pmi) for program in SPECIALS]
    found += [Cell(suite, family, host, "c", pmi, mode) for mode in ("host", "image")]
    if suite == "sid":
        found += [
            Cell(suite, family, name, "abi", FITTING_PMI[kind])
            for kind in FAMILIES
            for name in HOSTS[kind]
        ]
    return found


# What CI runs: Debian 11 and 12 only, each kind of verdict at least once.
QUICK = (
    Cell("bookworm", "openmpi", "bookworm-openmpi", "c", "pmix"),
    Cell("bookworm", "openmpi", "bookworm-openmpi", "fortran", "pmix"),
    Cell("bookworm", "openmpi", "bookworm-openmpi", "bindings", "pmix"),
    Cell("bookworm", "openmpi", "bookworm-openmpi", "mpi4py", "pmix"),
    Cell("bookworm", "openmpi", "bookworm-openmpi", "c", "pmix", "image"),
    Cell("bookworm", "openmpi", "openmpi-5.0.11", "c", "pmix"),
    Cell("bookworm", "openmpi", "mpich-5.0.2", "c", "pmix"),
    Cell("bullseye", "openmpi", "bookworm-openmpi", "c++", "pmix"),
    Cell("bullseye", "openmpi", "bookworm-openmpi", "c", "pmix", "host"),
    Cell("bookworm", "mpich", "bookworm-mpich", "c", "pmi2"),
    Cell("bookworm", "mpich", "bookworm-mpich", "absolute", "pmi2"),
    Cell("bookworm", "mpich", "bookworm-mpich", "opened", "pmi2"),
    Cell("bookworm", "mpich", "mpich-5.0.2", "c", "pmi2"),
    Cell("bullseye", "mpich", "bookworm-mpich", "fortran", "pmi2"),
    Cell("bullseye", "mpich", "bookworm-mpich", "c", "pmi2", "host"),
)
